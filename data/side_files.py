"""Types and ranges of the values in the JSON files beside a store, in one table, and of its keys.

Values are checked where they are read, in one pass, so that ten million texts need no second one.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import InputError
from utils.files import read_json

MAX_KEY = 511  # bytes of a key in an LMDB
MAX_LENGTH = 1_000_000  # word pieces of a text
MAX_REGIONS = 10_000  # of an image
MAX_SIDE = 1_000_000  # pixels of an image's side
MAX_TOKEN = 10_000_000  # the largest id of a word piece
CONTROL = re.compile(rb"[\0-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")  # in UTF-8, the line breaks of Unicode too
COPY_AGAIN = "copy the whole folder of the store again, or prepare it again"


class Rule(NamedTuple):
    """What a value of a side file must be: a test, and the same in words."""

    fits: Callable[[Any], bool]
    expected: str


def whole(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    """A test for whole numbers from `low` to `high`; neither true nor 5.0 nor "5" is one."""
    return lambda value: type(value) is int and low <= value <= high


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def is_box(value: Any, empty: bool = False) -> bool:
    """Whether a value is a box: four numbers x, y, w, h, with w and h above 0, or with `empty` also 0."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
        return False
    return min(value[2:]) > 0 or (empty and min(value[2:]) == 0)


def is_name(value: Any) -> bool:
    """Whether a value is the name of an image, or a list of such names."""
    return (isinstance(value, str) and value != "") or is_list(is_name_text)(value)


def is_name_text(value: Any) -> bool:
    """Whether a value is a text that is not empty."""
    return isinstance(value, str) and value != ""


