"""The images of an image LMDB and their region counts, from which the store's index is built."""

from contextlib import closing
from pathlib import Path

from data.lmdb_io import Reader
from data.side_files import REGIONS, bad_value, check_keys, check_values
from utils.errors import InputError
from utils.files import read_json
from utils.json_text import parse_json

KEYS = b"__keys__"  # the LMDB's own list of its images


def picture_keys(reader: Reader) -> list[bytes]:
    """The keys of all images, sorted.

    `InputError` when there are none, one is not UTF-8 or has a zero byte, or one that `__keys__` lists is missing.
    """
    keys, file = [key for key, _ in reader.items() if key != KEYS], reader.folder / "data.mdb"
    check_keys(keys, file)
    try:
        names = {key.decode() for key in keys}
    except UnicodeDecodeError as error:
        raise bad_value(file, "a key of the LMDB", error.object, "the name of an image in UTF-8") from None
    key_list = reader.get(KEYS)
    absent = sorted(set(_listed_keys(bytes(key_list), file)) - names) if key_list is not None else []
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


def _listed_keys(content: bytes, file: Path) -> list[str]:
    """The keys in `__keys__`, a JSON list of names; `InputError` when it is something else."""
    names = parse_json(content, file, KEYS.decode())
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        expected = "a JSON list of image names, those of the LMDB; the entry may be left out"
        raise bad_value(file, KEYS.decode(), names, expected)
    return names


def check_tables(folder: Path, counts: Path | None) -> None:
    """`InputError` unless `__keys__` and the file of region counts, where they exist, list every image of the LMDB.

    `folder`: that of the LMDB. `counts`: the file of region counts, None where the variant has none. Readers leave out
    images without a count, so only the full scan asks for this.
    """
    with closing(Reader(folder)) as reader:
        names = {key.decode() for key in picture_keys(reader)}
        key_list, file = reader.get(KEYS), folder / "data.mdb"
        tables = [] if key_list is None else [(file, KEYS.decode(), set(_listed_keys(bytes(key_list), file)))]
    if counts is not None:
        tables.append((counts, "", set(read_json(counts))))
    for file, entry, keys in tables:
        absent = sorted(names - keys)
        if absent:
            raise InputError(
                "a list of the images lacks some of those in the LMDB",
                file=file,
                key=(entry and f"{entry}: ") + ", ".join(absent[:3]),
                found=f"{len(keys):,} of {len(names):,} images",
                expected=f"every image of {folder}",
                remedy="copy the whole folder again, or make it again with scripts/convert_imgdir.py",
            )


def announced_counts(file: Path, keys: list[bytes], folder: Path) -> dict[str, int]:
    """The region count of each image, by key, from a store's `nbb_….json`.

    `InputError` when it is empty, a count is not one, or it lists an image that is not among `keys`, those of the LMDB
    `folder`.
    """
    counts: dict[str, int] = read_json(file)
    check_values(file, counts, REGIONS)
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


def no_such_variant(folder: Path, variant: str, compressed: bool) -> InputError:
    """The error for a variant that an image store lacks: `folder` is that of its LMDB, `variant` its bounds."""
    store, suffix = folder.parent, "_compressed" if compressed else ""
    lmdb = folder if folder.is_file() else store / f"feat_{variant}{suffix}"
    if lmdb.is_file():
        return InputError(
            "an LMDB of an image store is a file instead of a folder",
            file=lmdb,
            found="a file, as lmdb.open(…, subdir=False) writes it",
            expected="a folder of this name with data.mdb in it",
            remedy=f"rename the file, make the folder {lmdb.name}, and move the file there as data.mdb",
        )
    if not store.is_dir():
        return InputError(
            "image LMDB not found",
            file=store,
            key="img_db",
            found="a file" if store.exists() else "no such folder",
            expected="a folder NAME with feat_… or all in it",
            remedy="check the path and data_root, or make it with scripts/convert_imgdir.py",
        )
    variants = sorted(p.name for p in store.iterdir() if p.name.startswith(("feat_", "nbb_", "all")))
    if f"feat_{variant}{suffix}" in variants:
        return InputError(
            "the file of region counts is missing beside its LMDB",
            file=store / f"nbb_{variant}.json",
            found="no such file",
            expected='{"KEY": NUMBER OF REGIONS, …}, written with the LMDB',
            remedy="copy this file too, or make the store again with scripts/convert_imgdir.py",
        )
    return InputError(
        "the image store does not have the variant that the options name",
        file=folder,
        key="conf_th, max_bb, min_bb, num_bb, compressed_db",
        found=f"{', '.join(variants) or 'no variant at all'} in {store}",
        expected=f"feat_{variant}{suffix}" + (f" and nbb_{variant}.json" if variant.startswith("th") else ""),
        remedy="set these options to an existing variant, or make this one with scripts/convert_imgdir.py",
    )
