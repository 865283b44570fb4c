"""Where boxes come from: a COCO instances JSON, or the imitation of a detector's output on one."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from prepare.regions import CLASSES
from utils.errors import InputError
from utils.files import read_json


def read_instances(path: str | None) -> tuple[dict[str, int], dict[int, tuple[np.ndarray, np.ndarray]]]:
    """A COCO instances JSON → image ids by file name; boxes (n, 4) and classes (n,) by image id."""
    if path is None:
        return {}, {}
    content = read_json(path)
    try:
        ids = {Path(image["file_name"]).name: int(image["id"]) for image in content["images"]}
        number = {c: k + 1 for k, c in enumerate(sorted({a["category_id"] for a in content["annotations"]}))}
        if "categories" in content:
            number = {c: k + 1 for k, c in enumerate(sorted(c["id"] for c in content["categories"]))}
        grouped = defaultdict(list)
        for annotation in content["annotations"]:
            x, y, w, h = map(float, annotation["bbox"])
            grouped[int(annotation["image_id"])].append(([x, y, x + w, y + h], number[annotation["category_id"]]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "not a COCO instances file", file=path, found=repr(error), expected="images, annotations"
        ) from None
    if len(number) >= CLASSES:
        raise InputError(
            "more classes than soft labels have room for", file=path, found=len(number), expected=CLASSES - 1
        )
    return ids, {i: (np.array([b for b, _ in rows]), np.array([c for _, c in rows])) for i, rows in grouped.items()}


def imitate(
    boxes: np.ndarray, classes: np.ndarray, size: tuple[int, int], n_classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A detector's output on true boxes: boxes (n, 4), classes (n,), confidences (n,)."""
    found = [(box, kind, rng.uniform(0.55, 0.98)) for box, kind in zip(boxes, classes) if rng.random() > 0.01]
    found += [(box, kind, rng.uniform(0.2, 0.5)) for box, kind, _ in list(found) if rng.random() < 0.1]
    found = [
        (box, int(rng.integers(1, n_classes + 1)) if rng.random() < 0.06 else kind, conf) for box, kind, conf in found
    ]
    jittered = [(box + rng.normal(0, 0.03, 4) * np.tile(box[2:] - box[:2], 2), kind, conf) for box, kind, conf in found]
    for _ in range(int(rng.poisson(0.6)) or (0 if jittered else 1)):
        side = rng.uniform(0.1, 0.4) * min(size)
        corner = rng.uniform(0, 1, 2) * (np.array(size) - side)
        box = np.concatenate([corner, corner + side])
        jittered.append((box, int(rng.integers(1, n_classes + 1)), rng.uniform(0.1, 0.35)))
    return (
        np.stack([b for b, _, _ in jittered]),
        np.array([k for _, k, _ in jittered]),
        np.array([c for *_, c in jittered]),
    )
