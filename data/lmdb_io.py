"""Read-only access to LMDBs.

A truncated LMDB kills the process that reads it through a memory map (SIGBUS), so the file's size is checked first. A
process opens each path once, without a lock file.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np

from data.lmdb_pages import check_pages, check_size, read_layout
from utils.errors import InputError

SAMPLE = 64  # keys that `Reader.has_sample` looks for


class Reader:
    """Read keys and values of one LMDB. Each process opens it at its first read.

    lmdb refuses to open a path twice in one process, and counts an environment that a forked child inherited. So one
    table keeps all open environments, and a child closes its copy of the parent's environment before it opens its own.
    """

    _open: dict[tuple[int, str], tuple[lmdb.Environment, lmdb.Transaction]] = {}  # noqa: RUF012 (shared on purpose)

    def __init__(self, folder: Path):
        """Check the LMDB in `folder` (see `check_size`) without opening it."""
        check_size(folder)
        self.folder = folder
        self._real = os.path.realpath(folder)

    def _transaction(self) -> lmdb.Transaction:
        key = (os.getpid(), self._real)
        if key not in Reader._open:
            for inherited in [k for k in Reader._open if k[1] == self._real]:
                Reader._open.pop(inherited)[0].close()  # closes this process's copy; the parent's stays open
            try:
                env = lmdb.open(os.fsencode(self._real), readonly=True, lock=False, readahead=False, max_readers=1)
            except lmdb.Error as error:
                raise InputError(
                    "the LMDB cannot be opened",
                    file=self.folder,
                    found=error,
                    expected="a readable LMDB",
                    remedy="check the file's permissions, or copy it again",
                ) from None
            # One transaction for the life of the process: nobody writes, and values are views that must stay valid.
            Reader._open[key] = (env, env.begin(buffers=True))
        return Reader._open[key][1]

    def check_pages(self) -> None:
        """Check the structure of the LMDB (see `data.lmdb_pages`); it reads all pages but those of large values."""
        check_pages(self.folder)

    def get(self, key: bytes) -> memoryview | None:
        """The value of `key`, as a view into the mapped file; None when the LMDB does not have the key."""
        try:
            return self._transaction().get(key)  # type: ignore[return-value]
        except lmdb.Error as error:
            raise self._damage(error, key) from None

    def has_sample(self, keys: np.ndarray) -> bool:
        """Whether the LMDB has a sample of `keys`, the first and the last among them; then it is closed."""
        rows = np.unique(np.linspace(0, len(keys) - 1, min(len(keys), SAMPLE)).astype(int))
        present = all(self.get(bytes(key)) is not None for key in keys[rows])
        self.close()
        return present

    def items(self) -> Iterator[tuple[bytes, memoryview]]:
        """Iterate over all keys and values, sorted by key; `InputError` when there are more than the header says."""
        entries = read_layout(self.folder).entries
        try:
            for number, (key, value) in enumerate(self._transaction().cursor()):
                if number == entries:
                    raise lmdb.CorruptedError(f"more entries than the {entries:,} of the header")
                yield bytes(key), value  # type: ignore[misc]
        except lmdb.Error as error:
            raise self._damage(error) from None

    def _damage(self, error: lmdb.Error, key: bytes | None = None) -> InputError:
        """What LMDB says about a damaged file, as an `InputError`."""
        return InputError(
            "the LMDB is damaged",
            file=self.folder / "data.mdb",
            key=key and key.decode(errors="replace"),
            found=error,
            expected="an LMDB that can be read",
            remedy="copy or prepare it again",
        )

    @property
    def is_open(self) -> bool:
        """Whether this process has the LMDB open."""
        return (os.getpid(), self._real) in Reader._open

    def close(self) -> None:
        """Close the LMDB in this process; a later read opens it again."""
        opened = Reader._open.pop((os.getpid(), self._real), None)
        if opened is not None:
            opened[1].abort()
            opened[0].close()
