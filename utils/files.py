"""Files and folders that are written whole or not at all, and JSON files that are read with clear errors."""

import contextlib
import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import InputError


def temporary_path(path: Path) -> Path:
    """The hidden name beside `path` under which this process writes the file until it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary stream to write `path`. The file appears when the block ends without an error.

    On an error or a crash the old file stays, so a reader never sees a part of a file. Missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def whole_folder(path: str | Path, temporary: Path | None = None) -> Iterator[Path]:
    """Make a folder to write into. It is renamed to `path` when the block ends without an error, and removed otherwise.

    `temporary`: an existing empty folder to use, on the same disk. Default: a new one beside `path`. Raises `OSError`
    when `path` has become something other than an empty folder.
    """
    path = Path(path)
    if temporary is None:
        temporary = temporary_path(path)
        temporary.mkdir(parents=True)
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Make the output folder of a script (see `whole_folder`); `InputError` if `path` is not new or an empty folder."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(
            "the output exists already and is not empty",
            file=path,
            expected="a new or an empty folder",
            remedy="name a new folder, or delete this one",
        )
    with whole_folder(path) as temporary:
        yield temporary
        os.sync()  # once here, instead of once for each of many small files


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_file(path) as stream:
        stream.write(data)


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    """Write `value` as JSON, whole or not at all."""
    atomic_write(path, (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode())


def read_json(path: str | Path) -> Any:
    """Read a JSON file, plain or gzipped; `InputError` when it does not exist, cannot be read or is not JSON."""
    path = Path(path)
    try:
        return json.loads(read_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError("not a JSON file", file=path, found=error, expected="JSON text") from None


def read_bytes(path: Path) -> bytes:
    """Read a file, and unpack it where its first bytes say that it is gzipped; `InputError` when that fails."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (FileNotFoundError, IsADirectoryError):
        raise InputError("file not found", file=path, remedy="check the path") from None
    except (OSError, EOFError) as error:
        raise InputError("file cannot be read", file=path, found=error) from None
