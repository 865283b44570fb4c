"""Records of a text LMDB, and the columns that `TextStore` keeps of all of them."""

from collections.abc import Iterable, Iterator
from typing import Any

import lz4.frame
import msgpack
import numpy as np

from data.lmdb_io import Reader
from utils.errors import InputError
from utils.files import read_json


def decode(reader: Reader, key: bytes) -> dict[str, Any]:
    """The record under `key`."""
    value = reader.get(key)
    if value is None:
        raise record_error(reader, key, "a text is not in the LMDB", "no record", "a record for every id")
    try:
        record = msgpack.unpackb(lz4.frame.decompress(value), raw=False, strict_map_key=False)
    except (ValueError, RuntimeError, TypeError) as error:
        raise record_error(reader, key, "a record is not msgpack in lz4", error, "msgpack in an lz4 frame") from None
    if not isinstance(record, dict):
        raise record_error(reader, key, "a record is not a msgpack map", type(record).__name__, "a map")
    return record


def record_error(reader: Reader, key: bytes, what: str, found: object, expected: object) -> InputError:
    """What is wrong with the text `key`."""
    text = str(found)
    return InputError(
        what,
        file=reader.file,
        key=key.decode(errors="replace"),
        found=text if len(text) < 200 else text[:200] + " …",
        expected=expected,
        remedy="copy the store again, or prepare it again with prepro.py",
    )


def text_columns(reader: Reader, lengths: str) -> dict[str, np.ndarray]:
    """Read the side files in full, compare their ids with the LMDB's, and make the columns, in the file's order.

    ids (n,) bytes, sorted (n,) int32: the order that sorts them, lens (n,) int32, img_names (m,) bytes sorted,
    img_index (n, k) int32.
    """
    file = reader.folder / lengths
    table = read_json(file)
    try:
        ids = np.array([id.encode() for id in table])
        lens = np.fromiter(table.values(), np.int32, len(table))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            "not a table of text lengths", file=file, found=error, expected='{"ID": NUMBER_OF_WORD_PIECES, …}'
        ) from None
    if not len(ids):
        raise InputError("a text store without texts", file=file, found="no ids", remedy="prepare it again")
    del table
    stored = np.fromiter(reader.keys(), f"S{ids.dtype.itemsize + 1}")  # longer keys stay different
    missing = ids[~np.isin(ids, stored)]
    if len(missing):
        what = f"{len(missing):,} texts are not in the LMDB"
        raise record_error(reader, missing[0], what, f"named in {lengths}", "a record for every id")
    names, index = _numbered(_pictures(reader, ids), len(ids))
    reader.close()
    order = np.argsort(ids, kind="stable").astype(np.int32)
    return {"ids": ids, "sorted": order, "lens": lens, "img_names": names, "img_index": index}


def _pictures(reader: Reader, ids: np.ndarray) -> Iterator[tuple[str, ...]]:
    """The picture names of every text: from `txt2img.json`, or from the records where it is not there."""
    file = reader.folder / "txt2img.json"
    known = read_json(file) if file.exists() else None
    first = 0
    for key in ids:
        named = decode(reader, key).get("img_fname") if known is None else known.get(key.decode())
        names = (named,) if isinstance(named, str) else tuple(named or ())
        first = first or len(names)
        if not names or len(names) != first or not all(isinstance(name, str) for name in names):
            where = "img_fname" if known is None else "txt2img.json"
            expected = f"{first or 1} names in {where}, as many for every text"
            raise record_error(reader, key, "a text without its picture's name", named, expected)
        yield names


def _numbered(rows: Iterable[tuple[str, ...]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """n tuples of k names → the distinct names sorted, and (n, k) int32 into them."""
    number: dict[str, int] = {}
    flat = np.fromiter((number.setdefault(name, len(number)) for names in rows for name in names), np.int32)
    names = np.array([name.encode() for name in number])
    order = np.argsort(names)
    place = np.empty(len(names), np.int32)
    place[order] = np.arange(len(names), dtype=np.int32)
    return names[order], place[flat].reshape(n, -1)
