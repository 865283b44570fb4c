"""Read-only access to LMDBs, and the index files of a store.

A truncated LMDB kills the process that reads it through a memory map (SIGBUS), so the file's size is checked first. A
process opens each path once, without a lock file.
"""

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import lmdb
import numpy as np

from utils.errors import InputError
from utils.files import atomic_file, whole_folder

META_MAGIC = 0xBEEFC0DE  # the magic number in the first two pages of an LMDB


def check_size(folder: Path) -> None:
    """Check that `folder` holds a whole LMDB.

    `InputError` when `data.mdb` is missing, is not an LMDB, or is shorter than its own header says.
    """
    file = folder / "data.mdb"
    if not file.is_file():
        raise InputError(
            "LMDB not found",
            file=file,
            key=folder.name,
            found=_folder_contents(folder),
            expected="data.mdb",
            remedy="check the path and data_root, or prepare the store (docs/DATA.md)",
        )
    size = file.stat().st_size
    with open(file, "rb") as stream:
        head = stream.read(152)
        page = struct.unpack_from("<I", head, 40)[0] if len(head) == 152 else 0
        magic = struct.unpack_from("<I", head, 16)[0] if page else 0
        if magic != META_MAGIC or page < 512:
            raise InputError(
                "not an LMDB",
                file=file,
                key=folder.name,
                found=f"{file.stat().st_size:,} bytes without LMDB's header",
                expected="a data.mdb that LMDB wrote",
                remedy="copy or prepare it again",
            )
        stream.seek(page)
        second = stream.read(152)
        metas = [struct.unpack_from("<QQQ", meta, 128) for meta in (head, second) if len(meta) == 152]
        root, last, _ = max(metas, key=lambda meta: meta[2])  # the newer of the two headers
        full_size = (last + 1) * page
        if size < full_size and not _used_pages_are_there(stream.fileno(), root, page, size // page):
            raise InputError(
                "the LMDB is truncated",
                file=file,
                found=f"{size:,} bytes",
                expected=f"{full_size:,} bytes, as its header says",
                remedy="copy or prepare it again",
            )


def _used_pages_are_there(fd: int, root: int, page_size: int, pages: int) -> bool:
    """Whether all pages of the tree under page `root`, those of large values included, are below page `pages`.

    LMDB does not write free pages at the end of a file, so a complete file may be shorter than its header says.
    """
    todo = [] if root == 2**64 - 1 else [root]  # an empty tree has no root
    while todo:
        number = todo.pop()
        if number >= pages:
            return False
        page = os.pread(fd, page_size, number * page_size)
        flags, lower = struct.unpack_from("<HH", page, 10)
        for at in struct.unpack_from(f"<{(lower - 16) // 2}H", page, 16):
            low, high, node_flags, key_size = struct.unpack_from("<4H", page, at)
            if flags & 1:  # a branch page: the node points to another page
                todo.append(low | high << 16 | node_flags << 32)
            elif node_flags & 1:  # a large value, on separate pages
                first = struct.unpack_from("<Q", page, at + 8 + key_size)[0]
                if first >= pages or first + struct.unpack("<I", os.pread(fd, 4, first * page_size + 12))[0] > pages:
                    return False
    return True


def _folder_contents(folder: Path) -> str:
    """For messages: the first names in `folder`, or in its parent where `folder` does not exist."""
    nearest = folder if folder.is_dir() else folder.parent
    if not nearest.is_dir():
        return f"{nearest} does not exist"
    names = sorted(path.name for path in nearest.iterdir())[:8]
    return f"in {nearest}: {', '.join(names) or 'nothing'}"


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
                env = lmdb.open(self._real, readonly=True, lock=False, readahead=False, max_readers=1)
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

    def get(self, key: bytes) -> memoryview | None:
        """The value of `key`, as a view into the mapped file; None when the LMDB does not have the key."""
        return self._transaction().get(key)  # type: ignore[return-value]

    def items(self) -> Iterator[tuple[bytes, memoryview]]:
        """Iterate over all keys and values, sorted by key."""
        for key, value in self._transaction().cursor():
            yield bytes(key), value  # type: ignore[misc]

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


def columns(
    store: Path, variant: str, sources: Sequence[Path], build: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The index of a store: memory-mapped arrays by name, which `build` makes once.

    They are saved in `.index` inside the store or, where that cannot be written, in a cache folder (`UNITER_CACHE`,
    default `~/.cache/uniter`). `variant` distinguishes several indexes of one store. The index is built again when a
    file of `sources` changes its size or modification time. Several processes may build at once: the first one wins.
    """
    stamp = [variant] + [[str(s.name), s.stat().st_size, s.stat().st_mtime_ns] for s in sources if s.exists()]
    name = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:20]
    real = hashlib.sha256(os.path.realpath(store).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("UNITER_CACHE", "~/.cache/uniter")).expanduser() / real
    folders = [store / ".index" / name, cache / name]
    for folder in folders:
        if folder.is_dir():
            return _memory_mapped(folder)
    arrays = build()
    for folder in folders:
        try:
            _save(folder, arrays)
            return _memory_mapped(folder)
        except OSError:  # the disk is read-only or full: try the cache folder
            continue
    return arrays


def _save(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays to a new folder, whole or not at all; where another process was faster, keep its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
    temporary.chmod(0o755)
    try:
        with whole_folder(folder, temporary):
            for key, array in arrays.items():
                with atomic_file(temporary / f"{key}.npy") as stream:
                    np.save(stream, array, allow_pickle=False)
    except OSError:
        if not folder.is_dir():
            raise


def _memory_mapped(folder: Path) -> dict[str, np.ndarray]:
    # Plain arrays over the map, because reading single elements of an np.memmap is slow.
    return {
        path.stem: np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray) for path in folder.glob("*.npy")
    }
