"""Which pictures an image LMDB holds, and how many regions it announces of each: what its index is made from."""

import json
from pathlib import Path

from data.lmdb_io import Reader
from utils.errors import InputError
from utils.files import read_json

KEYS = b"__keys__"  # the LMDB's own list of its pictures


def picture_keys(reader: Reader) -> list[bytes]:
    """The keys of all pictures, sorted; `InputError` where one that the LMDB itself lists is not there."""
    keys = [key for key, _ in reader.items() if key != KEYS]
    key_list = reader.get(KEYS)
    absent = sorted(set(json.loads(bytes(key_list))) - {key.decode() for key in keys}) if key_list else []
    if absent or not keys:
        raise InputError(
            "an image LMDB is not whole",
            file=reader.folder / "data.mdb",
            key=", ".join(absent[:3]) or None,
            found=f"{len(keys)} pictures; {len(absent)} that __keys__ lists are not there",
            expected="every picture, at least one",
            remedy="copy the whole folder again, or make it again with scripts/convert_imgdir.py",
        )
    return keys


def announced_counts(file: Path, keys: list[bytes], folder: Path) -> dict[str, int]:
    """Regions by picture, from a store's `nbb_…json`; `InputError` unless all its pictures are in the LMDB `folder`."""
    counts: dict[str, int] = read_json(file)
    absent = sorted(set(counts) - {key.decode() for key in keys})
    if absent or not counts:
        raise InputError(
            "the counts of regions and the LMDB do not belong together",
            file=file,
            key=", ".join(absent[:3]),
            found=f"{len(absent)} of {len(counts)} pictures are not in {folder}",
            expected="every picture, at least one",
            remedy="copy the whole folder again, or make it again with scripts/convert_imgdir.py",
        )
    return counts
