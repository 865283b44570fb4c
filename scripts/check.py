"""Check every record of a text store, an image store or both, and print a summary of what they hold.

    python -m scripts.check --txt_db txt_db/mine.db --img_db img_db/mine

When training starts, it checks all side files but only a sample of the records; this script checks all records, what
they mean, and whether the files contradict each other. It exits with status 2 if anything is wrong.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().with_name("by_path.py")))

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from data.blank_regions import BlankSigns, blank_counts, blank_signs
from data.img_index import check_tables
from data.img_store import ImageStore
from data.lmdb_pages import check_pages
from data.record_checks import kind_of
from data.region_checks import OddBoxes, label_problem, odd_boxes
from data.stores import GT_VARIANT
from data.txt_store import TextStore
from scripts.check_texts import RecordCheck, check_expressions, check_side_files
from utils.errors import InputError, exit_on_input_error
from utils.formats import IMG_DIM, IMG_LABEL_DIM
from utils.options import MOST
from utils.ranges import number

MAX_SHOWN = 5  # bad records to describe; the rest are only counted


def main(argv: Sequence[str] | None = None) -> None:
    """Check the stores that the command line names."""
    args = command_line().parse_args(argv)
    if not args.txt_db and not args.img_db:
        raise InputError(
            "there is nothing to check",
            key="--txt_db, --img_db",
            found="neither option",
            expected="a text store, an image store or both",
            remedy="give --txt_db NAME.db, --img_db FOLDER or both",
        )
    texts = check_texts(args.txt_db) if args.txt_db else None
    for folder, variant, nth in image_folders(args, texts) if args.img_db else ():
        images = check_images(folder, variant, args.img_dim)
        if texts is not None:
            check_pair(texts, images, nth)
    print("no errors found")


def command_line() -> argparse.ArgumentParser:
    """The parser of the command line; the options of the image store have the names that training uses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--txt_db", help="text store to check (NAME.db)")
    add("--img_db", help='image store to check (the folder with feat_…); for VCR "GT_DIR;DET_DIR" or one of them')
    threshold, count = number(float, at_least=0, at_most=1, or_value=-1), number(int, at_least=1, at_most=MOST)
    add("--conf_th", type=threshold, default=0.2, help="confidence threshold of the store's variant; -1: fixed num_bb")
    add("--max_bb", type=count, default=100, help="maximum number of boxes of the store's variant")
    add("--min_bb", type=count, default=10, help="minimum number of boxes of the store's variant")
    add("--num_bb", type=count, default=36, help="number of boxes of the variant feat_numbb, with --conf_th -1")
    add("--compressed_db", action="store_true", help="check the compressed variant of the image store")
    add("--img_dim", type=count, help="expected feature width (2048 for the published models)")
    return parser


def check_texts(path: str) -> TextStore:
    """Check every record of a text store and its side files, and print a summary."""
    store = TextStore(path)
    check_pages(store.path)
    check = RecordCheck(store)
    scan(store.path / "data.mdb", "texts", range(len(store)), check)
    check.finish()
    check_side_files(store)
    lens = store.lens
    print(f"{path}: {len(store):,} texts about {len(store.img_names):,} images, {store.img_index.shape[1]} per text")
    print(
        f"  word pieces: {lens.mean():.1f} per text, {lens.max()} in the longest, {(lens > 60).sum():,} texts over 60"
    )
    print(f"  vocabulary: {store.meta.v_range[1]:,} word pieces, {store.meta.tokenizer or 'name unknown'}")
    print(f"  {check.summary()}")
    signs = check.signs
    print(f"  odd tokens: {signs.unknown:,} [UNK]; {signs.padded:,} texts with padding, {signs.masked:,} with [MASK]")
    for warning in signs.warnings():
        print(f"  warning: {warning}")
    return store


def image_folders(args: argparse.Namespace, texts: TextStore | None) -> list[tuple[str, dict[str, Any], int | None]]:
    """The image stores that `--img_db` names: the folder, the options of its variant, which image of a text it holds.

    The last is a number from 0, or None: all images of a text. VCR has a store of ground-truth boxes and one of
    detected boxes; each is opened as training opens it (`data.vcr.open_vcr`).
    """
    names = ("conf_th", "max_bb", "min_bb", "num_bb")
    variant = {name: getattr(args, name) for name in names} | {"compressed": args.compressed_db}
    is_pair, is_vcr = ";" in args.img_db, texts is not None and kind_of(texts.read(0))[0] == "vcr"
    if not is_pair and not is_vcr:
        return [(args.img_db, variant, None)]
    if is_pair and texts is not None and not is_vcr:
        raise InputError(
            "only VCR has two image stores",
            file=texts.path,
            key="--img_db",
            found=args.img_db,
            expected="one folder, because these are no texts of VCR",
            remedy="give the image store of these texts",
        )
    from data.vcr import region_folders  # it imports torch, for over a second

    folders = region_folders(args.img_db, "gt" if not is_pair and args.conf_th <= -1 else None)
    variants = (variant | GT_VARIANT, variant)
    return [(folder, variants[nth], nth) for nth, folder in enumerate(folders) if folder is not None]


