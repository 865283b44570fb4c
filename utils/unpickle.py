"""Unpickling without running code: plain containers, strings, numbers, and numpy arrays of numbers or text."""

import io
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.files import read_bytes

PLAIN_DTYPE = re.compile(r"[<>|=]?[biufcSU]\d+")


class _Dtype:
    """Stands for numpy.dtype while unpickling: numpy's own would take flags and fields from the file."""

    def __init__(self, name: Any, *_: Any):
        if not isinstance(name, str) or not PLAIN_DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"an array of {name!r}, not of numbers or text")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that takes its content from plain data only."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, stub, fortran, data = state
        super().__setstate__((1, shape, *_checked_content(shape, stub, fortran, data)))  # type: ignore[arg-type]


def _checked_content(shape: Any, stub: Any, fortran: Any, data: Any) -> tuple[np.dtype, bool, bytes]:
    """dtype, order and bytes of an array, which must fit its shape."""
    data = data.encode("latin1") if isinstance(data, str) else data  # as Python 2 wrote it
    well_typed = isinstance(stub, _Dtype) and isinstance(data, bytes | bytearray) and isinstance(shape, tuple)
    if not well_typed or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("an array without shape, kind or bytes")
    if math.prod(shape) * stub.dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"an array of shape {shape} with {len(data)} bytes")
    return stub.dtype, bool(fortran), bytes(data)


def _reconstruct(*_: Any) -> np.ndarray:
    """An empty array, which the pickle then fills."""
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _frombuffer(data: Any, stub: Any, shape: Any, order: Any) -> np.ndarray:
    """A whole array, as numpy's newer pickles hold it."""
    dtype, fortran, content = _checked_content(shape, stub, order == "F", data)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _scalar(stub: Any, data: Any) -> Any:
    """A numpy scalar, as Python's own number or text."""
    dtype, _, content = _checked_content((), stub, False, data)
    return np.frombuffer(content, dtype)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes where the protocol has none."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in {encoding!r}")
    return text.encode("latin1")


ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct
    ("_codecs", "encode"): _encode,
}
for module in ("builtins", "__builtin__"):
    ADMITTED |= {(module, "set"): set, (module, "frozenset"): frozenset}
for core in ("numpy.core", "numpy._core"):
    ADMITTED |= {(f"{core}.multiarray", "_reconstruct"): _reconstruct, (f"{core}.multiarray", "scalar"): _scalar}
    ADMITTED[f"{core}.numeric", "_frombuffer"] = _frombuffer


class _Unpickler(pickle.Unpickler):
    refused_global: str | None = None  # module and name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            self.refused_global = f"{module}.{name}"
            raise pickle.UnpicklingError(f"it asks for {self.refused_global}")
        return ADMITTED[module, name]


def load(path: str | Path) -> Any:
    """The content of a pickle (plain or gzipped; Python 2's too, whose strings are read as latin-1).

    Numpy scalars come as Python's numbers. `InputError` where it asks for anything but plain data; nothing is run.
    """
    path = Path(path)
    unpickler = _Unpickler(io.BytesIO(read_bytes(path)), encoding="latin1")
    try:
        return unpickler.load()
    except Exception as error:  # a broken pickle may raise anything
        if unpickler.refused_global:
            raise InputError(
                "a pickle that is not plain data: not read, since such a file can run code",
                file=path,
                found=unpickler.refused_global,
                expected="lists, dicts, strings, numbers and numpy arrays only",
                remedy="get the file from its authors again",
            ) from None
        found = f"{type(error).__name__}: {error}"
        raise InputError("not a pickle that can be read", file=path, found=found, expected="a whole .p file") from None
