"""What the operating system says about a file, turned into an `InputError` that names the file and a remedy."""

import contextlib
import errno
import os
import resource
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from utils.errors import InputError
from utils.local_paths import check_local

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # only writing gives these errors
REMEDIES = {
    errno.ENOSPC: "free some disk space, or name another folder",
    errno.EDQUOT: "free some of your disk quota, or name another folder",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f unlimited), or name a folder on another disk",
    errno.EACCES: "name a folder that you may write to",
    errno.EPERM: "name a folder that you may write to",
    errno.EROFS: "name a folder on a disk that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower n_workers",
    errno.ENFILE: "close other programs, or lower n_workers",
}
KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@contextlib.contextmanager
def writing(path: str | Path, needed: int | None = None, errors: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what the operating system says while `path` is written into an `InputError` with the free space.

    `needed`: the size of what is written, in bytes, where it is known. `errors`: other exceptions that mean a failure
    to write, such as those of LMDB. An error about another file than `path` or one in it passes unchanged. A path that
    is a URL, or of another system, is refused before.
    """
    check_local(path)
    try:
        yield
    except OSError as error:
        if error.errno not in FULL and not _is_about(error, Path(os.path.abspath(path))):
            raise
        raise write_error(path, error, needed) from error
    except errors as error:
        raise write_error(path, error, needed) from error


def _is_about(error: OSError, path: Path) -> bool:
    """Whether an error is about `path`, a file in it, a folder that it lies in, or its hidden temporary name."""
    culprits = [os.path.abspath(os.fsdecode(name)) for name in (error.filename, error.filename2) if name is not None]
    own_names = (str(path), str(path.with_name(f".{path.name[:200]}")))
    return not culprits or any(name.startswith(own_names) or own_names[0].startswith(name) for name in culprits)


def obstacle(place: Path) -> tuple[str, str] | None:
    """What is wrong with a folder to write in, and the remedy; None for a folder. `place` exists, be it as a link."""
    if not os.path.exists(place):
        return f"{place} is a link to {os.readlink(place)}, which does not exist", "remove the link, or make its target"
    return None if place.is_dir() else (f"{place} is not a folder", "remove that file, or name another folder")


def write_error(path: str | Path, error: Exception, needed: int | None = None) -> InputError:
    """The `InputError` for a file or folder that cannot be written."""
    path = Path(os.path.abspath(path))
    reasons = [getattr(error, "strerror", None) or str(error).splitlines()[0][:200]]
    code = getattr(error, "errno", None) or 0
    remedy = REMEDIES.get(code)
    parent = next(parent for parent in path.parents if os.path.lexists(parent))
    is_dangling = os.path.lexists(path) and not os.path.exists(path)
    if reason := obstacle(path if is_dangling else parent):
        reasons, remedy = [reason[0]], reason[1]
    with contextlib.suppress(OSError):
        disk = os.statvfs(parent)
        reasons.append(f"{disk.f_bavail * disk.f_frsize:,} bytes are free in {parent}")
        # Some file systems have no limit, and say 0 of 0.
        if disk.f_files and not disk.f_favail and code in (0, errno.ENOSPC):
            reasons.append("no more files can be made there (inodes)")
            remedy = "remove files that you do not need, or name a folder on another disk"
    if (limit := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) != resource.RLIM_INFINITY:
        reasons.append(f"a file may have at most {limit:,} bytes (ulimit -f)")
        remedy = remedy or f"{REMEDIES[errno.EFBIG]}, or free some disk space"  # LMDB does not give the reason
    return InputError(
        "the file cannot be written",
        file=path,
        found="; ".join(reasons),
        expected=None if needed is None else f"{needed:,} bytes of space",
        remedy=remedy or ("" if code else "free some disk space, or ") + "name another folder that you may write to",
    )


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn what the operating system and the unpackers say while `path` is read into an `InputError`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("file not found", file=path, remedy="check the path") from None
    except MemoryError:
        remedy = "use a machine with more memory, or a smaller file"
        raise InputError("the file does not fit in memory", file=path, remedy=remedy) from None
    except UnicodeDecodeError as error:
        raise InputError(
            "the file is not UTF-8 text", file=path, found=f"{error.reason} at byte {error.start}"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        remedy = REMEDIES.get(getattr(error, "errno", None) or 0) or "check its permissions, or copy it again"
        raise InputError("file cannot be read", file=path, found=error, remedy=remedy) from None


def open_input(path: str | Path) -> BinaryIO:
    """Open a file to read its bytes; `InputError` when there is none, or something that may wait for ever: a pipe."""
    with reading(path):
        try:
            mode = os.stat(path).st_mode
        except ValueError:  # a NUL or a lone surrogate in the name
            raise FileNotFoundError from None
        if stat.S_ISREG(mode):
            return open(path, "rb")
    if stat.S_ISDIR(mode):
        raise InputError("file not found", file=path, found="a folder", expected="a file", remedy="check the path")
    raise InputError(
        "not a regular file",
        file=path,
        found=kind_of(path),
        expected="a file",
        remedy="save the content in a file first",
    )


def kind_of(path: str | Path) -> str:
    """What lies at a path, for messages."""
    mode = os.stat(path).st_mode
    return KINDS.get(stat.S_IFMT(mode), "a folder" if stat.S_ISDIR(mode) else "a file")
