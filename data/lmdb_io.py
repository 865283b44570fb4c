"""LMDB, read-only and checked: sizes before mapping, one environment per path and process, nothing locked.

A truncated LMDB kills the process that reads it through a memory map (SIGBUS), so its size is checked first.
"""

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import lmdb
import numpy as np

from utils.errors import InputError

META_MAGIC = 0xBEEFC0DE  # LMDB's, in its first two pages


def check_size(folder: Path) -> None:
    """Refuse an LMDB that is missing, is none, or is shorter than its own header says."""
    file = folder / "data.mdb"
    if not file.is_file():
        raise InputError(
            "no LMDB there",
            file=file,
            found=_beside(folder),
            expected="data.mdb",
            remedy="check the path and data_root, or prepare the store (docs/DATA.md)",
        )
    with open(file, "rb") as stream:
        head = stream.read(152)
        page = struct.unpack_from("<I", head, 40)[0] if len(head) == 152 else 0
        magic = struct.unpack_from("<I", head, 16)[0] if page else 0
        if magic != META_MAGIC or page < 512:
            raise InputError(
                "not an LMDB", file=file, found=f"{file.stat().st_size:,} bytes", expected="LMDB's data.mdb"
            )
        stream.seek(page)
        second = stream.read(152)
    pages = [struct.unpack_from("<QQ", meta, 136)[::-1] for meta in (head, second) if len(meta) == 152]
    needed = (max(pages)[1] + 1) * page  # of the newer of the two headers
    if file.stat().st_size < needed:
        raise InputError(
            "the LMDB is cut short",
            file=file,
            found=f"{file.stat().st_size:,} bytes",
            expected=f"{needed:,} bytes by its header",
            remedy="copy or prepare it again",
        )


def _beside(folder: Path) -> str:
    nearest = folder if folder.is_dir() else folder.parent
    if not nearest.is_dir():
        return f"{nearest} does not exist"
    names = sorted(path.name for path in nearest.iterdir())[:8]
    return f"in {nearest}: {', '.join(names) or 'nothing'}"


class Reader:
    """Keys and values of one LMDB. Opened when first read, in whichever process that is.

    lmdb refuses to open a path twice in a process, or in a child of a process that holds it open: so the open
    environments of this process are kept in one table, and a parent closes before its workers fork.
    """

    _open: dict[tuple[int, str], tuple[lmdb.Environment, lmdb.Transaction]] = {}  # noqa: RUF012 (shared on purpose)

    def __init__(self, folder: Path):
        check_size(folder)
        self.folder = folder
        self._real = os.path.realpath(folder)

    def _transaction(self) -> lmdb.Transaction:
        key = (os.getpid(), self._real)
        if key not in Reader._open:
            try:
                env = lmdb.open(self._real, readonly=True, lock=False, readahead=False, max_readers=1)
            except lmdb.Error as error:
                raise InputError("the LMDB cannot be opened", file=self.folder, found=error) from None
            # One transaction for the life of the process: values are views that stay valid, and nobody writes.
            Reader._open[key] = (env, env.begin(buffers=True))
        return Reader._open[key][1]

    def get(self, key: bytes) -> memoryview | None:
        """The value, as a view into the mapped file."""
        return self._transaction().get(key)  # type: ignore[return-value]

    def items(self) -> Iterator[tuple[bytes, memoryview]]:
        """All keys and values, in the order of keys."""
        for key, value in self._transaction().cursor():
            yield bytes(key), value  # type: ignore[misc]

    def keys(self) -> list[bytes]:
        """All keys, in order, without touching values."""
        return [bytes(key) for key in self._transaction().cursor().iternext(keys=True, values=False)]

    @property
    def is_open(self) -> bool:
        """Whether this process has it open."""
        return (os.getpid(), self._real) in Reader._open

    def close(self) -> None:
        """Close it in this process; a later read opens it again."""
        opened = Reader._open.pop((os.getpid(), self._real), None)
        if opened is not None:
            opened[1].abort()
            opened[0].close()


def columns(
    store: Path, variant: str, sources: Sequence[Path], build: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Memory-mapped arrays about a store, built once and kept beside it (`.index`), or in a cache folder.

    `variant` tells apart several indexes of one store; `sources` are the files whose size or time of change makes an
    index stale. Several processes may build at once: the first to finish wins.
    """
    stamp = [variant] + [[str(s.name), s.stat().st_size, s.stat().st_mtime_ns] for s in sources if s.exists()]
    name = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:20]
    beside = store / ".index"
    real = hashlib.sha256(os.path.realpath(store).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("UNITER_CACHE", "~/.cache/uniter")).expanduser() / real
    for home in (beside, cache):
        if (home / name).is_dir():
            return _mapped(home / name)
    arrays = build()
    for home in (beside, cache):
        try:
            home.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=home, prefix=".building-"))
        except OSError:  # read-only: the cache folder serves
            continue
        for key, array in arrays.items():
            np.save(temporary / f"{key}.npy", array, allow_pickle=False)
        try:
            os.rename(temporary, home / name)
        except OSError:  # another process was faster
            shutil.rmtree(temporary)
        return _mapped(home / name)
    return arrays


def _mapped(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in folder.glob("*.npy")}
