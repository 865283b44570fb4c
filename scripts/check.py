"""Read every record of a text store, an image store or both, say what is in them, and name what is wrong.

    python -m scripts.check --txt_db txt_db/mine.db --img_db img_db/mine

Training checks side files in full and a sample of the records when it starts; this is the full scan. It ends with
status 2 when anything is wrong.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.img_store import ImageStore
from data.txt_store import TextStore
from utils.errors import InputError, exit_on_input_error

MAX_SHOWN = 5  # bad records described; the others are counted


def main(argv: Sequence[str] | None = None) -> None:
    """Check the stores of the command line."""
    args = command_line().parse_args(argv)
    if not args.txt_db and not args.img_db:
        raise InputError("nothing to check", expected="--txt_db, --img_db, or both")
    texts = check_texts(args.txt_db) if args.txt_db else None
    images = check_images(args) if args.img_db else None
    if texts is not None and images is not None:
        check_pair(texts, images)
    print("all is well")


def command_line() -> argparse.ArgumentParser:
    """The flags, the variant's under the names that training has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--txt_db", help="text store to check (NAME.db)")
    add("--img_db", help="image store to check (the folder that holds feat_…)")
    add("--conf_th", type=float, default=0.2, help="variant of the image store: confidence threshold; -1: fixed num_bb")
    add("--max_bb", type=int, default=100, help="most boxes of the variant")
    add("--min_bb", type=int, default=10, help="fewest boxes of the variant")
    add("--num_bb", type=int, default=36, help="boxes of the variant feat_numbb, with --conf_th -1")
    add("--compressed_db", action="store_true", help="check the compressed variant of the image store")
    add("--img_dim", type=int, help="feature width that a model takes (the published ones: 2048)")
    return parser


def check_texts(path: str) -> TextStore:
    """Read every text."""
    store = TextStore(path)
    scan(store.path / "data.mdb", "texts", range(len(store)), store.check_record)
    lens = store.lens
    print(f"{path}: {len(store):,} texts about {len(store.img_names):,} pictures, {store.img_index.shape[1]} each")
    print(f"  word pieces: {lens.mean():.1f} a text, {lens.max()} in the longest, {(lens > 60).sum():,} texts over 60")
    print(f"  vocabulary: {store.meta.v_range[1]:,} word pieces, {store.meta.tokenizer or 'of unknown name'}")
    return store


def check_images(args: argparse.Namespace) -> ImageStore:
    """Read every picture's regions, soft labels too where there are any."""
    store = ImageStore(
        args.img_db,
        conf_th=args.conf_th,
        max_bb=args.max_bb,
        min_bb=args.min_bb,
        num_bb=args.num_bb,
        compressed=args.compressed_db,
    )
    store.check(sample=0, img_dim=args.img_dim)
    n_regions = np.zeros(len(store), np.int64)
    classes: Counter[int | None] = Counter()

    def check_record(row: int) -> None:
        regions = store.check_record(row)
        n_regions[row] = len(regions.features)
        classes[None if regions.soft_labels is None else regions.soft_labels.shape[1]] += 1

    scan(store.folder / "data.mdb", "pictures", range(len(store)), check_record)
    if len(classes) > 1:
        raise InputError(
            "pictures with different numbers of soft labels",
            file=store.folder / "data.mdb",
            found=", ".join(f"{n:,} pictures with {c or 'none'}" for c, n in classes.items()),
            expected="one number of detector classes, or no soft labels at all",
            remedy="extract all pictures with one detector",
        )
    labels = next(iter(classes))
    print(f"{store.folder}: {len(store):,} pictures, features of width {store.img_dim}")
    print(f"  regions: {n_regions.mean():.1f} a picture, {n_regions.min()} to {n_regions.max()}")
    print(f"  soft labels: {f'{labels:,} classes' if labels else 'none: no training with mrc or mrckl'}")
    if args.conf_th > -1:
        fewer = int((n_regions < store.n_announced).sum())
        print(f"  {fewer:,} pictures hold fewer regions than counted (fine: the smaller number is used)")
    return store


def check_pair(texts: TextStore, images: ImageStore) -> None:
    """Every picture that the texts name must be in the image store."""
    absent = texts.img_names[images.rows(texts.img_names) < 0]
    if len(absent):
        raise InputError(
            f"{len(absent):,} of {len(texts.img_names):,} pictures that the texts name are not in the image store",
            file=images.folder / "data.mdb",
            key=", ".join(name.decode() for name in absent[:MAX_SHOWN]),
            found=f"named in {texts.path}; the store has names like {images.name(0)}",
            expected="every picture of the text store",
            remedy="pair the text store with its own image store, prepare the missing pictures, "
            "or prepare the texts with the --img_name that fits",
        )
    print(f"  all {len(texts.img_names):,} pictures that the texts name are there")


def scan(file: Path, unit: str, rows: Iterable[int], check_record: Callable[[int], object]) -> None:
    """Check the records of these rows; raises one `InputError` about all that failed. `unit`: what a record is."""
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
            expected="records as docs/DATA.md describes them",
            remedy="prepare these again, or leave them out of the text store",
        )


if __name__ == "__main__":
    exit_on_input_error(main)
