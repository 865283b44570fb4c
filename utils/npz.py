"""npz files of many named arrays, written whole or not at all, and read without running code."""

import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.files import atomic_file
from utils.os_errors import open_input

# What numpy and zipfile raise for damaged files. A damaged header may announce any size: MemoryError.
DAMAGE: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
DAMAGE += (SyntaxError, TypeError, OverflowError, struct.error)


def write_npz(path: str | Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write (name, array) pairs to `path`, one array at a time.

    `numpy.savez` takes the names as keyword arguments, so it needs all arrays in memory and refuses the name "file".
    """
    with atomic_file(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


@contextmanager
def open_npz(path: str | Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an npz file whose arrays are read when they are used; `InputError` if it is absent or not an npz file."""
    open_input(path).close()  # refuses what is absent, and pipes
    try:
        file = np.load(path, allow_pickle=False)
    except DAMAGE as error:
        raise InputError("not an npz file", file=path, found=_cause(error), remedy="copy or write it again") from None
    if not isinstance(file, np.lib.npyio.NpzFile):
        found, expected = "a single array without a name", "named arrays, as numpy.savez writes them"
        raise InputError("not an npz file", file=path, found=found, expected=expected)
    with file:
        yield file


def read_array(file: Mapping[str, np.ndarray], name: str, path: str | Path) -> np.ndarray:
    """Read one array of an open npz; `InputError` where it is absent, damaged, or holds pickled objects.

    `path` is used in the error only.
    """
    try:
        return file[name]
    except KeyError:
        raise InputError(
            "an array is missing in the npz file", file=path, key=name, found=", ".join(list(file)[:5])
        ) from None
    except DAMAGE as error:
        found = _cause(error)
        raise InputError("an array of the npz file cannot be read", file=path, key=name, found=found) from None


def _cause(error: Exception) -> str:
    """What an error says, without numpy's advice to run the code of a pickle."""
    is_pickle = "allow_pickle" in str(error)
    return "Python objects, or no arrays at all; objects are not read" if is_pickle else str(error) or repr(error)
