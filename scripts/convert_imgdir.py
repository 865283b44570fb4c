"""Convert a folder of `.npz` files, one per image, to an image LMDB in the release's layout.

    python scripts/convert_imgdir.py --img_dir npz/coco_train2014 --output img_db/coco_train2014

Each `.npz` holds `features` (n, D), `norm_bb` (n, 6: x1, y1, x2, y2, w, h in 0..1), `conf` (n,) and, for MRC,
`soft_labels` (n, classes, background first), sorted from the most confident box down. The first boxes are kept: those
above `--conf_th`, at least `--min_bb` and at most `--max_bb`; all with `--keep_all`. With `--conf_th -1` confidences do
not matter, and `--num_bb` is part of the store's name: readers take the first `num_bb` boxes.
This file also runs alone: it imports nothing else of the project.
"""

import argparse
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import lmdb
import msgpack
import msgpack_numpy
import numpy as np
from tqdm import tqdm

MAP_SIZE = 1 << 42  # an upper limit that LMDB needs, not the size on disk
ARRAYS = ("features", "norm_bb", "conf")


def compute_num_bb(conf: np.ndarray, conf_th: float, min_bb: int, max_bb: int) -> int:
    """The number of boxes to keep. As in the release, it may be larger than the number of boxes."""
    return int(min(max(int((conf > conf_th).sum()), min_bb), max_bb))


def variant(args: argparse.Namespace) -> str:
    """The name of the LMDB folder."""
    if args.keep_all:
        name = "all"
    elif args.conf_th == -1:
        name = f"feat_numbb{args.num_bb}"
    else:
        name = f"feat_th{args.conf_th}_max{args.max_bb}_min{args.min_bb}"
    return name + ("_compressed" if args.compress else "")


def convert(path: Path, args: argparse.Namespace) -> tuple[str, bytes | str, int]:
    """Convert one file: (name, record, boxes kept). If the file cannot be used, the record is an error message."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if file[name].ndim in (1, 2)}
    except Exception as error:  # zipfile, numpy and the operating system each raise their own exceptions
        return path.name, f"the file cannot be read: {error}", 0
    lengths = {len(array) for array in arrays.values()}
    if any(name not in arrays for name in ARRAYS) or len(lengths) != 1 or 0 in lengths:
        shapes = {name: array.shape for name, array in arrays.items()}
        return path.name, f"expected {', '.join(ARRAYS)} with equally many rows, at least 1; found {shapes}", 0
    conf = arrays["conf"]  # boxes are counted before the confidences are rounded to float16
    with np.errstate(over="ignore"):  # a number that is too large becomes infinite and is refused below
        arrays = {
            name: a.astype(np.float16) if a.dtype in (np.float32, np.float64) else a for name, a in arrays.items()
        }
    if any(array.dtype.kind not in "fiub" or not np.isfinite(array).all() for array in arrays.values()):
        return path.name, "an array holds NaN, infinity, a number beyond float16 (65504) or no numbers", 0
    if args.keep_all:
        n_boxes = lengths.pop()
    else:
        n_boxes = compute_num_bb(conf, args.conf_th, args.min_bb, args.max_bb)
    arrays = {name: array[:n_boxes] for name, array in arrays.items()}
    if args.compress:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return path.name, buffer.getvalue(), n_boxes
    return path.name, msgpack.packb(arrays, default=msgpack_numpy.encode, use_bin_type=True), n_boxes


def write(args: argparse.Namespace) -> str | None:
    """Write the store. Returns None, or an error message; after an error no partial store is left."""
    img_dir, output = Path(args.img_dir), Path(args.output)
    files = sorted(img_dir.glob("*.npz"))
    if not files:
        return f"no .npz files in {img_dir}; expected one per image (scripts/describe_regions.py writes them)"
    target = output / variant(args)
    if target.exists():
        return f"{target} exists already; remove it, or give another --output"
    temporary = output / f".{target.name}.{os.getpid()}.tmp"
    temporary.mkdir(parents=True)
    counts: dict[str, int] = {}
    try:
        with lmdb.open(str(temporary), map_size=MAP_SIZE, lock=False) as env, Pool(args.nproc) as pool:
            txn = env.begin(write=True)
            records = pool.imap(partial(convert, args=args), files, chunksize=16)
            for name, record, n_boxes in tqdm(records, total=len(files), unit="image", disable=None):
                if isinstance(record, str):
                    return f"{img_dir / name}: {record}; extract the features of this image again"
                txn.put(name.encode(), record)
                counts[name] = n_boxes
                if len(counts) % 1000 == 0:
                    txn.commit()
                    txn = env.begin(write=True)
            txn.put(b"__keys__", json.dumps(list(counts)).encode())
            txn.commit()
            env.sync(True)
        if not args.keep_all and args.conf_th != -1:  # the LMDB comes last: its folder means that all is written
            save_json(output / f"nbb_th{args.conf_th}_max{args.max_bb}_min{args.min_bb}.json", counts)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if (img_dir / "provenance.json").exists():  # the origin of features and classes stays with the store
        shutil.copyfile(img_dir / "provenance.json", output / "provenance.json")
    print(f"{len(counts)} images with at most {sum(counts.values())} boxes in {target}")
    return None


def save_json(path: Path, value: dict[str, int]) -> None:
    """Write a JSON file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)


def number(kind: type, low: float, high: float, other: float | None = None) -> Callable[[str], float]:
    """The `type` of a flag that is a number from `low` to `high`, or `other`."""

    def parse(text: str) -> float:
        """Convert the text of the flag; `ValueError` when it is no number of this kind."""
        value: float = kind(text)
        if not (low <= value <= high or value == other):
            allowed = f"from {low} to {high}" + ("" if other is None else f", or {other}")
            raise argparse.ArgumentTypeError(f"{text[:80]} is out of range: expected a number {allowed}")
        return value

    parse.bounds = low, high, other  # type: ignore[attr-defined]
    parse.__name__ = kind.__name__  # in the message of argparse for text that is no number
    return parse


def main() -> None:
    """Convert the folder that the command line names; on an error, print it and exit with status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--img_dir", required=True, help="folder of .npz files to convert")
    add("--output", required=True, help="folder of the image store; it may hold other variants already")
    count = number(int, 1, 10_000)
    add("--nproc", type=count, default=8, help="number of parallel processes")
    add("--compress", action="store_true", help="write records as compressed npz")
    add("--keep_all", action="store_true", help="keep all boxes (variant `all`)")
    add(
        "--conf_th",
        type=number(float, 0, 1, -1),
        default=0.2,
        help="keep boxes above this confidence; -1: a fixed number, see --num_bb",
    )
    add("--max_bb", type=count, default=100, help="keep at most this many boxes of an image")
    add("--min_bb", type=count, default=10, help="keep at least this many boxes of an image")
    add("--num_bb", type=count, default=100, help="number of boxes that readers take with --conf_th -1")
    args = parser.parse_args()
    if args.min_bb > args.max_bb:
        parser.error(f"argument --min_bb: {args.min_bb} is greater than --max_bb, which is {args.max_bb}")
    problem = write(args)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