def check_images(folder: str, variant: dict[str, Any], img_dim: int | None) -> ImageStore:
    """Check every record of an image store, soft labels included, and print a summary."""
    store = ImageStore(folder, **variant)
    check_pages(store.folder)
    store.check(sample=0, img_dim=img_dim)
    check_tables(store.folder, store.counts)
    n_regions = np.zeros(len(store), np.int64)
    odd = np.zeros((len(store), len(OddBoxes._fields)), np.int64)
    classes: Counter[int | None] = Counter()
    signs: list[BlankSigns] = []

    def check_record(row: int) -> None:
        regions = store.check_record(row, soft_labels=True)
        signs.append(blank_signs(regions))
        n_regions[row], odd[row] = len(regions.features), odd_boxes(regions.pos)
        classes[None if regions.soft_labels is None else regions.soft_labels.shape[1]] += 1

    scan(store.folder / "data.mdb", "images", range(len(store)), check_record)
    store.check_blank(signs)
    unsorted = store.check_order(range(len(store)))
    labels = number_of_classes(store, classes)
    print(f"{store.folder}: {len(store):,} images, features of width {store.img_dim}")
    print(f"  regions: {n_regions.mean():.1f} per image, {n_regions.min()} to {n_regions.max()}")
    print(f"  odd boxes: {', '.join(f'{n:,} {name}' for n, name in zip(odd.sum(0), OddBoxes._fields))}")
    print(f"  blank: {blank_counts(signs)}")
    print(f"  {unsorted:,} images leave out a region that is more confident than one that is read")
    other = "" if labels == IMG_LABEL_DIM else f", but mrc and mrckl need {IMG_LABEL_DIM:,}"
    print(f"  soft labels: {f'{labels:,} classes{other}' if labels else 'none; mrc and mrckl need them'}")
    if store.conf_th > -1:
        fewer = int((n_regions < store.n_announced).sum())
        print(f"  {fewer:,} images hold fewer regions than the table of counts says; the smaller number is used")
    return store


def number_of_classes(store: ImageStore, classes: Counter[int | None]) -> int | None:
    """The number of soft labels of all images, None without; `classes` counts the images with each number.

    `InputError` when there are several numbers, or when it is not that of the detector that features of the published
    models' width are from.
    """
    if len(classes) > 1:
        raise InputError(
            "the images have different numbers of soft labels",
            file=store.folder / "data.mdb",
            found=", ".join(f"{n:,} images with {c or 'none'}" for c, n in classes.items()),
            expected="the same number of detector classes for all images, or no soft labels at all",
            remedy="extract all images with the same detector",
        )
    labels = next(iter(classes))
    if labels not in (None, IMG_LABEL_DIM) and store.img_dim == IMG_DIM:
        problem = label_problem(np.empty((0, labels or 0), np.float16), IMG_LABEL_DIM)
        assert problem is not None
        raise InputError(
            problem.title,
            file=store.folder / "data.mdb",
            key="soft_labels",
            found=f"{problem.value}, for all {len(store):,} images",
            expected=problem.expected,
            remedy="extract them again with all classes, or leave the array out: only mrc and mrckl need it",
        )
    return labels


def check_pair(texts: TextStore, images: ImageStore, nth: int | None) -> None:
    """Check that the image store holds every image that the texts name; `InputError` otherwise.

    `nth`: it holds only this one of a text's images, counted from 0; None: all. Referring expressions are compared
    with the regions too.
    """
    if (texts.path / "images.json").exists():
        check_expressions(texts, images)
        return
    names = texts.img_names if nth is None else texts.img_names[np.unique(texts.img_index[:, nth])]
    absent = names[images.rows(names) < 0]
    if len(absent):
        raise InputError(
            f"{len(absent):,} of {len(names):,} images that the texts name are missing in the image store",
            file=images.folder / "data.mdb",
            key=", ".join(name.decode() for name in absent[:MAX_SHOWN]),
            found=f"names such as {images.name(0)}",
            expected=f"every image named in {texts.path}",
            remedy="give the image store that belongs to the text store, add the missing images, "
            "or prepare the texts with an --img_name that fits",
        )
    print(f"  the image store holds all {len(names):,} images that the texts name")


def scan(file: Path, unit: str, rows: Iterable[int], check_record: Callable[[int], object]) -> None:
    """Check the records of these rows; one `InputError` describes all bad ones. `unit`: what a record is."""
    bad: list[str] = []
    for row in tqdm(rows, desc=unit, unit="", unit_scale=True, disable=None):
        try:
            check_record(row)
        except InputError as error:
            bad.append(" | ".join(line.strip() for line in str(error).splitlines() if "remedy:" not in line))
    if bad:
        details = "".join(f"\n    {line}" for line in bad[:MAX_SHOWN])
        more = f"\n    and {len(bad) - MAX_SHOWN:,} more" if len(bad) > MAX_SHOWN else ""
        raise InputError(
            f"{len(bad):,} {unit} cannot be used",
            file=file,
            found=details + more,
            expected="records in the format that docs/DATA.md describes",
            remedy="prepare these records again, or leave them out of the text store",
        )


if __name__ == "__main__":
    exit_on_input_error(main)
