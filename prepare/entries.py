"""Readers of JSON and text files, plain or gzipped, and checks of the fields of their entries.

Each `InputError` names the file and the place in it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from prepare.left_out import bad_entry
from utils.errors import InputError
from utils.files import read_utf8
from utils.json_text import parse_json

T = TypeVar("T")
TYPE_NAMES = {str: "text", int: "a whole number", list: "a list", dict: "an object"}
KINDS = {str: "texts", int: "whole numbers", float: "numbers", bool: "truth values", list: "lists", dict: "objects"}
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # line ends, NUL, lone surrogates
DIGITS = re.compile(r"[0-9]{1,18}")
MAX_ID_BYTES = 511  # LMDB's limit for a key
MAX_NUMBER = 2**63  # msgpack and int64 arrays hold smaller whole numbers
MOST_PIXELS = 1_000_000  # of a side of an image
MAX_SHOWN = 80  # characters of a wrong value in an error
MAX_KEYS = 8  # of an object in an error


@dataclass(frozen=True, slots=True)
class Location:
    """The place of an entry or field in a file, for errors: `Location(path, "images", 3)` prints "images[3]"."""

    path: Path
    part: str = ""  # a list, line or field of the file; "": the whole file
    index: int | None = None  # of the entry in that list

    def __str__(self) -> str:
        return self.part if self.index is None else f"{self.part}[{self.index}]"

    def child(self, key: str, index: int | None = None) -> "Location":
        """The location of the field `key` of this entry, or of item `index` in that field."""
        return Location(self.path, f"{self}.{key}".lstrip("."), index)


def json_lines(path: Path) -> Iterator[tuple[Location, Any]]:
    """Read a jsonl file: location ("line 1") and value of every line that is not blank."""
    numbered_lines = lines(path)
    first = list(islice(numbered_lines, 2))
    if first and (first[0][1][0] == "[" or (first[0][1] == "{" and len(first) > 1)):
        raise InputError(
            "the file is not JSON lines",
            file=path,
            key=f"line {first[0][0]}",
            found="a JSON list" if first[0][1][0] == "[" else "a JSON object over several lines",
            expected="one JSON object in each line",
            remedy="write each entry into a line of its own, as the official file has them",
        )
    for number, line in chain(first, numbered_lines):
        location = Location(path, f"line {number}")
        with bad_entry(location):
            yield location, parse_json(line, path, location, half_pairs=True)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read a text file: (line number from 1, line without surrounding white space) of every line that is not blank."""
    for number, encoded in enumerate(read_utf8(path).split(b"\n"), 1):
        with bad_entry(f"line {number}"):
            try:
                line = encoded.decode().strip()
            except UnicodeDecodeError as error:
                key, remedy = f"line {number}", "convert the file to UTF-8"
                raise InputError("the file is not UTF-8 text", file=path, key=key, found=error, remedy=remedy) from None
            if line:
                yield number, line


def take(entry: Any, key: str, expected_type: type[T], location: Location) -> T:
    """`entry[key]`; `InputError` unless it has exactly this type. `location`: the place of `entry` in its file.

    A whole number must fit into 64 bits. Text loses its lone surrogates.
    """
    content = f"an object with the key {key}, {TYPE_NAMES[expected_type]}"
    if not isinstance(entry, dict):
        raise bad_field(location.child(key), entry, content if str(location) else f"at the root of the file, {content}")
    value = entry.get(key)
    if type(value) is not expected_type or (isinstance(value, int) and abs(value) >= MAX_NUMBER):
        if key not in entry and not str(location):
            raise bad_field(location.child(key), entry, f"at the root of the file, {content}")
        raise bad_field(location.child(key), value, TYPE_NAMES[expected_type])
    return encodable(value) if isinstance(value, str) else value  # type: ignore[return-value]


