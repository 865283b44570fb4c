"""Building of a text store's index: its ids, lengths and images as arrays.

The JSON files are read piece by piece, so that the index of ten million texts can be built in memory.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from toolz import partition_all

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
    ids, lens = _table(file, lambda value: [value] if type(value) is int and value >= 0 else None, np.int32)
    stored_ids = np.concatenate([np.array(chunk) for chunk in partition_all(CHUNK, keys)] or [ids[:0]])
    absent = ids[~np.isin(ids, stored_ids)]
    del stored_ids
    if len(absent):
        raise InputError(
            "the file of lengths lists texts that the LMDB does not have",
            file=file,
            key=", ".join(key.decode() for key in absent[:3]),
            found=f"{len(absent):,} of {len(ids):,} ids are not in {folder / 'data.mdb'}",
            expected="every id in data.mdb",
            remedy="copy the whole folder again, or prepare it again",
        )
    number: dict[str, int] = {}  # a number for each distinct image name, in order of appearance
    if names_file.exists():
        text_ids, pictures = _table(names_file, lambda value: _numbers(value, number), np.int32)
        if not np.array_equal(text_ids, ids):
            pictures = pictures[_places(names_file, text_ids, ids)]
    else:
        pictures = _rows((_numbers(record(key).get("img_fname"), number) for key in ids), folder / "data.mdb", np.int32)
    with parsing(names_file):
        names = np.array([name.encode() for name in number])
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


def _table(file: Path, numbers: Callable[[Any], list[int] | None], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a JSON object, (n,) bytes, and the k numbers that `numbers` makes of each value, (n, k)."""
    keys: list[np.ndarray] = []

    def values() -> Iterator[list[int] | None]:
        for chunk in partition_all(CHUNK, json_items(file)):
            keys.append(np.array([key.encode() for key, _ in chunk]))
            yield from (numbers(value) for _, value in chunk)

    with parsing(file):
        rows = _rows(values(), file, dtype)
        table = np.concatenate(keys)
    distinct = np.unique(table)
    if len(distinct) != len(table):
        raise InputError(
            "a text has two entries",
            file=file,
            key=next(key for key, count in Counter(table.tolist()).items() if count > 1).decode(),
            found=f"{len(table):,} entries of {len(distinct):,} texts",
            expected="one entry for each text",
            remedy="copy the store again, or prepare it again",
        )
    return table, rows


def _rows(rows: Iterator[list[int] | None], file: Path, dtype: Any) -> np.ndarray:
    """The array (n, k) of n lists of k numbers each; `InputError` when a list is None or of another length."""
    parts: list[np.ndarray] = []
    for chunk in partition_all(CHUNK, rows):
        width = parts[0].shape[1] if parts else len(chunk[0] or ())
        bad = next((i for i, row in enumerate(chunk) if row is None or len(row) != width), None)
        if bad is not None:
            raise InputError(
                "a text lacks its length or image name, or has another number of image names than the first text",
                file=file,
                key=f"entry {len(parts) * CHUNK + bad + 1}",
                expected="for each text a length of 0 or more, and one image name, or two",
                remedy="copy the store again, or prepare it again",
            )
        parts.append(np.array(chunk, dtype))
    if not parts:
        raise InputError(
            "the text store has no texts",
            file=file,
            found="no entries",
            expected="one or more",
            remedy="prepare it again",
        )
    return np.concatenate(parts)


def _numbers(names: Any, number: dict[str, int]) -> list[int] | None:
    """The numbers of a text's images, where a new name gets the next number; None when `names` are not names."""
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    return [number.setdefault(name, len(number)) for name in names]


def _places(file: Path, keys: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The position in `keys` of each of `ids`; `InputError` when an id is not among them."""
    order = np.argsort(keys)
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
