"""The doors to files: files and folders are written whole or not at all; text and JSON are read, plain or gzipped.

All that the operating system and the parsers say becomes an `InputError` that names the file.
"""

import contextlib
import errno
import gzip
import io
import json
import os
import re
import shutil
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from utils.errors import InputError
from utils.json_text import parse_json
from utils.locks import lock_file
from utils.os_errors import kind_of, open_input, reading, writing

CHUNK = 1 << 24  # bytes that are unpacked at a time
# A gzipped file whose content is larger than both, in bytes and relative to the file, is refused: JSON packs about 10
# to 1, and a file of nothing but zeros 1,000 to 1.
MOST_UNPACKED, MOST_RATIO = 1 << 28, 200
PACKERS = {b"PK\x03\x04": "a zip archive", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
PACKERS[b"\x1f\x8b"] = "a gzipped file inside a gzipped file"


def temporary_path(path: Path) -> Path:
    """The hidden name beside `path` under which this process writes the file until it is complete."""
    return path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")


@contextlib.contextmanager
def atomic_file(path: str | Path, needed: int | None = None) -> Iterator[BinaryIO]:
    """Open a binary stream to write `path`. The file appears when the block ends without an error.

    On an error or a crash the old file stays, so a reader never sees a part of a file. Missing parent folders are made.
    `InputError` when it cannot be written (`needed`: see `writing`), or `path` is something else than a file.
    """
    path = Path(path)
    temporary = temporary_path(path)
    with writing(path, needed):
        _refuse_special(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _refuse_special(path: str | Path) -> None:
    """`InputError` where something else than a file lies at `path`: a folder, a pipe, a device."""
    if os.path.exists(path) and not os.path.isfile(path):
        problem, remedy = "the output exists already and is not a file", "name another file"
        raise InputError(problem, file=path, found=kind_of(path), remedy=remedy)


def check_output(path: str | Path) -> None:
    """`InputError` where the file `path` could not be written; called before a long computation. Nothing is left."""
    path = Path(path)
    with writing(path):
        _refuse_special(path)
        new_folders = [folder for folder in path.parents if not folder.exists()]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.stat(path)  # a name may be too long
            temporary = temporary_path(path)
            temporary.touch()
            temporary.unlink()
        finally:
            for folder in new_folders:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def append_line(path: str | Path, line: str) -> None:
    """Append a line to a text file, which is made if needed; `InputError` when that fails."""
    with writing(path):
        _refuse_special(path)
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")


@contextlib.contextmanager
def whole_folder(path: str | Path, temporary: Path | None = None) -> Iterator[Path]:
    """Make a folder to write into. It is renamed to `path` when the block ends without an error, and removed otherwise.

    `temporary`: an existing empty folder to use, on the same disk. Default: a new one beside `path`; those of runs that
    were killed are removed. `InputError` when the disk is full, the folder cannot be made, or `path` has become
    something other than an empty folder.
    """
    path = Path(path)
    with writing(path), contextlib.ExitStack() as stack:
        if temporary is None:
            _remove_left_overs(path)
            temporary = temporary_path(path)
            temporary.parent.mkdir(parents=True, exist_ok=True)
            lock_path = Path(f"{temporary}.lock")
            stack.callback(lock_path.unlink, missing_ok=True)
            if lock := lock_file(lock_path):  # others see by it that this run lives
                stack.enter_context(lock)
            temporary.mkdir()
        try:
            yield temporary
            os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _remove_left_overs(path: Path) -> None:
    """Remove the temporary folders of `path` whose runs are dead: nobody holds their locks."""
    name = re.compile(rf"\.{re.escape(path.name[:200])}\.\d+\.tmp")
    for folder in path.parent.glob(".*.tmp"):
        if name.fullmatch(folder.name) and folder.is_dir():
            lock_path = Path(f"{folder}.lock")
            with contextlib.suppress(OSError):  # another user's folder
                if lock := lock_file(lock_path):
                    shutil.rmtree(folder, ignore_errors=True)
                    lock_path.unlink(missing_ok=True)
                    lock.close()


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Make the output folder of a script (see `whole_folder`); `InputError` if `path` is not new or an empty folder."""
    refuse_existing(path)
    with whole_folder(path) as temporary:
        yield temporary
        os.sync()  # once here, instead of once for each of many small files


def refuse_existing(path: str | Path) -> None:
    """`InputError` if the output `path` is not new or an empty folder."""
    path = Path(path)
    with writing(path):
        if path.is_symlink() and not path.exists():  # no folder could be moved there after the work
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if occupied:
        raise InputError(
            "the output exists already and is not empty",
            file=path,
            expected="a new or an empty folder",
            remedy="name a new folder, or delete this one",
        )


def make_folder(path: str | Path) -> Path:
    """Make a folder and its parents where they do not exist; `InputError` when that fails."""
    with writing(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_file(path, len(data)) as stream:
        stream.write(data)


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    """Write `value` as JSON, whole or not at all."""
    atomic_write(path, (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode())


def read_json(path: str | Path, half_pairs: bool = False) -> Any:
    """Read a JSON file, plain or gzipped; `InputError` when it cannot be read or is not JSON (see `parse_json`)."""
    return parse_json(read_text(path), path, half_pairs=half_pairs)


def read_text(path: str | Path) -> str:
    """Read a text file (see `read_utf8`); `InputError` where its bytes are no text."""
    with reading(path):
        return read_utf8(path).decode()


def read_utf8(path: str | Path) -> bytes:
    """Read a text file, plain or gzipped, as UTF-8 without a byte-order mark. It may be UTF-16 or UTF-32 on disk.

    The bytes of a file that is UTF-8 already are not checked. `InputError` when it cannot be read, or is packed.
    """
    content = read_bytes(path)
    packer = next((name for mark, name in PACKERS.items() if content.startswith(mark)), None)
    if packer:
        raise InputError("the file is not text", file=path, found=packer, expected="text, plain or gzipped once")
    encoding = json.detect_encoding(content)
    with reading(path):
        return content.removeprefix(BOM_UTF8) if encoding[:5] == "utf-8" else content.decode(encoding).encode()


@contextlib.contextmanager
def open_text(path: str | Path) -> Iterator[TextIO]:
    """Open a text file, plain or gzipped, to read it piece by piece; errors as in `read_text`, also in the block."""
    with reading(path), open_input(path) as stream:
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        binary: Any = gzip.GzipFile(fileobj=stream) if packed else stream
        encoding = json.detect_encoding(binary.read(4))
        binary.seek(0)
        yield io.TextIOWrapper(binary, encoding, newline=None)


def read_bytes(path: str | Path) -> bytes:
    """Read a file, and unpack it where its first bytes say that it is gzipped; `InputError` when that fails."""
    with reading(path), open_input(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            raise MemoryError
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        return _unpacked(stream, size, path) if packed else stream.read()


def _unpacked(stream: BinaryIO, size: int, path: str | Path) -> bytes:
    """The content of a gzipped stream of `size` bytes; `InputError` when it is absurdly large."""
    parts, total = [], 0
    with gzip.GzipFile(fileobj=stream) as unpacker:
        while part := unpacker.read(CHUNK):
            parts.append(part)
            total += len(part)
            if total > max(MOST_UNPACKED, MOST_RATIO * size):
                raise InputError(
                    "the gzipped file unpacks to an absurd size",
                    file=path,
                    found=f"more than {total:,} bytes from {size:,}",
                    expected=f"at most {MOST_RATIO} times the size of the file",
                    remedy="check where the file is from; if it is right, unpack it yourself with gunzip",
                )
    return b"".join(parts)
