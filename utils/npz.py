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
    with open_input(path) as stream:  # refuses what is absent, and pipes
        head = stream.read(8)
    expected, remedy = "named arrays, as numpy.savez writes them", "name another file, or write it again"
    if not is_npz(head):
        found = "a single array without a name" if head.startswith(b"\x93NUMPY") else described_head(head)
        raise InputError("not an npz file", file=path, found=found, expected=expected, remedy=remedy)
    try:
        file = np.load(path, allow_pickle=False)
    except DAMAGE as error:
        raise InputError("not an npz file", file=path, found=error, expected=expected, remedy=remedy) from None
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
            "an array is missing in the npz file",
            file=path,
            key=name,
            found=", ".join(list(file)[:5]) or "no arrays",
            expected="an array of this name",
            remedy="name another file, or write it again",
        ) from None
    except DAMAGE as error:
        raise InputError(
            "an array of the npz file cannot be read",
            file=path,
            key=name,
            found=array_cause(error),
            expected="an array of numbers or texts",
            remedy="write the file again",
        ) from None


def is_npz(head: bytes | memoryview) -> bool:
    """Whether a file begins as a zip archive, which an npz is; numpy would take others for a pickle."""
    return bytes(head[:4]) in (b"PK\x03\x04", b"PK\x05\x06")


def described_head(head: bytes | memoryview) -> str:
    """What a file or record is that does not begin as an npz, for an error."""
    return f"something else that begins with {bytes(head[:8])!r}" if len(head) else "nothing, 0 bytes"


def array_cause(error: Exception) -> str:
    """What an error about an array of an npz says, without numpy's advice to run the code of a pickle."""
    is_pickle = "pickle" in str(error)
    return "Python objects, which are not read because they can run code" if is_pickle else str(error) or repr(error)
