"""What the region arrays of one image must mean, whatever extractor made them (docs/DATA.md, "Region features").

Every check returns None, or a `Problem` for the message. Legend: n regions, D feature width, C classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

OUTSIDE = 0.05  # how far a box may reach outside the image: given boxes of annotations do, by a pixel or two
SIZE_ERROR = 2e-3  # of a width or height stored as float16 beside its corners; the largest rounding is about 1.2e-3
CONF_ERROR = 1e-3  # of a confidence stored as float16
SUM_ERROR = 0.01  # of the sum of 1,601 probabilities stored as float16; rounding makes about 6e-4


@dataclass(kw_only=True)
class Regions:
    """The regions of one image, the most confident first. Arrays may be views into the LMDB."""

    features: np.ndarray  # (n, D) float16
    pos: np.ndarray  # (n, 7) float32: x1, y1, x2, y2, w, h, w·h in 0..1
    conf: np.ndarray  # (n,) the detector's confidence
    soft_labels: np.ndarray | None  # (n, C) float16 class probabilities, when `read` is asked for them


class Problem(NamedTuple):
    """What is wrong with an image's regions: a title, the value found, what was expected, the array."""

    title: str
    value: str
    expected: str
    array: str = ""


def region_problem(arrays: dict[str, np.ndarray], classes: int | None = None) -> Problem | None:
    """The first problem of an image's arrays `features`, `norm_bb` and, where they exist, `conf` and `soft_labels`.

    `classes`: the number of classes that soft labels must have; None: any.
    """
    conf, labels = arrays.get("conf"), arrays.get("soft_labels")
    return (
        finite_problem("features", arrays["features"])
        or box_problem(arrays["norm_bb"])
        or (None if conf is None else conf_problem(conf))
        or (None if labels is None else label_problem(labels, classes))
    )


def shape_problem(record: dict[str, np.ndarray]) -> Problem | None:
    """A `Problem` unless a record has features (n, D) and boxes, and all its arrays have the same n, 1 or more."""
    shapes = {name: array.shape for name, array in record.items()}
    features, conf = shapes.get("features", ()), shapes.get("conf", ())
    if "norm_bb" not in shapes or len(features) != 2 or features[1] == 0 or conf[1:] not in ((), (1,)):
        expected = "features (n, D), norm_bb (n, 6), conf (n,)"
        return Problem("the arrays of an image record have wrong names or shapes", str(shapes), expected)
    rows = {shape[:1] for name, shape in shapes.items() if name in ("features", "norm_bb", "conf", "soft_labels")}
    if rows != {features[:1]} or features[0] == 0:
        title = "the arrays of an image have no rows, or different numbers of rows"
        return Problem(title, str(shapes), "the same number of rows, 1 or more")
    return None


def as_half(array: np.ndarray) -> np.ndarray:
    """The array as float16, in which a number that is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return array if array.dtype == np.float16 else array.astype(np.float16)


def finite_problem(name: str, array: np.ndarray) -> Problem | None:
    """A `Problem` when a number is NaN or infinite, or too large for float16, as which stores hold all arrays."""
    array = as_half(array)
    # by its exponent bits, ten times faster than `np.isfinite`
    if array.size and (array.view(np.uint16) & 0x7FFF).max() >= 0x7C00:
        count = f"{int((~np.isfinite(array)).sum())} of {array.size} are NaN, infinite or too large for float16"
        return Problem(f"{name} are not finite", count, "finite numbers", name)
    return None


def box_problem(norm_bb: np.ndarray) -> Problem | None:
    """A `Problem` unless `norm_bb` (n, 6) is x1, y1, x2, y2, w, h as shares of the image; (n, 4) has no w and h.

    Boxes without area and repeated boxes are no problem: detectors make the first, annotations have both.
    """
    if norm_bb.ndim != 2 or norm_bb.shape[1] not in (4, 6):
        area = "; the area is computed when it is read" if norm_bb.ndim == 2 and norm_bb.shape[1] in (5, 7) else ""
        expected = f"norm_bb (n, 6): x1, y1, x2, y2, w, h{area}"
        return Problem("the boxes of an image have a wrong shape", f"norm_bb {norm_bb.shape}", expected, "norm_bb")
    boxes = norm_bb.astype(np.float32)
    corners = boxes[:, :4]
    low, high = corners.min(initial=0), corners.max(initial=1)
    if not (low >= -OUTSIDE and high <= 1 + OUTSIDE):  # also refuses NaN
        found = f"corners from {corners.min():g} to {corners.max():g}{', as if in pixels' if high > 2 else ''}"
        return Problem("boxes are not relative to the image's size", found, "corners and sizes in 0..1", "norm_bb")
    sizes = boxes[:, 2:4] - boxes[:, :2]
    wrong_order = sizes < 0  # exact: rounding to float16 keeps the order
    stored = boxes[:, 4:]  # (n, 2) or (n, 0)
    wrong_size = ~(np.abs(stored - sizes[:, : stored.shape[1]]) <= SIZE_ERROR) | (stored < 0)  # ~: NaN is wrong too
    if wrong_order.any() and not _is_corner_and_size(boxes):
        row = int(wrong_order.any(1).argmax())
        return Problem(
            "the corners of a box are in the wrong order", _box(boxes, row), "x1 ≤ x2 and y1 ≤ y2", "norm_bb"
        )
    if wrong_order.any() or wrong_size.any():
        row = int((wrong_size if wrong_size.any() else wrong_order).any(1).argmax())
        like = ", as if norm_bb held x, y, w, h" if _is_corner_and_size(boxes) else ""
        expected = "x1, y1, x2, y2, w, h with w = x2 − x1, h = y2 − y1"
        return Problem("the sizes of a box contradict its corners", _box(boxes, row) + like, expected, "norm_bb")
    return None


def _is_corner_and_size(boxes: np.ndarray) -> bool:
    """Whether columns 2 and 3 repeat the sizes of columns 4 and 5: x, y, w, h where corners belong."""
    return boxes.shape[1] == 6 and bool((np.abs(boxes[:, 2:4] - boxes[:, 4:6]) <= SIZE_ERROR).all())


def _box(boxes: np.ndarray, row: int) -> str:
    return f"region {row}: " + ", ".join(f"{number:.4g}" for number in boxes[row].tolist())


def conf_problem(conf: np.ndarray) -> Problem | None:
    """A `Problem` unless all confidences `conf`, (n,) or (n, 1) as the release's extractor wrote, lie in 0..1."""
    if conf.ndim not in (1, 2) or conf.size != len(conf):
        return Problem("the confidences of an image have a wrong shape", f"conf {conf.shape}", "conf (n,)", "conf")
    if conf.size and not (conf.min() >= -CONF_ERROR and conf.max() <= 1 + CONF_ERROR):  # also refuses NaN
        found = f"conf from {conf.min():g} to {conf.max():g}"
        return Problem("confidences are not probabilities", found, "finite numbers in 0..1", "conf")
    return None


