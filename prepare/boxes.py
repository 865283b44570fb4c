"""Boxes of images, from a COCO instances JSON: the true boxes, or an imitation of a detector's output on them."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.files import read_json
from utils.formats import IMG_LABEL_DIM


def read_instance_boxes(path: str | None) -> tuple[dict[str, int], dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Read a COCO instances JSON: image ids by file name, and (boxes (n, 4), classes (n,)) by image id.

    Boxes are x1, y1, x2, y2 in pixels; classes count from 1 in the order of the category ids. Without a path, both are
    empty. `InputError` if the file has another format or more than 1,600 classes.
    """
    if path is None:
        return {}, {}
    content = read_json(path, half_pairs=True)
    try:
        image_ids = {Path(image["file_name"]).name: int(image["id"]) for image in content["images"]}
        category_ids = sorted({annotation["category_id"] for annotation in content["annotations"]})
        if "categories" in content:
            category_ids = sorted(category["id"] for category in content["categories"])
        classes = {category_id: class_ for class_, category_id in enumerate(category_ids, 1)}
        rows_by_image: dict[int, list[tuple[list[float], int]]] = defaultdict(list)
        for annotation in content["annotations"]:
            x, y, w, h = map(float, annotation["bbox"])
            rows = rows_by_image[int(annotation["image_id"])]
            rows.append(([x, y, x + w, y + h], classes[annotation["category_id"]]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "not a COCO instances file",
            file=path,
            found=repr(error),
            expected="images with id and file_name; annotations with image_id, category_id and bbox",
        ) from None
    if len(classes) >= IMG_LABEL_DIM:
        raise InputError(
            "the file has too many classes for the soft labels",
            file=path,
            found=len(classes),
            expected=f"at most {IMG_LABEL_DIM - 1}",
        )
    return image_ids, {
        image_id: (np.array([box for box, _ in rows]), np.array([class_ for _, class_ in rows]))
        for image_id, rows in rows_by_image.items()
    }


def imitate(
    boxes: np.ndarray, classes: np.ndarray, size: tuple[int, int], n_classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Imitate a detector on true boxes (n, 4) with classes (n,): boxes (m, 4), classes (m,), confidences (m,).

    It jitters, repeats and misses boxes, adds false ones and confuses classes. `size`: width and height of the image in
    pixels. Wrong classes are drawn from 1 to `n_classes`.
    """
    detections = [(box, class_, rng.uniform(0.55, 0.98)) for box, class_ in zip(boxes, classes) if rng.random() > 0.01]
    detections += [(box, class_, rng.uniform(0.2, 0.5)) for box, class_, _ in list(detections) if rng.random() < 0.1]
    detections = [
        (box, int(rng.integers(1, n_classes + 1)) if rng.random() < 0.06 else class_, conf)
        for box, class_, conf in detections
    ]
    detections = [
        (box + rng.normal(0, 0.03, 4) * np.tile(box[2:] - box[:2], 2), class_, conf) for box, class_, conf in detections
    ]
    for _ in range(int(rng.poisson(0.6)) or (0 if detections else 1)):
        side = rng.uniform(0.1, 0.4) * min(size)
        corner = rng.uniform(0, 1, 2) * (np.array(size) - side)
        box = np.concatenate([corner, corner + side])
        detections.append((box, int(rng.integers(1, n_classes + 1)), rng.uniform(0.1, 0.35)))
    return (
        np.stack([box for box, _, _ in detections]),
        np.array([class_ for _, class_, _ in detections]),
        np.array([conf for *_, conf in detections]),
    )
