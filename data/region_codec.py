"""Image records (DESIGN section 4) decoded to arrays: msgpack as msgpack-numpy writes it, or an npz.

Numbers only: an array of objects, which msgpack-numpy and numpy would unpickle, is refused. `ValueError` says what is
wrong with a record.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np

_INT = {0xCC: (1, False), 0xCD: (2, False), 0xCE: (4, False), 0xCF: (8, False)} | {
    0xD0: (1, True),
    0xD1: (2, True),
    0xD2: (4, True),
    0xD3: (8, True),
}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bin and str: bytes of their length
_LIST, _MAP = {0xDC: 2, 0xDD: 4}, {0xDE: 2, 0xDF: 4}
_FLOAT = {0xCA: ">f", 0xCB: ">d"}
_CONSTANT = {0xC0: None, 0xC2: False, 0xC3: True}
_VIEW = 64  # byte strings from this length stay in place, shorter ones are keys and names


def unpack_arrays(value: memoryview, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of the `wanted` arrays that a msgpack record has, as views of `value`."""
    try:
        record, end = _parse(value, 0)
    except (IndexError, RecursionError, struct.error):
        raise ValueError("msgpack that ends early") from None
    if not isinstance(record, dict) or end != len(value):
        raise ValueError("not a msgpack map of arrays")
    return {name: _array(name, record[name.encode()]) for name in wanted if name.encode() in record}


def load_arrays(value: memoryview, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of the `wanted` arrays that an npz record has. (numpy before 2.1 left a member `allow_pickle` there.)"""
    try:
        with np.load(io.BytesIO(value), allow_pickle=False) as file:
            arrays = {name: file[name] for name in wanted if name in file.files}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, AttributeError, TypeError, NotImplementedError) as error:
        raise ValueError(f"not an npz: {error}") from None
    for name, array in arrays.items():
        _check_number(name, array.dtype)
    return arrays


def decoder(compressed: bool) -> Callable[[memoryview, Iterable[str]], dict[str, np.ndarray]]:
    """The function that decodes the records of a store."""
    return load_arrays if compressed else unpack_arrays


def _array(name: str, node: Any) -> np.ndarray:
    if not isinstance(node, dict) or node.get(b"nd") is not True:
        raise ValueError(f"{name} is not an array")
    try:
        kind, shape, data = node[b"type"], node[b"shape"], node[b"data"]
    except KeyError as error:
        raise ValueError(f"{name} is an array without {error}") from None
    if not isinstance(kind, bytes) or not isinstance(shape, list) or not isinstance(data, bytes | memoryview):
        raise ValueError(f"{name} is not an array of numbers")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"{name} has the shape {shape}")
    return np.frombuffer(data, _dtype(name, kind)).reshape(shape)


@lru_cache
def _dtype(name: str, kind: bytes) -> np.dtype:
    try:
        dtype = np.dtype(kind.decode())
    except (TypeError, SyntaxError):
        raise ValueError(f"{name} has an unknown type {kind!r}") from None
    _check_number(name, dtype)
    return dtype


def _check_number(name: str, dtype: np.dtype) -> None:
    if dtype.kind not in "fiub":
        raise ValueError(f"{name} is not an array of numbers but of {dtype}")


def _parse(value: memoryview, at: int) -> tuple[Any, int]:
    """The msgpack object at `at` and where it ends; byte strings and strings alike come as bytes, long ones as views."""
    tag = value[at]
    at += 1
    if tag < 0x80:
        return tag, at
    if tag >= 0xE0:
        return tag - 0x100, at
    if tag < 0x90:
        return _parse_map(value, at, tag & 0x0F)
    if tag < 0xA0:
        return _parse_list(value, at, tag & 0x0F)
    if tag < 0xC0:
        return _parse_bytes(value, at, tag & 0x1F)
    if tag in _BYTES:
        return _parse_bytes(value, at + _BYTES[tag], _unsigned(value, at, _BYTES[tag]))
    if tag in _CONSTANT:
        return _CONSTANT[tag], at
    if tag in _INT:
        size, signed = _INT[tag]
        return int.from_bytes(value[at : at + size], "big", signed=signed), at + size
    if tag in _FLOAT:
        return struct.unpack_from(_FLOAT[tag], value, at)[0], at + struct.calcsize(_FLOAT[tag])
    if tag in _LIST:
        return _parse_list(value, at + _LIST[tag], _unsigned(value, at, _LIST[tag]))
    if tag in _MAP:
        return _parse_map(value, at + _MAP[tag], _unsigned(value, at, _MAP[tag]))
    raise ValueError(f"not a msgpack image record (byte {tag:#x} at {at - 1})")


def _unsigned(value: memoryview, at: int, size: int) -> int:
    return int.from_bytes(value[at : at + size], "big")


def _parse_bytes(value: memoryview, at: int, size: int) -> tuple[bytes | memoryview, int]:
    found = value[at : at + size]
    if len(found) < size:
        raise ValueError("msgpack that ends early")
    return (found if size >= _VIEW else bytes(found)), at + size


def _parse_list(value: memoryview, at: int, size: int) -> tuple[list[Any], int]:
    found = []
    for _ in range(size):
        item, at = _parse(value, at)
        found.append(item)
    return found, at


def _parse_map(value: memoryview, at: int, size: int) -> tuple[dict[bytes, Any], int]:
    found = {}
    for _ in range(size):
        key, at = _parse(value, at)
        if not isinstance(key, bytes):
            raise ValueError("not a msgpack map of arrays")
        found[key], at = _parse(value, at)
    return found, at
