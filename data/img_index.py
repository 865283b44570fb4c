"""The images of an image LMDB and their region counts, from which the store's index is built."""

from pathlib import Path

from data.lmdb_io import Reader
from utils.errors import InputError
from utils.files import read_json
from utils.json_text import parse_json

KEYS = b"__keys__"  # the LMDB's own list of its images


def picture_keys(reader: Reader) -> list[bytes]:
    """The keys of all images, sorted; `InputError` when there are none, or a key that `__keys__` lists is missing."""
    keys = [key for key, _ in reader.items() if key != KEYS]
    key_list = reader.get(KEYS)
    names = parse_json(bytes(key_list), reader.folder / "data.mdb", KEYS.decode()) if key_list else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        expected, remedy = "a list of image names", "make the store again with scripts/convert_imgdir.py"
        file, key = reader.folder / "data.mdb", KEYS.decode()
        raise InputError("the list of images is damaged", file=file, key=key, expected=expected, remedy=remedy)
    absent = sorted(set(names) - {key.decode(errors="replace") for key in keys})
    if absent or not keys:
        raise InputError(
            "the image LMDB is incomplete",
            file=reader.folder / "data.mdb",
            key=", ".join(absent[:3]) or None,
            found=f"{len(keys)} images; {len(absent)} of the images that __keys__ lists are missing",
            expected="every listed image, at least one",
            remedy="copy the whole folder again, or make it again with scripts/convert_imgdir.py",
        )
    return keys


def announced_counts(file: Path, keys: list[bytes], folder: Path) -> dict[str, int]:
    """The region count of each image, by key, from a store's `nbb_….json`.

    `InputError` when it is empty or lists an image that is not among `keys`, those of the LMDB `folder`.
    """
    counts: dict[str, int] = read_json(file)
    absent = sorted(set(counts) - {key.decode() for key in keys})
    if absent or not counts:
        raise InputError(
            "the file of region counts does not fit the LMDB",
            file=file,
            key=", ".join(absent[:3]),
            found=f"{len(absent)} of {len(counts)} images are not in {folder}",
            expected="every listed image in the LMDB, at least one",
            remedy="copy the whole folder again, or make it again with scripts/convert_imgdir.py",
        )
    return counts
