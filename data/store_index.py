"""Columns of a store (ids, lengths, picture names …) as memory-mapped arrays, made once and shared by all processes."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

_VERSION = "1"  # changes with what is in the columns


def columns(
    folder: Path, name: str, sources: Iterable[Path], build: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The columns that `build` makes of `sources`, from the last time where the sources did not change.

    They lie in `folder/.index`, or, where that cannot be written, under `$UNITER_CACHE` or `~/.cache/uniter`.
    """
    wanted = f"{name}-{_stamp(sources)}"
    cache = Path(os.environ.get("UNITER_CACHE") or Path.home() / ".cache" / "uniter")
    places = [folder / ".index", cache / hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:16]]
    for place in places:
        if (place / wanted).is_dir():
            return _load(place / wanted)
    built = build()
    for place in places:
        try:
            _save(place, name, wanted, built)
            return _load(place / wanted)
        except OSError:
            continue
    return built  # nowhere to write: this process keeps its own


def _stamp(sources: Iterable[Path]) -> str:
    text = _VERSION
    for source in sources:
        found = source.stat()
        text += f"\n{source.name} {found.st_size} {found.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _save(place: Path, name: str, wanted: str, built: dict[str, np.ndarray]) -> None:
    """Put the columns there whole; several processes may do so at once, the first one wins."""
    place.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=place))
    try:
        making.chmod(0o755)
        for column, array in built.items():
            with open(making / f"{column}.npy", "wb") as stream:
                np.save(stream, array)
                stream.flush()
                os.fsync(stream.fileno())
        try:
            making.rename(place / wanted)
        except OSError:
            if not (place / wanted).is_dir():
                raise
        for old in place.glob(f"{name}-*"):
            if old.name != wanted and len(old.name) == len(wanted):
                shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _load(place: Path) -> dict[str, np.ndarray]:
    # plain arrays over the map: element access of np.memmap itself is slow
    return {
        file.stem: np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray) for file in place.glob("*.npy")
    }
