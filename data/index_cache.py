"""The index files of a store: arrays that are built once, kept beside the store, and checked before they are used.

    .index/NAME/ARRAY.npy        one file for each array
    .index/NAME/checksums.json   the size and checksum of each of them

NAME is a hash of all that the arrays are made from: the contents of the store's side files, the size, time and a sample
of its LMDB, the options, and the version of this format. So a changed store does not find an old index.
"""

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data.lmdb_io import Reader
from utils.errors import InputError
from utils.files import atomic_file, read_json, whole_folder, write_json
from utils.fingerprints import file_checksum, sample_checksum

VERSION = 2  # raise it when the arrays of an index change their meaning

Arrays = dict[str, np.ndarray]


def columns(
    store: Path,
    variant: str,
    reader: Reader,
    *,
    sides: Sequence[Path],
    build: Callable[[], Arrays],
    keys: str,
) -> Arrays:
    """The index of a store: memory-mapped arrays by name, which `build` makes once.

    They are saved in `.index` inside the store or, where that cannot be written, in a cache folder (`UNITER_CACHE`,
    default `~/.cache/uniter`). `variant` distinguishes several indexes of one store, `reader` reads its LMDB,
    `sides` are its other files. An index is used when its files have their checksums and a sample of its array `keys`
    is in the LMDB; otherwise it is built again. Several processes may build at once: the first one wins.
    """
    stamps = [[side.name, *file_checksum(side)] for side in sides if os.path.exists(side)]
    stamp = [VERSION, variant, sample_checksum(reader.folder / "data.mdb"), *stamps]
    name = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:20]
    real = hashlib.sha256(os.path.realpath(store).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("UNITER_CACHE") or "~/.cache/uniter").expanduser() / real
    folders = [store / ".index" / name, cache / name]
    for folder in folders:
        arrays = _load(folder)
        if arrays is not None and reader.has_sample(arrays[keys]):
            return arrays
    arrays = build()
    for folder in folders:
        try:
            _save(folder, arrays)
        except (OSError, InputError):  # the disk is read-only or full: try the cache folder
            continue
        saved = _load(folder)
        if saved is not None:
            return saved
    return arrays


def _load(folder: Path) -> Arrays | None:
    """Map the arrays of a folder into memory; None when a file is missing, damaged or cannot be read."""
    try:
        checksums = read_json(folder / "checksums.json")
        arrays = {}
        for name, checksum in checksums.items():
            file = folder / f"{name}.npy"
            if file_checksum(file) != checksum:
                return None
            # A plain array over the map, because reading single elements of an np.memmap is slow.
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        return arrays
    except (InputError, OSError, ValueError, AttributeError, TypeError, EOFError, SyntaxError, struct.error):
        return None


def _save(folder: Path, arrays: Arrays) -> None:
    """Write the arrays to a new folder, whole or not at all, in place of a folder that cannot be used."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
    temporary.chmod(0o755)
    with whole_folder(folder, temporary):
        checksums = {}
        for name, array in arrays.items():
            with atomic_file(temporary / f"{name}.npy") as stream:
                np.save(stream, array, allow_pickle=False)
            checksums[name] = file_checksum(temporary / f"{name}.npy")
        write_json(temporary / "checksums.json", checksums)
        if os.path.lexists(folder) and _load(folder) is None:  # a good one is of a process that was faster
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".old-"))
            os.rename(folder, old / folder.name)
            shutil.rmtree(old, ignore_errors=True)
