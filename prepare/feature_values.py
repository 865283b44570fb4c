"""The values of a row of features: decoded, of one length, and what they must mean.

Legend: n boxes, D feature width, C classes.
"""

import base64
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike

from data.region_checks import Problem, conf_problem, label_problem
from prepare.feature_rows import Row
from utils.errors import InputError
from utils.formats import IMG_LABEL_DIM

UNKNOWN_CONFIDENCE = 0.5  # for layouts without classes, whose boxes have passed the detector's own threshold
HALF_MAX = float(np.finfo(np.float16).max)
SLACK_PIXELS, SLACK_SHARE = 5, 0.02  # how far a box may reach outside the image; it is cut there
# What features of a tsv are taken for, in this order, if they make no sense as float32.
OTHER_TYPES = ("int64", "int32", "float16", "float64")
TINY, HUGE, ODD_SHARE = 1e-7, 1e4, 0.01  # numbers that features do not have, and the share of them that is suspicious
FEWEST = 512  # numbers that are needed to tell one type from another


@dataclass(kw_only=True)
class Regions:
    """The regions of one image. `labels`: class probabilities; `classes`: the best class, from 1; None: unknown."""

    width: float
    height: float
    boxes: np.ndarray  # (n, 4) x1, y1, x2, y2 in pixels, float32
    features: np.ndarray  # (n, D) float32
    conf: np.ndarray  # (n,) float32
    labels: np.ndarray | None = None  # (n, C) float32
    classes: np.ndarray | None = None  # (n,) int64
    is_transposed: bool = False  # the file has the features as (D, n)


def read_regions(row: Row) -> Regions:
    """Decode a row and check what its values mean; `InputError` if one is wrong."""
    try:
        n, width, height = int(_number(row, "num_boxes")), _number(row, "img_w"), _number(row, "img_h")
        if n != _number(row, "num_boxes"):
            raise ValueError(f"{_number(row, 'num_boxes')} boxes")
        if n < 1:
            remedy = "remove its line" if row.is_tsv else "remove the file"
            raise InputError("the image has no boxes", file=row.file, key=row.place, remedy=remedy)
        regions = _of_tsv(row, n, width, height) if row.is_tsv else _of_npz(row, n, width, height)
    except InputError:
        raise
    except (ValueError, OverflowError, TypeError) as error:
        raise _cannot_be_decoded(row, str(error)) from None
    _check_values(row, regions)
    _check_boxes(row, regions)
    _check_classes(row, regions)
    return regions


def _cannot_be_decoded(row: Row, cause: str) -> InputError:
    if row.is_tsv:
        expected = "num_boxes × 4 numbers of boxes, num_boxes × D features, as float32 in base64"
    else:
        expected = "x (n, D) and bbox (n, 4); num_bbox, image_w and image_h, each one number"
    problem = f"the {'row' if row.is_tsv else 'file'} cannot be decoded"
    return InputError(problem, file=row.file, key=row.place, found=cause, expected=expected)


def bad_row(row: Row, problem: Problem) -> InputError:
    """The error for a row with a `Problem`."""
    return InputError(problem.title, file=row.file, key=row.place, found=problem.value, expected=problem.expected)


def _number(row: Row, name: str) -> float:
    """A field that is one number, as text or as an array of one."""
    value = row.fields[name]
    return float(value.item() if isinstance(value, np.ndarray) else value)


def _of_tsv(row: Row, n: int, width: float, height: float) -> Regions:
    boxes, features = _decoded(row, "boxes", n, np.float32), _decoded(row, "features", n, np.float32)
    if boxes.shape[1] != 4:
        found = f"boxes of {boxes.nbytes:,} bytes for {n} boxes; 16 bytes are 4 numbers in float32"
        raise _cannot_be_decoded(row, found)
    regions = Regions(
        width=width, height=height, boxes=boxes, features=features, conf=np.full(n, UNKNOWN_CONFIDENCE, np.float32)
    )
    if "cls_prob" in row.fields:
        labels = _decoded(row, "cls_prob", n, np.float32)
        regions = replace(regions, labels=labels, conf=labels[:, 1:].max(1, initial=0))
    if "objects_id" in row.fields:
        classes = _decoded(row, "objects_id", n, np.int64).reshape(n) + 1  # background is class 0
        regions = replace(regions, classes=classes, conf=_decoded(row, "objects_conf", n, np.float32).reshape(n))
    return regions


def _decoded(row: Row, name: str, n: int, dtype: DTypeLike) -> np.ndarray:
    """A field in base64 as (n, width)."""
    value = row.fields[name].strip()
    if value.startswith((b"b'", b'b"')):  # as Python 3 writes bytes
        value = value[2:-1]
    content = base64.b64decode(value, validate=True)
    if not content or len(content) % (n * np.dtype(dtype).itemsize):
        raise ValueError(f"{name} of {len(content):,} bytes for {n} boxes, each number {np.dtype(dtype)}")
    array = np.frombuffer(content, dtype).reshape(n, -1)
    if name == "features" and (other := _other_type(array.reshape(-1))):
        raise InputError(
            "the features are of another type",
            file=row.file,
            key=row.place,
            found=f"{len(content):,} bytes that make sense as {other} only: {len(content) // n:,} for each box",
            expected="float32",
            remedy="write the features as float32",
        )
    return array