def is_list(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A test for lists of one or more values that pass the test `fits`."""
    return lambda value: isinstance(value, list) and len(value) > 0 and all(map(fits, value))


LENGTH = Rule(whole(0, MAX_LENGTH), f"a length in word pieces: a whole number, 0 to {MAX_LENGTH:,}")
REGIONS = Rule(whole(1, MAX_REGIONS), f"a number of regions: a whole number, 1 to {MAX_REGIONS:,}")
PICTURES = Rule(is_name, "the name of an image, or a list of such names")
TEXTS = Rule(is_list(is_name_text), "a list of one or more text ids, each a text")
TOKEN = Rule(whole(0, MAX_TOKEN), f"the id of a word piece: a whole number, 0 to {MAX_TOKEN:,}")
NUMBER = Rule(whole(0, 2**63 - 1), "a whole number, 0 or more, of at most 64 bits")
SIDE = Rule(lambda value: is_number(value) and 0 < value <= MAX_SIDE, f"pixels: a number above 0, at most {MAX_SIDE:,}")
BOX = Rule(lambda value: is_box(value, empty=True), "x, y, w, h in pixels: four numbers, w and h not below 0")
ANN_IDS = Rule(lambda value: value == [] or is_list(whole(0))(value), "a list of annotation ids, whole numbers")

# The fields of each entry in the files that are lists of entries: those of referring expressions.
FIELDS: dict[str, dict[str, Rule]] = {
    "images.json": {"id": NUMBER, "ann_ids": ANN_IDS, "width": SIDE, "height": SIDE},
    "annotations.json": {"id": NUMBER, "image_id": NUMBER, "bbox": BOX},
    "refs.json": {"ref_id": NUMBER, "ann_id": NUMBER, "image_id": NUMBER},
    "categories.json": {"id": NUMBER},
}


def bad_value(file: Path, key: object, value: Any, expected: str) -> InputError:
    """The error for a value of a side file."""
    return InputError(
        "a value in a file beside the store is not what it must be",
        file=file,
        key=key,
        found=quoted(value),
        expected=expected,
        remedy=COPY_AGAIN,
    )


def quoted(value: Any) -> str:
    """A value in a message: as in Python, at most 200 characters; a huge whole number by its size."""
    if type(value) is int and abs(value) >= 1 << 256:
        return f"a whole number of {value.bit_length()} bits"
    return repr(value)[:200]


def check_values(file: Path, content: Any, rule: Rule) -> None:
    """`InputError` unless `content` is a map whose values all follow `rule`."""
    if not isinstance(content, dict):
        raise bad_value(file, "the whole file", content, f'{{"KEY": VALUE, …}}, each value {rule.expected}')
    for key, value in content.items():
        if not rule.fits(value):
            raise bad_value(file, key, value, rule.expected)


def read_entries(file: Path) -> list[dict[str, Any]]:
    """Read a list of entries, with the fields that `FIELDS` gives for the file's name; `InputError` otherwise."""
    content, fields = read_json(file), FIELDS[file.name]
    if not isinstance(content, list):
        raise bad_value(file, "the whole file", content, f"a list of entries with {', '.join(fields)}")
    for number, entry in enumerate(content, 1):
        if not isinstance(entry, dict):
            raise bad_value(file, f"entry {number}", entry, f"a map with {', '.join(fields)}")
        for name, rule in fields.items():
            if not rule.fits(entry.get(name)):
                raise bad_value(file, f"entry {number}: {name}", entry.get(name, "no such field"), rule.expected)
    id_key = next(iter(fields))
    ids = [entry[id_key] for entry in content]
    if len(set(ids)) < len(ids):
        twin = next(id_ for id_, count in Counter(ids).items() if count > 1)
        raise bad_value(file, f"{id_key} {twin}", f"{ids.count(twin)} entries", "one entry for each")
    return content


def encoded(names: Sequence[str], file: Path) -> np.ndarray:
    """Ids or image names as keys of an LMDB, (n,) bytes; `InputError` when one cannot be a key."""
    try:
        keys = [name.encode() for name in names]
    except UnicodeEncodeError as error:
        raise bad_key(file, error.object) from None
    check_keys(keys, file)
    return np.array(keys)


def check_keys(keys: Sequence[bytes], file: Path) -> None:
    """`InputError` unless all keys have 1 to 511 bytes without control characters.

    A zero byte would be lost in an array, a line break would break a line of results in two.
    """
    sizes = [len(key) for key in keys]
    if keys and (min(sizes) == 0 or max(sizes) > MAX_KEY or CONTROL.search(b" ".join(keys))):
        raise bad_key(file, next(key for key in keys if not 0 < len(key) <= MAX_KEY or CONTROL.search(key)))


def bad_key(file: Path, key: str | bytes) -> InputError:
    """The error for an id or image name that cannot be a key."""
    text = key if isinstance(key, str) else key.decode(errors="backslashreplace")
    return InputError(
        "an id or the name of an image cannot be a key of a store",
        file=file,
        key=ascii(text)[:100],
        found=f"{len(text):,} characters"
        + (", a control character among them" if CONTROL.search(text.encode(errors="ignore")) else ""),
        expected=f"1 to {MAX_KEY} bytes of UTF-8 without a zero byte, a line break or another control character",
        remedy="give it another id or name, and prepare the store again",
    )


def check_meta(file: Path, meta: Any) -> None:
    """`InputError` unless the vocabulary in `meta`, the content of a meta.json or vocab.json, makes sense.

    Special tokens and `v_range` have types and ranges; special tokens differ from each other, and lie in the
    vocabulary, but not among the ordinary word pieces.
    """
    if not isinstance(meta, dict):
        raise bad_value(file, "the whole file", meta, "a map with CLS, SEP, MASK, UNK and v_range")
    special = {name: meta.get(name, "no such field") for name in ("CLS", "SEP", "MASK")}
    if meta.get("UNK") is not None:
        special["UNK"] = meta["UNK"]
    for name, value in special.items():
        if not TOKEN.fits(value):
            raise bad_value(file, name, value, TOKEN.expected)
    bounds = meta.get("v_range", "no such field")
    if not (isinstance(bounds, list) and len(bounds) == 2 and all(map(TOKEN.fits, bounds)) and bounds[0] < bounds[1]):
        expected = "[low, high]: the id of the first ordinary word piece, and the larger size of the vocabulary"
        raise bad_value(file, "v_range", bounds, expected)
    _check_special_tokens(file, special, bounds)
    for name, kind in (
        ("tokenizer", str),
        ("toker", str),
        ("bert", str),
        ("vocab_sha256", str),
        ("do_lower_case", bool),
    ):
        value = meta.get(name)
        if value is not None and not isinstance(value, kind):
            raise bad_value(file, name, value, "text, or no such field" if kind is str else "true or false")


def _check_special_tokens(file: Path, special: Mapping[str, int], bounds: list[int]) -> None:
    low, high = bounds
    for name, value in special.items():
        twin = next((other for other in special if other != name and special[other] == value), None)
        if twin is not None:
            raise bad_value(file, f"{name}, {twin}", value, "different ids for different special tokens")
        if value >= high:
            raise bad_value(file, name, value, f"an id below {high}, the size of the vocabulary by v_range")
        if low <= value:
            raise bad_value(file, name, value, f"not an id of an ordinary word piece, {low} to {high - 1} by v_range")
