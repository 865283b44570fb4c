"""Locks on files that end with the process that holds them, however it ends."""

import fcntl
from pathlib import Path
from typing import BinaryIO


def lock_file(path: Path) -> BinaryIO | None:
    """Lock `path`, an empty file that is made if needed; None while another living process holds the lock.

    The lock ends when the returned stream is closed, or with the process; children do not inherit it. On a file system
    without locks nobody holds one.
    """
    stream = open(path, "ab")  # noqa: SIM115 (open as long as the lock is held)
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        stream.close()
        return None
    except OSError:  # the file system has no locks
        pass
    return stream
