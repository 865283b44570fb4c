"""Features of bottom-up attention from its tsv files (also LXMERT's) → one `.npz` a picture, for `convert_imgdir.py`.

    python -m scripts.import_features --tsv train2014_obj36.tsv --img_name 'coco_train2014_{image_id:012}.npz' --output npz/coco

Two layouts are read: LXMERT's (img_id, img_h, img_w, objects_id, objects_conf, attrs_id, attrs_conf, num_boxes, boxes,
features) and the older one without classes (image_id, image_w, image_h, num_boxes, boxes, features). Arrays are base64.
Soft labels, which neither layout has, are made from the best class: its confidence on it, the rest spread evenly.
"""

import base64
import binascii
import csv
import gzip
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from scripts.regions import CLASSES, WIDTH, soft_labels
from utils.config import parse
from utils.errors import InputError, run
from utils.files import atomic_write, write_json
from utils.options import option

LXMERT = "img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features".split()  # noqa: SIM905
BUTD = "image_id image_w image_h num_boxes boxes features".split()  # noqa: SIM905
UNKNOWN_CONFIDENCE = 0.5  # of the layout without classes: its boxes have passed the detector's own threshold


@dataclass(kw_only=True)
class ImportConfig:
    """Options of the import."""

    tsv: list[str] = option(help="tsv files, .gz too")
    output: str = option(help="new folder for the .npz files")
    img_name: str = option("{img_id}.npz", help="name of a picture's file: {img_id}, or {image_id}, its last number")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, fields) of a tsv in either layout, told apart by the number of columns."""
    csv.field_size_limit(2**31 - 1)
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else open(path)
    with opened as stream:
        for number, row in enumerate(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            names = {len(LXMERT): LXMERT, len(BUTD): BUTD}.get(len(row))
            if names is None:
                raise InputError(
                    "not a tsv of bottom-up attention or LXMERT",
                    file=path,
                    key=f"line {number}",
                    found=f"{len(row)} columns",
                    expected=f"{len(LXMERT)} ({', '.join(LXMERT)}) or {len(BUTD)} ({', '.join(BUTD)})",
                )
            if row[0] not in ("img_id", "image_id"):  # a header line
                yield number, dict(zip(names, row))


def convert(row: dict[str, str], where: dict[str, Any]) -> dict[str, np.ndarray]:
    """One row → `features`, `norm_bb`, `conf`, `soft_labels`, most confident box first."""
    try:
        n = int(row["num_boxes"])
        prefix = "img" if "img_w" in row else "image"
        width, height = float(row[f"{prefix}_w"]), float(row[f"{prefix}_h"])
        boxes = _array(row["boxes"], np.float32).reshape(n, 4)
        features = _array(row["features"], np.float32).reshape(n, WIDTH)
        if "objects_id" in row:
            classes = _array(row["objects_id"], np.int64).reshape(n) + 1  # background is class 0
            conf = _array(row["objects_conf"], np.float32).reshape(n)
        else:
            classes, conf = None, np.full(n, UNKNOWN_CONFIDENCE, np.float32)
    except (ValueError, KeyError, binascii.Error) as error:
        raise InputError(
            "a row that does not decode",
            **where,
            found=error,
            expected=f"num_boxes × 4 boxes, × {WIDTH} features, float32",
        ) from None
    if n < 1 or not (np.isfinite(features).all() and np.isfinite(boxes).all()):
        raise InputError("a row without boxes, or with numbers that are not finite", **where, found=f"{n} boxes")
    if classes is not None and not (1 <= classes.min() and classes.max() < CLASSES):
        raise InputError("a class out of range", **where, found=int(classes.max()) - 1, expected=f"0..{CLASSES - 2}")
    labels = soft_labels(classes, conf) if classes is not None else np.full((n, CLASSES), 1 / CLASSES)
    order = np.argsort(-conf, kind="stable")
    corners = np.clip(boxes / np.array([width, height] * 2), 0, 1)
    return {
        "features": features[order].astype(np.float16),
        "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1)[order].astype(np.float16),
        "conf": conf[order].astype(np.float16),
        "soft_labels": labels[order].astype(np.float16),
    }


def _array(text: str, dtype: Any) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype)


def file_name(pattern: str, img_id: str, where: dict[str, Any]) -> str:
    """The name of a picture's `.npz`."""
    digits = re.search(r"(\d+)$", img_id)
    try:
        name = pattern.format(img_id=img_id, image_id=int(digits[1]) if digits else None)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError("cannot name a picture's file", **where, found=f"{pattern}: {error}") from None
    if not name.endswith(".npz") or "/" in name:
        raise InputError("cannot name a picture's file", **where, found=name, expected="a name ending in .npz")
    return name


def main(argv: list[str] | None = None) -> None:
    config, _ = parse(ImportConfig, argv)
    output = Path(config.output)
    if output.exists() and any(output.iterdir()):
        raise InputError("the output folder is not empty", file=output, remedy="name a new folder, or delete this one")
    written: dict[str, str] = {}
    for path in map(Path, config.tsv):
        if not path.is_file():
            raise InputError("file not found", file=path, key="--tsv")
        for number, row in tqdm(read_rows(path), unit="picture", disable=None):
            img_id = row.get("img_id") or row["image_id"]
            where = {"file": path, "key": f"line {number}, {img_id}"}
            name = file_name(config.img_name, img_id, where)
            if name in written:
                raise InputError("two rows give one file name", **where, found=name, remedy="another --img_name")
            buffer = io.BytesIO()
            np.savez(buffer, **convert(row, where))  # type: ignore[arg-type]
            atomic_write(output / name, buffer.getvalue())
            written[name] = img_id
    if not written:
        raise InputError("no pictures", file=", ".join(config.tsv))
    write_json(
        output / "provenance.json", {"features": config.tsv, "soft_labels": "made from the best class"}, indent=2
    )
    print(f"{len(written)} pictures in {output}")


if __name__ == "__main__":
    run(main)
