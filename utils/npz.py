"""npz files of many named arrays: written whole or not at all, read without running code."""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.files import atomic_file


def write_npz(path: str | Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write (name, array) pairs to `path`. `numpy.savez` would take all names as arguments, "file" not among them."""
    with atomic_file(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


@contextmanager
def open_npz(path: str | Path) -> Iterator[np.lib.npyio.NpzFile]:
    """An npz, its arrays read when asked for; `InputError` for what is not there, not an npz, or holds objects."""
    try:
        file = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError("file not found", file=path, remedy="check the path") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError("not an npz file", file=path, found=error) from None
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise InputError("not an npz file", file=path, found="one array without a name")
    with file:
        yield file


def read_array(file: Mapping[str, np.ndarray], name: str, path: str | Path) -> np.ndarray:
    """One array of an open npz at `path`; `InputError` where it is absent, damaged, or of pickled objects."""
    try:
        return file[name]
    except KeyError:
        raise InputError("an array is missing", file=path, key=name, found=", ".join(list(file)[:5])) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError("an array cannot be read", file=path, key=name, found=error) from None