def take_image_id(entry: Any, key: str, location: Location, text: bool = False) -> int:
    """The number of an image, `entry[key]`, from 0; `InputError` otherwise. `text`: it may be written as text."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if text and isinstance(value, str) and DIGITS.fullmatch(value):
        return int(value)
    number = take(entry, key, int, location)
    if number < 0:
        raise bad_field(location.child(key), number, "the number of an image, from 0")
    return number


def take_id(entry: Any, key: str, location: Location, number: bool = False) -> str:
    """The id `entry[key]`, a text that can be a key of a text store; `InputError` otherwise. `number`: or a number."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if number and type(value) is int and abs(value) < MAX_NUMBER:
        return str(value)
    if isinstance(entry, dict) and not isinstance(value, str):
        raise bad_field(location.child(key), value, f"text of 1 to {MAX_ID_BYTES} bytes" + ", or a number" * number)
    take(entry, key, str, location)
    return checked_id(value, location.child(key))


def checked_id(value: Any, location: Location) -> str:
    """The text `value`; `InputError` unless it can be a key of a store: not empty or long, no control characters."""
    if CONTROL.search(value) or not 0 < len(value.encode()) <= MAX_ID_BYTES:
        raise bad_field(location, value, f"text of 1 to {MAX_ID_BYTES} bytes without control characters")
    return str(value)


def take_file_name(entry: Any, key: str, location: Location) -> str:
    """The file name `entry[key]`; `InputError` for another value, and for one that cannot name a file."""
    take(entry, key, str, location)
    name: str = entry[key]
    if not _can_name(name):
        raise bad_field(location.child(key), name, "a file name")
    return name


@lru_cache(maxsize=1 << 16)  # images have several texts
def _can_name(name: str) -> bool:
    return bool(Path(base_name(name)).stem) and not CONTROL.search(name)


def base_name(name: str) -> str:
    """The file name without its folders, of Linux or Windows."""
    return re.split(r"[\\/]", name)[-1]


def encodable(text: str) -> str:
    """`text` without lone surrogates: JSON can hold them, UTF-8 cannot, and the tokeniser drops them anyway."""
    return text if text.isascii() else text.encode(errors="ignore").decode()


def bad_field(location: Location, value: object, expected: str) -> InputError:
    """The `InputError` for a field that is missing (`value` None) or has a wrong value, which is shown in short."""
    return InputError(
        "a field is missing or has a wrong value",
        file=location.path,
        key=location,
        found=described(value),
        expected=expected,
        remedy="use the official file unchanged, or correct this entry",
    )


def contradiction(location: Location, statement: str, expected: str) -> InputError:
    """The `InputError` for an entry that contradicts another one, or another field of its own."""
    return InputError(
        "two statements about one thing contradict each other",
        file=location.path,
        key=location,
        found=statement,
        expected=expected,
        remedy="use official files of one release unchanged, or correct this entry",
    )


def described(value: object) -> str:
    """What a wrong value is, for an error: a number or text as it is, of a list or an object the shape alone."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        keys = ", ".join(str(key)[:MAX_SHOWN] for key in list(value)[:MAX_KEYS])
        more = f" and {len(value) - MAX_KEYS:,} more" if len(value) > MAX_KEYS else ""
        return f"an object with the keys {keys}{more}" if value else "an empty object"
    if isinstance(value, list | tuple):
        if len(value) <= MAX_KEYS and all(isinstance(item, int | float) for item in value):
            return f"[{', '.join(map(described, value))}]"
        kind = KINDS.get(type(value[0]), "items")
        return f"a list of {len(value):,} {kind}" + (f", the first {described(value[0])}" if kind == "objects" else "")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= MAX_NUMBER:
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value[: 2 * MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def check_inside(corners: Sequence[float], size: Sequence[float], location: Location) -> None:
    """`InputError` for a box x1, y1, x2, y2 whose corners are in the wrong order, or which leaves its image.

    `size`: width and height of the image, in pixels. A box may end a little outside: by 10 % of the side, or 5 pixels.
    """
    x1, y1, x2, y2 = corners
    margins = [max(5.0, 0.1 * side) for side in size]
    if x2 < x1 or y2 < y1:
        raise contradiction(location, described(list(corners)), "x1 not above x2, and y1 not above y2")
    if any(low < -margin or high > side + margin for low, high, side, margin in zip((x1, y1), (x2, y2), size, margins)):
        expected = f"a box inside of its image, which is {size[0]} × {size[1]} pixels large"
        raise contradiction(location, f"corners {described(list(corners))}", expected)
