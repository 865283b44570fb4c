"""Unpickling without running code: only plain containers, strings, numbers, and numpy arrays of numbers or text."""

import io
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.files import read_bytes

BYTES = ("utf-8", "surrogateescape")  # keeps all strings of Python 2, which are bytes; `_decoded` makes them text
PLAIN_DTYPE = re.compile(r"[<>|=]?[biufcSU]\d+")


class _Dtype:
    """Replaces numpy.dtype while unpickling, because numpy's own would take flags and fields from the file."""

    def __init__(self, name: Any, *_: Any):
        """Accept the names of plain dtypes, such as "f4"; other arguments are ignored."""
        if not isinstance(name, str) or not PLAIN_DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"an array has the type {name!r}, which is not numbers or text")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order from the pickled state, and nothing else."""
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Replaces numpy.ndarray while unpickling, and accepts plain data only."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Fill the array from its pickled shape, dtype, order and bytes, after checking them."""
        _, shape, stub, fortran, data = state
        super().__setstate__((1, shape, *_checked_content(shape, stub, fortran, data)))  # type: ignore[arg-type]


def _checked_content(shape: Any, stub: Any, fortran: Any, data: Any) -> tuple[np.dtype, bool, bytes]:
    """Check that the bytes of an array fit its shape and dtype; returns dtype, whether Fortran order, and the bytes."""
    data = data.encode(*BYTES) if isinstance(data, str) else data  # Python 2 wrote bytes as text
    well_typed = isinstance(stub, _Dtype) and isinstance(data, bytes | bytearray) and isinstance(shape, tuple)
    if not well_typed or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("an array has no valid shape, type or bytes")
    if math.prod(shape) * stub.dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"an array of shape {shape} has {len(data)} bytes")
    return stub.dtype, bool(fortran), bytes(data)


def _reconstruct(*_: Any) -> np.ndarray:
    """Make an empty array, which the pickle then fills."""
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _frombuffer(data: Any, stub: Any, shape: Any, order: Any) -> np.ndarray:
    """Make an array from its bytes, as numpy's newer pickles store it."""
    dtype, fortran, content = _checked_content(shape, stub, order == "F", data)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _scalar(stub: Any, data: Any) -> Any:
    """Make a Python number or text from a pickled numpy scalar."""
    dtype, _, content = _checked_content((), stub, False, data)
    return np.frombuffer(content, dtype)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """Make bytes from text: Python 3 writes bytes this way in old protocols."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in {encoding!r}")
    return text.encode("latin1")


ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,  # used as an argument of _reconstruct only
    ("_codecs", "encode"): _encode,
}
for module in ("builtins", "__builtin__"):
    ADMITTED |= {(module, "set"): set, (module, "frozenset"): frozenset}
for core in ("numpy.core", "numpy._core"):
    ADMITTED |= {(f"{core}.multiarray", "_reconstruct"): _reconstruct, (f"{core}.multiarray", "scalar"): _scalar}
    ADMITTED[f"{core}.numeric", "_frombuffer"] = _frombuffer


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the names in `ADMITTED` and refuses all others."""

    refused_global: str | None = None  # "MODULE.NAME" of the refused name

    def find_class(self, module: str, name: str) -> Any:
        """The replacement for a global name in the pickle; an error for a name that is not in `ADMITTED`."""
        if (module, name) not in ADMITTED:
            self.refused_global = f"{module}.{name}"
            raise pickle.UnpicklingError(f"the pickle refers to {self.refused_global}")
        return ADMITTED[module, name]


def _decoded(value: Any) -> Any:
    """`value` with latin-1 for the strings of Python 2 in it that are not UTF-8."""
    if isinstance(value, str) and not value.isascii() and any("\udc80" <= char <= "\udcff" for char in value):
        return value.encode(*BYTES).decode("latin1")
    if isinstance(value, dict):
        return {_decoded(key): _decoded(item) for key, item in value.items()}
    return type(value)(map(_decoded, value)) if type(value) in (list, tuple, set, frozenset) else value


def load(path: str | Path) -> Any:
    """Read a pickle of plain data, gzipped or not, without running code in it.

    Strings of Python 2 are bytes: they are read as UTF-8, or as latin-1 where they are not. Numpy scalars become Python
    numbers. Raises `InputError` where the file is absent or damaged, or refers to anything but plain data.
    """
    path = Path(path)
    unpickler = _Unpickler(io.BytesIO(read_bytes(path)), encoding=BYTES[0], errors=BYTES[1])
    try:
        return _decoded(unpickler.load())
    except Exception as error:  # a damaged pickle may raise any error
        if unpickler.refused_global:
            raise InputError(
                "the pickle is not plain data, and reading it could run code",
                file=path,
                found=unpickler.refused_global,
                expected="lists, dicts, strings, numbers and numpy arrays only",
                remedy="download the file from its authors again",
            ) from None
        raise InputError(
            "not a pickle, or a damaged one",
            file=path,
            found=f"{type(error).__name__}: {error}",
            expected="a complete .p file",
            remedy="copy or download it again",
        ) from None
