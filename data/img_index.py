"""Which folder of an image store an option set means, and the columns that `ImageStore` keeps of it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.lmdb_io import KEYS, Reader
from data.region_codec import decoder
from utils.errors import InputError
from utils.files import read_json


@dataclass(frozen=True)
class Variant:
    """One folder of an image store, and where the number of regions of each picture comes from."""

    name: str  # of the columns kept of it
    folder: Path
    counts: Path | None  # the JSON of region counts; None: a fixed number, or counted from `conf`
    conf_th: float
    max_bb: int
    min_bb: int
    num_bb: int
    compressed: bool


def find_variant(path: Path, conf_th: float, max_bb: int, min_bb: int, num_bb: int, compressed: bool) -> Variant:
    """The folder of `path` for these options: its own, or else the one with all boxes; `InputError` without either."""
    fixed = conf_th <= -1
    kind = f"numbb{num_bb}" if fixed else f"th{float(conf_th)}_max{max_bb}_min{min_bb}"
    suffix = "_compressed" if compressed else ""
    own, whole = path / f"feat_{kind}{suffix}", path / f"all{suffix}"
    counts = None if fixed else path / f"nbb_{kind}.json"
    if (own / "data.mdb").exists() and (counts is None or counts.exists()):
        folder = own
    elif (whole / "data.mdb").exists():
        folder, counts = whole, None
    else:
        raise _missing(path, own, counts)
    return Variant(f"nbb_{kind}", folder, counts, conf_th, max_bb, min_bb, num_bb, compressed)


def _missing(path: Path, own: Path, counts: Path | None) -> InputError:
    there = sorted(data.parent.name for data in path.glob("*/data.mdb"))
    if own.name in there:
        return InputError(
            "the region counts of an image store are missing (the LMDB itself is there)",
            file=counts,
            found="no such file",
            expected=f'the JSON written with {own.name}: {{"NAME": REGIONS, …}}',
            remedy="copy this file too, or make the store again with scripts/convert_imgdir.py",
        )
    if there:
        return InputError(
            "an image store has no variant for these options",
            file=own,
            found=", ".join(there),
            expected=own.name,
            remedy="set conf_th, max_bb, min_bb, num_bb and compressed_db to a variant that is there, "
            "or make this one with scripts/convert_imgdir.py",
        )
    if (path / "data.mdb").exists():
        remedy = f"name the folder above: {path.parent}"
    else:
        remedy = "check the path (and data_root), or make the store with scripts/convert_imgdir.py"
    found = "no folder with a data.mdb in it" if path.is_dir() else "no such folder"
    return InputError("image store not found", file=path, found=found, expected=own.name, remedy=remedy)


def box_columns(reader: Reader, variant: Variant) -> dict[str, np.ndarray]:
    """names (m,) bytes, sorted, and nbb (m,) int32; key sets are compared in full."""
    stored = np.array(list(reader.keys()))
    if not len(stored):
        raise InputError(
            "an image store without pictures", file=reader.file, found="no records", remedy="convert it again"
        )
    _check_names(reader, stored)
    if variant.counts is not None:
        columns = _counts(reader, stored, variant.counts)
    elif variant.conf_th <= -1:
        columns = {"names": stored, "nbb": np.full(len(stored), variant.num_bb, np.int32)}
    else:
        counted = [_count(reader, key, variant) for key in stored]
        columns = {"names": stored, "nbb": np.array(counted, np.int32)}
    reader.close()
    return columns


def _check_names(reader: Reader, stored: np.ndarray) -> None:
    listed = reader.get(KEYS)
    if listed is None:
        return
    try:
        names = np.array([name.encode() for name in json.loads(bytes(listed))])
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            "the list of names in an image store is not JSON", file=reader.file, key=KEYS.decode(), found=error
        ) from None
    _check_present(reader, names, stored, "listed under __keys__")


def _check_present(reader: Reader, names: np.ndarray, stored: np.ndarray, found: str) -> None:
    absent = names[~np.isin(names, stored)]
    if len(absent):
        raise InputError(
            f"{len(absent):,} of {len(names):,} pictures are not in the LMDB",
            file=reader.file,
            key=absent[0].decode(),
            found=found,
            expected="a record for every name",
            remedy="the store is not whole: copy it again, or make it again with scripts/convert_imgdir.py",
        )


def _counts(reader: Reader, stored: np.ndarray, file: Path) -> dict[str, np.ndarray]:
    table = read_json(file)
    try:
        names = np.array([name.encode() for name in table])
        nbb = np.fromiter(table.values(), np.int32, len(table))
        if not (nbb >= 1).all():
            raise ValueError(f"{int(nbb.min())} regions for {names[nbb.argmin()].decode()}")
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            "not a table of region counts", file=file, found=error, expected='{"NAME": REGIONS (1 or more), …}'
        ) from None
    _check_present(reader, names, stored, f"named in {file.name}")
    order = np.argsort(names)
    return {"names": names[order], "nbb": nbb[order]}


def _count(reader: Reader, key: bytes, variant: Variant) -> int:
    """clamp(boxes of confidence above conf_th, min_bb, max_bb), as scripts/convert_imgdir.py counts."""
    value = reader.get(key)
    assert value is not None
    try:
        conf = decoder(variant.compressed)(value, ["conf"])["conf"]
    except (ValueError, KeyError) as error:
        raise InputError(
            "regions cannot be counted", file=reader.file, key=key.decode(), found=error, expected="an array conf"
        ) from None
    return int(np.clip((conf > variant.conf_th).sum(), variant.min_bb, variant.max_bb))
