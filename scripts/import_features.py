"""Import features of bottom-up attention or LXMERT from tsv files: one `.npz` per image, for `convert_imgdir.py`.

    python -m scripts.import_features --tsv train2014_obj36.tsv --output npz/coco

Two layouts are read: LXMERT's (img_id, img_h, img_w, objects_id, objects_conf, attrs_id, attrs_conf, num_boxes, boxes,
features) and the older one without classes (image_id, image_w, image_h, num_boxes, boxes, features). Arrays are base64.
Neither layout has soft labels. They are made from the best class: the class gets its confidence, and the rest is spread
evenly over all classes. Without classes all labels are equal, so MRC and MRC-kl have nothing to learn.
"""

import base64
import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from tqdm import tqdm

from prepare.output import NpzNames
from prepare.regions import soft_labels
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import new_folder, write_json
from utils.formats import IMG_DIM, IMG_LABEL_DIM
from utils.options import option

_LXMERT = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf")
_ARRAYS = ("num_boxes", "boxes", "features")
LAYOUTS = ((*_LXMERT, *_ARRAYS), ("image_id", "image_w", "image_h", *_ARRAYS))
UNKNOWN_CONFIDENCE = 0.5  # for the layout without classes, whose boxes have passed the detector's own threshold
HALF_MAX = float(np.finfo(np.float16).max)


@dataclass(kw_only=True)
class ImportConfig:
    """Options of `scripts.import_features`, which imports tsv files of bottom-up attention or LXMERT."""

    tsv: list[str] = option(help="tsv files of features, plain or .gz")
    output: str = option(help="new folder for the .npz files")
    img_name: str | None = option(
        None,
        help="format of the file names, from {img_id}, {image_id} (the number at its end), {split}. "
        "Default: {img_id}.npz, for COCO images coco_{split}_{image_id:012}.npz",
    )
    split: str | None = option(None, help="value of {split}, if COCO's file names do not contain it")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a tsv: (line number, fields) of each row. The number of columns tells which layout it is."""
    csv.field_size_limit(2**31 - 1)
    layouts = {len(names): names for names in LAYOUTS}
    number = 0
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as stream:
            for number, row in enumerate(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
                if len(row) not in layouts:
                    raise InputError(
                        "the file is not a tsv of bottom-up attention or LXMERT",
                        file=path,
                        key=f"line {number}",
                        found=f"{len(row)} columns",
                        expected=" or ".join(f"{n} ({', '.join(names)})" for n, names in layouts.items()),
                    )
                if row[0] not in ("img_id", "image_id"):  # a header line
                    yield number, dict(zip(layouts[len(row)], row))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise InputError("the file cannot be read", file=path, key=f"after line {number}", found=error) from None


def convert(row: dict[str, str], *, file: Path, key: str) -> dict[str, np.ndarray]:
    """Convert one row: `features`, `norm_bb`, `conf`, `soft_labels`, most confident box first.

    `file`, `key`: the place of the row, for error messages. `InputError` if a value is wrong.
    """
    try:
        n = int(row["num_boxes"])
        width, height = (float(row[f"{'img' if 'img_w' in row else 'image'}_{side}"]) for side in "wh")
        boxes = _array(row["boxes"], np.float32).reshape(n, 4)
        features = _array(row["features"], np.float32).reshape(n, IMG_DIM)
        classes, conf = None, np.full(n, UNKNOWN_CONFIDENCE, np.float32)
        if "objects_id" in row:
            classes = _array(row["objects_id"], np.int64).reshape(n) + 1  # background is class 0
            conf = _array(row["objects_conf"], np.float32).reshape(n)
    except ValueError as error:
        expected = f"num_boxes × 4 numbers of boxes, num_boxes × {IMG_DIM} features, as float32 in base64"
        raise InputError("the row cannot be decoded", file=file, key=key, found=error, expected=expected) from None
    _check(boxes, features, conf, width=width, height=height, file=file, key=key)
    if classes is not None and (classes.min() < 1 or classes.max() >= IMG_LABEL_DIM):
        wrong, expected = classes[(classes < 1) | (classes >= IMG_LABEL_DIM)][0] - 1, f"0..{IMG_LABEL_DIM - 2}"
        raise InputError("a class is out of range", file=file, key=key, found=int(wrong), expected=expected)
    labels = soft_labels(classes, conf) if classes is not None else np.full((n, IMG_LABEL_DIM), 1 / IMG_LABEL_DIM)
    order = np.argsort(-conf, kind="stable")
    corners = np.clip(boxes / np.array([width, height] * 2), 0, 1)
    return {
        "features": features[order].astype(np.float16),
        "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1)[order].astype(np.float16),
        "conf": conf[order].astype(np.float16),
        "soft_labels": labels[order].astype(np.float16),
    }


def _array(text: str, dtype: DTypeLike) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype)


def _check(
    boxes: np.ndarray,
    features: np.ndarray,
    conf: np.ndarray,
    *,
    width: float,
    height: float,
    file: Path,
    key: str,
) -> None:
    """Check the values of a row; `InputError` if one is wrong. Boxes may lie partly outside the image: they are cut."""
    if not (0 < width < np.inf and 0 < height < np.inf):
        raise InputError("the size of the image is wrong", file=file, key=key, found=f"{width} × {height}")
    if len(boxes) < 1:
        raise InputError("the image has no boxes", file=file, key=key, remedy="remove its line")
    for name, array, largest in (
        ("boxes", boxes, np.inf),
        ("features", features, HALF_MAX),
        ("objects_conf", conf, 1.001),
    ):
        wrong = array[~(np.abs(array) <= largest) | np.isinf(array)]
        if len(wrong):
            expected = f"numbers up to {largest:g}"
            raise InputError(f"{name} is out of range", file=file, key=key, found=wrong[0], expected=expected)
    if conf.min() < 0:
        raise InputError("objects_conf is out of range", file=file, key=key, found=conf.min(), expected="0..1")
    inside = (boxes[:, :2] < boxes[:, 2:]) & (boxes[:, :2] < (width, height)) & (boxes[:, 2:] > 0)
    if not inside.all():
        box = boxes[~inside.all(1)][0].round(1).tolist()
        expected = f"x1 < x2 and y1 < y2, within {width:g} × {height:g} pixels"
        raise InputError("a box is empty or lies outside its image", file=file, key=key, found=box, expected=expected)


def main(argv: list[str] | None = None) -> None:
    """Import the tsv files of the command line."""
    config, _ = parse(ImportConfig, argv)
    names, count = NpzNames((config.img_name or "").replace("{img_id", "{stem") or None, config.split), 0
    with new_folder(config.output) as output:
        for path in map(Path, config.tsv):
            for number, row in tqdm(read_rows(path), unit="image", disable=None):
                img_id = row.get("img_id") or row["image_id"]
                arrays = convert(row, file=path, key=f"line {number}, {img_id}")
                # ".jpg" is added because NpzNames removes a suffix, and an id may contain a dot
                np.savez(output / names.name(f"{img_id}.jpg", None, path), **arrays)  # type: ignore[arg-type]
                count += 1
        if not count:
            raise InputError("the files hold no images", file=", ".join(config.tsv))
        provenance = {"features": config.tsv, "pictures": count, "soft_labels": "made from the best class"}
        write_json(output / "provenance.json", provenance, indent=2)
    print(f"{count} images written to {config.output}")


if __name__ == "__main__":
    exit_on_input_error(main)
