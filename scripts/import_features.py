"""Import features of bottom-up attention and its relatives: one `.npz` per image, for `convert_imgdir.py`.

    python -m scripts.import_features --tsv train2014_obj36.tsv --output npz/coco
    python -m scripts.import_features --npz FOLDER --output npz/mine

The tsv layouts of bottom-up attention, LXMERT, ViLBERT and volta are read, and MILVLG's `.npz`
(`prepare/feature_rows.py`). Boxes are sorted by confidence. Soft labels are the class probabilities where the file has
them. Elsewhere they are made from the best class: it gets its confidence, and the rest is spread evenly over all
classes. Without classes all labels are equal, so MRC and MRC-kl have nothing to learn.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).with_name("by_path.py")))

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from tqdm import tqdm

from data.region_checks import Problem, conf_problem, label_problem
from prepare.feature_rows import Row, read_npz, read_tsv
from prepare.left_out import HELP, LeftOut, bad_entry
from prepare.output import NpzNames
from prepare.regions import soft_labels
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import write_json
from utils.formats import IMG_LABEL_DIM
from utils.job_folder import Job, job_folder
from utils.options import option

UNKNOWN_CONFIDENCE = 0.5  # for layouts without classes, whose boxes have passed the detector's own threshold
HALF_MAX = float(np.finfo(np.float16).max)
SLACK_PIXELS, SLACK_SHARE = 5, 0.02  # how far a box may reach outside the image; it is cut there


@dataclass(kw_only=True)
class ImportConfig:
    """Options of `scripts.import_features`, which imports features of bottom-up attention, LXMERT and relatives."""

    output: str = option(help="new folder for the .npz files")
    tsv: list[str] = option([], help="tsv files of features, plain or .gz")
    npz: list[str] = option([], help=".npz files of MILVLG or OpenVQA, or folders of them")
    img_name: str | None = option(
        None,
        help="format of the file names, from {img_id}, {image_id} (the number at its end), {split}. "
        "Default: {img_id}.npz, for COCO images coco_{split}_{image_id:012}.npz",
    )
    split: str | None = option(None, help="value of {split}, if COCO's file names do not contain it")
    skip_bad: bool = option(False, help=HELP)


def read_rows(config: ImportConfig) -> Iterator[Row]:
    """All rows of the files that the command line names."""
    for path in map(Path, config.tsv):
        yield from read_tsv(path)
    for path in map(Path, config.npz):
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not files:
            raise InputError("the folder holds no .npz files", file=path, remedy="check --npz")
        for file in files:
            with bad_entry(file):
                yield read_npz(file)


def convert(row: Row) -> tuple[dict[str, np.ndarray], bool]:
    """Convert one row: `features`, `norm_bb`, `conf`, `soft_labels`, most confident box first; whether this is new.

    `InputError` if a value is wrong.
    """
    fields, classes, labels = row.fields, None, None
    try:
        n, width, height = int(fields["num_boxes"]), float(fields["img_w"]), float(fields["img_h"])
        if n < 1:
            raise InputError("the image has no boxes", file=row.file, key=row.place, remedy="remove its line")
        boxes = _array(fields["boxes"], np.float32).reshape(n, 4)
        features = _array(fields["features"], np.float32).reshape(n, -1)
        conf = np.full(n, UNKNOWN_CONFIDENCE, np.float32)
        if "cls_prob" in fields:
            labels = _array(fields["cls_prob"], np.float32).reshape(n, -1)
            conf = labels[:, 1:].max(1, initial=0)
        if "objects_id" in fields:
            classes = _array(fields["objects_id"], np.int64).reshape(n) + 1  # background is class 0
            conf = _array(fields["objects_conf"], np.float32).reshape(n)
    except InputError:
        raise
    except (ValueError, OverflowError, TypeError) as error:
        expected = "num_boxes × 4 numbers of boxes, num_boxes × D features, as float32 in base64"
        raise InputError(
            "the row cannot be decoded", file=row.file, key=row.place, found=error, expected=expected
        ) from None
    _check(row, boxes, features, conf, width=width, height=height)
    if labels is None:
        labels = _labels(row, classes, conf)
    elif problem := label_problem(labels, IMG_LABEL_DIM):
        raise _bad(row, problem)
    order = np.argsort(-conf, kind="stable")
    corners = np.clip(boxes / np.array([width, height] * 2), 0, 1)
    arrays = {
        "features": features[order].astype(np.float16),
        "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1)[order].astype(np.float16),
        "conf": conf[order].astype(np.float16),
        "soft_labels": labels[order].astype(np.float16),
    }
    return arrays, bool((order != np.arange(n)).any())


def _array(value: Any, dtype: DTypeLike) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value.astype(dtype)
    value = value.strip()
    if value.startswith((b"b'", b'b"')):  # as Python 3 writes bytes
        value = value[2:-1]
    return np.frombuffer(base64.b64decode(value, validate=True), dtype)


def _bad(row: Row, problem: Problem) -> InputError:
    return InputError(problem.title, file=row.file, key=row.place, found=problem.value, expected=problem.expected)


def _labels(row: Row, classes: np.ndarray | None, conf: np.ndarray) -> np.ndarray:
    """Soft labels from the best class of each box, or equal ones; `InputError` for a class out of range."""
    if classes is None:
        return np.full((len(conf), IMG_LABEL_DIM), 1 / IMG_LABEL_DIM)
    wrong = classes[(classes < 1) | (classes >= IMG_LABEL_DIM)] - 1
    if len(wrong):
        raise _bad(row, Problem("a class is out of range", str(wrong[0]), f"0..{IMG_LABEL_DIM - 2}"))
    return soft_labels(classes, conf.clip(0, 1))


def _check(row: Row, boxes: np.ndarray, features: np.ndarray, conf: np.ndarray, *, width: float, height: float) -> None:
    """Check the values of a row; `InputError` if one is wrong. A box may lie a little outside the image: it is cut."""
    if not (0 < width < np.inf and 0 < height < np.inf):
        raise _bad(row, Problem("the size of the image is wrong", f"{width} × {height}", "a width and a height"))
    for name, array, largest in (("boxes", boxes, np.inf), ("features", features, HALF_MAX)):
        wrong = array[~(np.abs(array) <= largest) | np.isinf(array)]
        if len(wrong):
            raise _bad(row, Problem(f"{name} is out of range", str(wrong[0]), f"numbers up to {largest:g}"))
    if problem := conf_problem(conf):
        raise _bad(row, problem)
    size = np.array([width, height])
    if boxes.max() <= 1.01 and size.min() > 10:
        expected = f"x1, y1, x2, y2 in pixels of an image of {width:g} × {height:g}"
        raise _bad(row, Problem("the boxes are shares of the image", str(boxes[0].tolist()), expected))
    slack = SLACK_PIXELS + SLACK_SHARE * size
    usable = (boxes[:, :2] < boxes[:, 2:]) & (boxes[:, :2] < size) & (boxes[:, 2:] > 0)
    usable &= (boxes[:, :2] >= -slack) & (boxes[:, 2:] <= size + slack)
    if not usable.all():
        expected = f"x1 < x2 and y1 < y2, within {width:g} × {height:g} pixels"
        turned = size[::-1] + slack[::-1]
        if (boxes[:, 2:] <= turned).all() and (boxes[:, :2] < boxes[:, 2:]).all():
            expected += "; they fit if width and height are exchanged: name the columns in a header line"
        box = str(boxes[~usable.all(1)][0].round(1).tolist())
        raise _bad(row, Problem("a box is empty or lies outside its image", box, expected))


def import_row(row: Row, name: str, job: Job, widths: dict[int, str]) -> None:
    """Write one image as the file `name`, unless an earlier run has done so. `widths`: feature widths, and where."""
    note = job.done.get(name)
    if note is None or note["checksum"] != row.checksum:
        arrays, is_reordered = convert(row)
        note = {"checksum": row.checksum, "width": arrays["features"].shape[1], "reordered": is_reordered}
        if widths and note["width"] not in widths:
            raise _bad(row, Problem("the features have another width than others", str(note["width"]), str(widths)))
        np.savez(job.folder / name, **arrays)  # type: ignore[arg-type]
        job.finish(name, note)
    widths.setdefault(note["width"], f"{row.file}, {row.place}")


def import_rows(config: ImportConfig, job: Job) -> list[str]:
    """Write one `.npz` file for each row; returns their names."""
    names = NpzNames((config.img_name or "").replace("{img_id", "{stem") or None, config.split)
    files: list[str] = []
    widths: dict[int, str] = {}
    for row in tqdm(read_rows(config), unit="image", disable=None):
        place = f"{row.file}: {row.place}"
        with bad_entry(place):
            if not row.img_id:
                raise _bad(row, Problem("the image has no id", "nothing", "an id in the first column"))
            # ".jpg" is added because NpzNames removes a suffix, and an id may contain a dot
            name = names.name(f"{row.img_id}.jpg", None, place)
            import_row(row, name, job, widths)
            files.append(name)
    if not files:
        raise InputError("the files hold no images", file=", ".join(config.tsv + config.npz))
    job.remove_others(set(files))
    return files


def main(argv: list[str] | None = None) -> None:
    """Import the files of the command line."""
    config, _ = parse(ImportConfig, argv)
    if not config.tsv and not config.npz:
        raise InputError("nothing to import", key="--tsv, --npz", remedy="name files of features")
    with LeftOut(config.output, config.skip_bad).collecting(), job_folder(config.output, {"version": 1}) as job:
        files = import_rows(config, job)
        reordered_count = sum(job.done[name]["reordered"] for name in files)
        sources, labels = config.tsv + config.npz, "class probabilities of the file, or made from the best class"
        provenance = {"features": sources, "pictures": len(files), "soft_labels": labels}
        write_json(job.folder / "provenance.json", provenance, indent=2)
    print(f"{len(files)} images written to {config.output}")
    if reordered_count:
        print(f"  boxes of {reordered_count:,} images were not in order: now the most confident comes first")


if __name__ == "__main__":
    exit_on_input_error(main)