def _other_type(numbers: np.ndarray) -> str | None:
    """The type that float32 numbers are taken for when many of them are tiny or huge, and as that type few are."""
    if _odd_share(numbers) > ODD_SHARE:
        for name in OTHER_TYPES:
            if numbers.nbytes % np.dtype(name).itemsize == 0:
                others = numbers.view(name)
                if others.size >= FEWEST and _odd_share(others) <= ODD_SHARE and np.isfinite(others).all():
                    return name
    return None


def _odd_share(numbers: np.ndarray) -> float:
    """The share of numbers that are not zero, but tiny, huge or not finite."""
    sizes = np.abs(numbers)
    return float(np.mean((sizes != 0) & ~((sizes >= TINY) & (sizes <= HUGE))))


def _of_npz(row: Row, n: int, width: float, height: float) -> Regions:
    """OpenVQA's files have `x` as (D, n), MILVLG's as (n, D); only a square one can be either, and is (n, D)."""
    boxes, features = row.fields["boxes"], row.fields["features"]
    shapes = f"x {features.shape}, bbox {boxes.shape}, num_bbox {n}"
    if boxes.shape != (n, 4) or features.ndim != 2 or n not in features.shape or not features.size:
        raise _cannot_be_decoded(row, shapes)
    is_transposed = len(features) != n
    return Regions(
        width=width,
        height=height,
        boxes=boxes.astype(np.float32),
        features=(features.T if is_transposed else features).astype(np.float32),
        conf=np.full(n, UNKNOWN_CONFIDENCE, np.float32),
        is_transposed=is_transposed,
    )


def _check_values(row: Row, regions: Regions) -> None:
    """`InputError` for an impossible size of the image, numbers that are not finite, and wrong probabilities."""
    if not (0 < regions.width < np.inf and 0 < regions.height < np.inf):
        size = f"{regions.width} × {regions.height}"
        raise bad_row(row, Problem("the size of the image is wrong", size, "a width and a height"))
    for name, array, largest in (("boxes", regions.boxes, np.inf), ("features", regions.features, HALF_MAX)):
        wrong = array[~(np.abs(array) <= largest) | np.isinf(array)]
        if len(wrong):
            raise bad_row(row, Problem(f"{name} is out of range", str(wrong[0]), f"numbers up to {largest:g}"))
    if problem := conf_problem(regions.conf):
        raise bad_row(row, problem)
    if regions.labels is not None and (problem := label_problem(regions.labels, IMG_LABEL_DIM)):
        raise bad_row(row, problem)


def _check_boxes(row: Row, regions: Regions) -> None:
    """`InputError` for boxes far outside the image, or inside out. Boxes without area are accepted: detectors do it."""
    boxes, size = regions.boxes, np.array([regions.width, regions.height])
    extent = f"{regions.width:g} × {regions.height:g}"
    if boxes.max() <= 1.01 and size.min() > 10:
        expected = f"x1, y1, x2, y2 in pixels of an image of {extent}"
        raise bad_row(row, Problem("the boxes are shares of the image", str(boxes[0].tolist()), expected))
    slack = SLACK_PIXELS + SLACK_SHARE * size
    usable = (boxes[:, :2] <= boxes[:, 2:]) & (boxes[:, :2] <= size) & (boxes[:, 2:] >= 0)
    usable &= (boxes[:, :2] >= -slack) & (boxes[:, 2:] <= size + slack)
    if not usable.all():
        expected = f"x1 ≤ x2 and y1 ≤ y2, within {extent} pixels"
        turned = size[::-1] + slack[::-1]
        if (boxes[:, 2:] <= turned).all() and (boxes[:, :2] <= boxes[:, 2:]).all():
            expected += "; they fit if width and height are exchanged"
            expected += ": name the columns in a header line" if row.is_tsv else ""
        box = str(boxes[~usable.all(1)][0].round(1).tolist())
        raise bad_row(row, Problem("a box is inside out or lies outside its image", box, expected))


def _check_classes(row: Row, regions: Regions) -> None:
    """`InputError` for a class out of range, and best classes that are not those of the class probabilities."""
    if regions.classes is None:
        return
    wrong = regions.classes[(regions.classes < 1) | (regions.classes >= IMG_LABEL_DIM)] - 1
    if len(wrong):
        raise bad_row(row, Problem("a class is out of range", str(wrong[0]), f"0..{IMG_LABEL_DIM - 2}"))
    if regions.labels is None:
        return
    of_best = regions.labels[np.arange(len(regions.classes)), regions.classes]
    is_other = of_best < regions.labels[:, 1:].max(1)
    if is_other.mean() > 0.5:  # a few may differ, by rounding or by the detector's own choice
        box = int(is_other.argmax())
        found = f"box {box}: objects_id {regions.classes[box] - 1}, but cls_prob is largest for class "
        found += f"{int(regions.labels[box, 1:].argmax())}; so in {int(is_other.sum())} of {len(is_other)} boxes"
        expected = "objects_id counted without background, cls_prob with it"
        raise bad_row(row, Problem("the classes contradict the class probabilities", found, expected))