def order_problem(conf: np.ndarray, read: int) -> Problem | None:
    """A `Problem` when one of the regions after the first `read` is more confident than one of those."""
    conf = conf.reshape(-1)
    if not 0 < read < len(conf) or conf[read:].max() <= conf[:read].min() + CONF_ERROR:
        return None
    best = read + int(conf[read:].argmax())
    found = f"region {best} has confidence {conf[best]:.4g}; of the first {read} one has {conf[:read].min():.4g}"
    expected = f"the most confident regions first, because the first {read} of {len(conf)} are read"
    return Problem("regions that are left out are more confident than those that are read", found, expected, "conf")


def label_problem(labels: np.ndarray, classes: int | None = None) -> Problem | None:
    """A `Problem` unless each row of the soft labels `labels` (n, C) is a distribution over `classes` classes."""
    if labels.ndim != 2 or (classes is not None and labels.shape[1] != classes):
        background = ", as if background were missing" if labels.ndim == 2 and labels.shape[1] + 1 == classes else ""
        expected = f"{classes or 'C'} classes, background first"
        title = "soft labels have another number of classes than the model"
        return Problem(title, f"soft_labels {labels.shape}{background}", expected, "soft_labels")
    if not labels.size:
        return None
    half = labels.dtype == np.float16
    sums = _sums_of_half(labels) if half else labels.sum(1, dtype=np.float32)
    wrong = ~(np.abs(sums - 1) <= SUM_ERROR)  # ~: NaN is wrong too
    if not half or labels.view(np.int16).min() < 0:  # a sign bit is set; comparing float16 numbers is slow
        wrong |= labels.min(1) < 0
    if not wrong.any():
        return None
    problem = finite_problem("soft_labels", labels)
    if problem is not None:
        return problem
    row = int(wrong.argmax())
    found = f"region {row}: from {labels[row].min():.4g} to {labels[row].max():.4g}, sum {sums[row]:.4g}"
    found += f"; {int(wrong.sum())} such regions"
    return Problem(
        "soft labels are not probabilities", found, "numbers of 0 or more with the sum 1 (a softmax)", "soft_labels"
    )


def _sums_of_half(labels: np.ndarray) -> np.ndarray:
    """The sums (n,) float32 of the absolute values in each row of `labels` (n, C) float16.

    The bits of a float16 number, moved by 13, are those of a float32 number 2^112 times smaller: seven times faster
    than numpy's conversion.
    """
    bits = (labels.view(np.uint16) & 0x7FFF).astype(np.uint32)
    bits <<= 13
    return bits.view(np.float32).sum(1) * np.float32(2.0**112)


class OddBoxes(NamedTuple):
    """How many boxes of an image are odd, but usable."""

    empty: int  # without area
    repeated: int  # the same as an earlier one
    outside: int  # reach outside the image


def odd_boxes(norm_bb: np.ndarray) -> OddBoxes:
    """Count the odd boxes among `norm_bb` (n, 4 or 6)."""
    corners = norm_bb[:, :4].astype(np.float32)
    empty = (corners[:, 2:] <= corners[:, :2]).any(1)
    outside = ((corners < -SIZE_ERROR) | (corners > 1 + SIZE_ERROR)).any(1)
    return OddBoxes(int(empty.sum()), len(corners) - len(np.unique(corners, axis=0)), int(outside.sum()))
