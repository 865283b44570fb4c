"""Building of a text store's index: its ids, lengths and images as arrays.

The JSON files are read piece by piece, so that the index of ten million texts can be built in memory.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from toolz import partition_all

from data.side_files import LENGTH, PICTURES, Rule, bad_value, encoded
from utils.errors import InputError
from utils.files import open_text
from utils.json_text import decoder, parsing

CHUNK = 100_000  # JSON items that are Python objects at one time
TEXT = 1 << 22  # characters of JSON in memory at one time; an item must be shorter than a quarter of it
KEY = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*:\s*')
NEXT = re.compile(r"\s*([,}])")


def text_columns(
    folder: Path, lengths: str, keys: Iterator[bytes], record: Callable[[bytes], dict[str, Any]]
) -> dict[str, np.ndarray]:
    """Build the index of the text store `folder`, of n texts and m distinct images, k images for each text.

    `ids` (n,) bytes, in the order of the file `lengths`; `lens` (n,) int32, in word pieces; `img_names` (m,) bytes,
    sorted; `img_index` (n, k) int32, rows of `img_names`. `keys`: all keys of the LMDB, every id among them. `record`
    reads the record of a key; it is called for image names only where `txt2img.json` does not exist. `InputError` when
    a file is missing or malformed, or the files do not fit together.
    """
    file, names_file = folder / lengths, folder / "txt2img.json"
    ids, lens = _table(file, LENGTH, lambda value: [value])
    _check_ids(file, ids, folder / "data.mdb", keys)
    number: dict[str, int] = {}  # a number for each distinct image name, in order of appearance
    if names_file.exists():
        text_ids, pictures = _table(names_file, PICTURES, lambda value: _numbers(value, number))
        if not np.array_equal(text_ids, ids):
            pictures = pictures[_places(names_file, text_ids, ids)]
    else:
        named = ((key.decode(), record(key).get("img_fname")) for key in ids)
        pictures = _table(folder / "data.mdb", PICTURES, lambda value: _numbers(value, number), named)[1]
    names = encoded(list(number), names_file if names_file.exists() else folder / "data.mdb")
    order = np.argsort(names)
    place = np.empty(len(names), np.int32)
    place[order] = np.arange(len(names), dtype=np.int32)
    return {"ids": ids, "lens": lens[:, 0], "img_names": names[order], "img_index": place[pictures]}


def json_items(file: Path) -> Iterator[tuple[str, Any]]:
    """Iterate over the keys and values of a JSON object, in the file's order, without loading the whole file.

    `InputError` when the file does not exist or is not a JSON object.
    """
    decode = decoder().raw_decode
    with parsing(file), open_text(file) as stream:
        text = stream.read(TEXT).lstrip()
        position, at_end = 1, False
        if not text.startswith("{"):
            raise ValueError("the file does not begin with {")
        if text[1:].lstrip() == "}":
            return
        while True:
            if len(text) - position < TEXT // 4 and not at_end:
                more = stream.read(TEXT)
                text, position, at_end = text[position:] + more, 0, not more
            key = KEY.match(text, position)
            if key is None:
                raise ValueError(f"expected a key and a value, found {text[position : position + 40]!r}")
            value, position = decode(text, key.end())
            yield json.loads(key[1]), value
            after = NEXT.match(text, position)
            if after is None:
                raise ValueError(f"expected a comma, found {text[position : position + 40]!r}")
            if after[1] == "}":
                if text[after.end() :].strip() or stream.read(TEXT).strip():
                    raise ValueError("more text after the last }")
                return
            position = after.end()


def _table(
    file: Path, rule: Rule, numbers: Callable[[Any], list[int]], items: Iterator[tuple[str, Any]] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a JSON object, (n,) bytes, and the k numbers that `numbers` makes of each value, (n, k) int32.

    `items`: the keys and values; default: those of `file`. `InputError` when a value does not follow `rule`, or gives
    another number of numbers than the first one.
    """
    keys: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    for chunk in partition_all(CHUNK, json_items(file) if items is None else items):
        names, values = zip(*chunk)
        if not all(map(rule.fits, values)):
            bad = next(i for i, value in enumerate(values) if not rule.fits(value))
            place = f"{names[bad]} (entry {len(keys) * CHUNK + bad + 1})"
            raise bad_value(file, place, values[bad], rule.expected)
        lists = [numbers(value) for value in values]
        width = rows[0].shape[1] if rows else len(lists[0])
        if any(len(row) != width for row in lists):
            bad = next(i for i, row in enumerate(lists) if len(row) != width)
            place = f"{names[bad]} (entry {len(keys) * CHUNK + bad + 1})"
            raise bad_value(file, place, values[bad], f"images of each text: {width}, as for the first text")
        keys.append(encoded(names, file))
        rows.append(np.array(lists, np.int32))
    if not keys:
        raise InputError(
            "the text store has no texts",
            file=file,
            found="no entries",
            expected="one or more",
            remedy="prepare it again",
        )
    return np.concatenate(keys), np.concatenate(rows)


def _check_ids(file: Path, ids: np.ndarray, lmdb_file: Path, keys: Iterator[bytes]) -> None:
    """`InputError` unless `ids` (n,), from `file`, are all different and among `keys`, the sorted keys of the LMDB."""
    stored_ids = np.concatenate([np.array(chunk) for chunk in partition_all(CHUNK, keys)] or [ids[:0]])
    places = np.minimum(np.searchsorted(stored_ids, ids), max(len(stored_ids) - 1, 0))
    absent = ids[stored_ids[places] != ids] if len(stored_ids) else ids
    if len(absent):
        raise InputError(
            "the file of lengths lists texts that the LMDB does not have",
            file=file,
            key=", ".join(key.decode() for key in absent[:3]),
            found=f"{len(absent):,} of {len(ids):,} ids are not in {lmdb_file}",
            expected="every id in data.mdb",
            remedy="copy the whole folder again, or prepare it again",
        )
    counts = np.bincount(places)
    if counts.max() > 1:
        twin = stored_ids[int(counts.argmax())].decode()
        raise _two_entries(file, twin)


def _numbers(names: Any, number: dict[str, int]) -> list[int]:
    """The numbers of a text's images, where a new name gets the next number."""
    return [number.setdefault(name, len(number)) for name in ([names] if isinstance(names, str) else names)]


def _places(file: Path, keys: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The position in `keys` of each of `ids`; `InputError` when an id is not among them."""
    order = np.argsort(keys)
    twins = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    if len(twins):
        raise _two_entries(file, keys[order[twins[0]]].decode())
    places = order[np.minimum(np.searchsorted(keys, ids, sorter=order), len(keys) - 1)]
    absent = ids[keys[places] != ids]
    if len(absent):
        raise InputError(
            f"{len(absent):,} texts have no image",
            file=file,
            key=absent[0].decode(),
            found="no entry for the text",
            expected="the name of an image",
            remedy="copy the whole folder again, or prepare it again",
        )
    return places


def _two_entries(file: Path, id_: str) -> InputError:
    return InputError(
        "a text has two entries",
        file=file,
        key=id_,
        expected="one entry for each text",
        remedy="copy the store again, or prepare it again",
    )
