"""Decoding of image records: msgpack of numpy arrays, or an npz. No code in a record is ever run.

msgpack-numpy writes an array as a map of `nd`, `type`, `kind`, `shape` and `data`. Its own decoder unpickles object
arrays, which can run code. This decoder accepts numeric types only, and returns views into the record, not copies.
"""

import io
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from utils.npz import array_cause, described_head, is_npz

NUMERIC = "biuf"  # numpy's kinds of bool, signed, unsigned and float types
KINDS: dict[bytes, np.dtype[Any]] = {b"<f2": np.dtype("<f2"), b"<f4": np.dtype("<f4")}
SIZE = rb"([\x00-\x7f]|\xcc.|\xcd..)"  # a msgpack integer of at most 16 bits
HEAD = re.compile(  # an array's name and its map, up to the first byte of the data
    rb"[\xa0-\xbf](features|norm_bb|conf|soft_labels)\x85\xc4\x02nd\xc3\xc4\x04type\xa3(<f[24])\xc4\x04kind\xc4\x00"
    rb"\xc4\x05shape[\x91\x92]" + SIZE + SIZE + rb"?\xc4\x04data(\xc4.|\xc5..|\xc6....)",
    re.DOTALL,
)


def decode(value: memoryview, compressed: bool) -> dict[str, np.ndarray]:
    """Decode an image record into its arrays by name.

    `compressed`: the record is an npz. Otherwise it is msgpack, and the arrays are views into `value`. `ValueError`
    when the record is something else; numpy, zipfile and struct raise their own errors for damaged bytes.
    """
    if compressed:
        if not is_npz(value):
            raise ValueError(f"the record is not an npz but {described_head(value)}")
        with np.load(io.BytesIO(value), allow_pickle=False) as file:
            # numpy before 2.1 stored its argument `allow_pickle` as a member
            return {name: _member(file, name) for name in file.files if name != "allow_pickle"}
    arrays = _decode_usual(value)
    if arrays is not None:
        return arrays
    record, end = _item(value, 0)
    if not isinstance(record, dict) or end != len(value):
        raise ValueError("the record is not a msgpack map")
    return {name: _array(name, fields) for name, fields in record.items()}


def _member(file: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """An array of an npz; its error is numpy's, but without the advice to run the code of a pickle."""
    try:
        return file[name]
    except ValueError as error:
        raise ValueError(f"{name}: {array_cause(error)}") from None


def _decode_usual(value: memoryview) -> dict[str, np.ndarray] | None:
    """The fast path, for exactly the bytes that msgpack-numpy writes for float16 and float32; None for other bytes."""
    arrays: dict[str, np.ndarray] = {}
    at = 1
    for _ in range(value[0] & 0x0F if value[0] >> 4 == 0x8 else 0):
        head = HEAD.match(value, at)
        if head is None:
            return None
        name, kind, rows, width, size = head.groups()
        dtype = KINDS[kind]
        shape = (_number(rows), _number(width)) if width else (_number(rows),)
        data = np.frombuffer(value, dtype, _number(size) // dtype.itemsize, head.end())
        arrays[name.decode()] = data.reshape(shape)
        at = head.end() + data.nbytes
    return arrays if at == len(value) else None


def _number(data: bytes) -> int:
    """The number in a group of `HEAD`: one byte is the number itself, else the first byte is a tag."""
    return data[0] if len(data) == 1 else int.from_bytes(data[1:], "big")


def _array(name: str, fields: Any) -> np.ndarray:
    if not isinstance(fields, dict) or "data" not in fields or "type" not in fields:
        raise ValueError(f"{name} is not an array")
    kind = fields["type"]
    dtype = np.dtype(bytes(kind).decode() if isinstance(kind, memoryview) else kind)
    if dtype.kind not in NUMERIC:
        raise ValueError(f"{name} has dtype {dtype}, which is not numeric")
    data = fields["data"]
    return np.frombuffer(data.encode() if isinstance(data, str) else data, dtype).reshape(fields.get("shape", ()))


def _item(data: memoryview, at: int) -> tuple[Any, int]:
    """Decode the msgpack value that starts at `at`; also returns where the next one starts. Binary data are views."""
    code = data[at]
    at += 1
    if code < 0x80:
        return code, at
    if code < 0x90:
        return _map(data, at, code & 0x0F)
    if code < 0xA0:
        return _list(data, at, code & 0x0F)
    if code < 0xC0:
        return _text(data, at, code & 0x1F)
    if code in (0xC2, 0xC3):
        return code == 0xC3, at
    if code in _NUMBERS:
        form, size = _NUMBERS[code]
        return struct.unpack_from(form, data, at)[0], at + size
    if code in _SIZED:
        form, size, make = _SIZED[code]
        return make(data, at + size, struct.unpack_from(form, data, at)[0])
    raise ValueError(f"not msgpack of arrays: unknown type byte {code:#x}")


def _map(data: memoryview, at: int, n: int) -> tuple[dict[str, Any], int]:
    values = {}
    for _ in range(n):
        key, at = _item(data, at)
        values[bytes(key).decode() if isinstance(key, memoryview) else key], at = _item(data, at)
    return values, at


def _list(data: memoryview, at: int, n: int) -> tuple[list[Any], int]:
    items = []
    for _ in range(n):
        item, at = _item(data, at)
        items.append(item)
    return items, at


def _text(data: memoryview, at: int, n: int) -> tuple[str | memoryview, int]:
    """Text or, where it is not UTF-8, bytes: msgpack before 1.0 and with use_bin_type=False marks bytes as text."""
    value = _bytes(data, at, n)[0]
    try:
        return str(value, "utf-8"), at + n
    except UnicodeDecodeError:
        return value, at + n


def _bytes(data: memoryview, at: int, n: int) -> tuple[memoryview, int]:
    if at + n > len(data):
        raise ValueError("the record ends too early")
    return data[at : at + n], at + n


_NUMBERS = {0xCC: (">B", 1), 0xCD: (">H", 2), 0xCE: (">I", 4), 0xCF: (">Q", 8)}
_SIZED: dict[int, tuple[str, int, Any]] = {
    0xC4: (">B", 1, _bytes),
    0xC5: (">H", 2, _bytes),
    0xC6: (">I", 4, _bytes),
    0xD9: (">B", 1, _text),
    0xDA: (">H", 2, _text),
    0xDB: (">I", 4, _text),
    0xDC: (">H", 2, _list),
    0xDD: (">I", 4, _list),
    0xDE: (">H", 2, _map),
    0xDF: (">I", 4, _map),
}


def positions(norm_bb: np.ndarray) -> np.ndarray:
    """Location features (n, 7) float32 of boxes: x1, y1, x2, y2, w, h, w·h (paper section 3.1, footnote 3).

    `norm_bb`: (n, 6), or (n, 4) without w and h, which are then computed. w·h is a product of float32 numbers.
    """
    pos = np.empty((len(norm_bb), 7), np.float32)
    pos[:, : norm_bb.shape[1]] = norm_bb
    if norm_bb.shape[1] == 4:
        pos[:, 4:6] = pos[:, 2:4] - pos[:, :2]
    np.multiply(pos[:, 4], pos[:, 5], out=pos[:, 6])
    return pos
