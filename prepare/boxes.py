"""Boxes of images, from a COCO instances JSON: the true boxes, or an imitation of a detector's output on them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from toolz import isdistinct

from prepare.entries import Location, bad_field, take
from prepare.image_names import base_name, stem_of
from prepare.left_out import bad_entry
from utils.errors import InputError
from utils.files import read_json
from utils.formats import IMG_LABEL_DIM

Row = tuple[list[float], int, Any]  # box, class and annotation id


@dataclass(kw_only=True)
class Instances:
    """An image of a COCO instances JSON: its id, its size in pixels if the file has it, and its annotations."""

    image_id: int
    size: tuple[int, int] | None
    rows: list[Row] = field(default_factory=list)

    @property
    def boxes(self) -> np.ndarray:
        """(n, 4) x1, y1, x2, y2 in pixels."""
        return np.array([box for box, *_ in self.rows], float)

    @property
    def classes(self) -> np.ndarray:
        """(n,) from 1."""
        return np.array([class_ for _, class_, _ in self.rows])


def read_instance_boxes(path: str | None) -> dict[str, Instances]:
    """Read a COCO instances JSON: the images with their boxes and classes, by file name.

    Classes count from 1 in the order of the category ids. Without a path, the result is empty. `InputError` if the file
    has another format or more than 1,600 classes, or if a box is not four finite numbers with a size of 0 or more.
    """
    if path is None:
        return {}
    file, content = Path(path), read_json(path, half_pairs=True)
    images = dict(_images(content, file))
    annotations = take(content, "annotations", list, Location(file))
    classes = _classes(content, annotations, file)
    by_id = {image.image_id: image for image in images.values()}
    for index, entry in enumerate(annotations):
        location = Location(file, "annotations", index)
        with bad_entry(location):
            image_id, box = _whole(entry, "image_id", location), take(entry, "bbox", list, location)
            numbers = len(box) == 4 and all(type(number) in (int, float) and abs(number) < 1e6 for number in box)
            if not numbers or min(box[2:]) < 0:
                expected = "four numbers: x, y, width, height in pixels, no negative size"
                raise bad_field(location.child("bbox"), box, expected)
            category = entry.get("category_id")
            if type(category) not in (int, str) or category not in classes:
                raise bad_field(location.child("category_id"), category, "the id of a category")
            if image_id in by_id:  # others belong to pictures that the file does not list
                x, y, w, h = map(float, box)
                by_id[image_id].rows.append(([x, y, x + w, y + h], classes[category], entry.get("id")))
    return images


def _images(content: Any, file: Path) -> Iterator[tuple[str, Instances]]:
    """The images of the file, by file name; `InputError` if two have one id or one name."""
    names, ids = set(), set()
    for index, entry in enumerate(take(content, "images", list, Location(file))):
        location = Location(file, "images", index)
        with bad_entry(location):
            name = base_name(take(entry, "file_name", str, location))
            image_id = _whole(entry, "id", location)
            if name in names or image_id in ids:
                twice = f"file_name {name}" if name in names else f"id {image_id}"
                remedy = "give every image its own id and file name; folders do not count"
                raise InputError("an image occurs twice", file=file, key=location, found=twice, remedy=remedy)
            names.add(name)
            ids.add(image_id)
            size = entry.get("width"), entry.get("height")
            has_size = all(type(side) is int and side > 0 for side in size)
            yield name, Instances(image_id=image_id, size=size if has_size else None)


def _whole(entry: Any, key: str, location: Location) -> int:
    """The whole number `entry[key]`, which may be written as text."""
    value = entry.get(key) if isinstance(entry, dict) else None
    return int(value) if isinstance(value, str) and value.isdecimal() else take(entry, key, int, location)


def _classes(content: dict[str, Any], annotations: list[Any], file: Path) -> dict[Any, int]:
    """Category id to class, 1.., in the order of the ids. Without a list of categories, those of the annotations."""
    entries, key = annotations, "category_id"
    if "categories" in content:
        entries, key = take(content, "categories", list, Location(file)), "id"
    known_ids = {entry[key] for entry in entries if isinstance(entry, dict) and type(entry.get(key)) in (int, str)}
    category_ids = sorted(known_ids, key=lambda id_: (isinstance(id_, str), id_))
    if len(category_ids) >= IMG_LABEL_DIM:
        raise InputError(
            "the file has too many classes for the soft labels",
            file=file,
            found=len(category_ids),
            expected=f"at most {IMG_LABEL_DIM - 1}",
        )
    return {category_id: class_ for class_, category_id in enumerate(category_ids, 1)}


def boxes_of_pictures(instances_by_name: dict[str, Instances], names: list[str], path: str) -> dict[str, Instances]:
    """The images of the JSON at `path` by the names of picture files; those that have none are left out.

    A name counts without its suffix where no picture has it exactly. `InputError` if no picture is in the JSON.
    """
    pictures = {name: instances_by_name[name] for name in names if name in instances_by_name}
    others = [name for name in instances_by_name if name not in pictures]
    counts = Counter(map(stem_of, others))
    by_stem = {stem_of(name): instances_by_name[name] for name in others if counts[stem_of(name)] == 1}
    unknown_names = [name for name in names if name not in pictures]
    with_other_suffix = {name: by_stem[stem_of(name)] for name in unknown_names if stem_of(name) in by_stem}
    if not pictures and not with_other_suffix:
        raise InputError(
            "no picture is in the file of boxes",
            file=path,
            key="images[].file_name",
            found=f"{', '.join(map(repr, list(instances_by_name)[:2])) or 'no images'}; pictures {names[:2]}",
            expected="the names of the pictures",
            remedy="give the instances.json of these pictures, or leave it out",
        )
    if with_other_suffix:
        print(f"{len(with_other_suffix):,} pictures have another suffix than in {path}")
    return pictures | with_other_suffix


def cut_boxes(boxes: np.ndarray, size: tuple[int, int], file: object) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes at the edges of the image: boxes (n, 4), and whether a pixel is left (n,) bool, true at least once."""
    cut = np.clip(boxes, 0, np.array([*size, *size], float))
    visible = (cut[:, 2:] - cut[:, :2] >= 1).all(1)
    if not visible.any():
        raise InputError(
            "no box of the image holds a pixel of it",
            file=file,
            found=f"{boxes[0].round(1).tolist()} and {len(boxes) - 1} more",
            expected=f"x1, y1, x2, y2 within {size[0]} × {size[1]} pixels, at least 1 pixel wide and high",
            remedy="check that boxes and image have the same scale, and that the boxes have a size",
        )
    return cut, visible


def check_boxes(boxes: np.ndarray, size: tuple[int, int], file: object) -> None:
    """`InputError` for an annotated box that ends far outside its image. `boxes`: (n, 4) x1, y1, x2, y2 in pixels."""
    margin = np.maximum(5, 0.1 * np.array([*size, *size]))
    outside = ((boxes < -margin) | (boxes > np.array([*size, *size]) + margin)).any(1)
    if outside.any():
        x1, y1, x2, y2 = boxes[outside][0].round(1).tolist()
        raise InputError(
            "a box lies outside its image",
            file=file,
            found=f"x, y, width, height {[x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)]}; {int(outside.sum()):,} such",
            expected=f"boxes within {size[0]} × {size[1]} pixels, up to 10 % of a side or 5 pixels outside",
            remedy="check the scale of the boxes, and that they are not x1, y1, x2, y2",
        )


def annotation_ids(image: Instances, box_indices: list[int]) -> list[int]:
    """The annotation ids of the boxes with these indices; empty if annotations have no ids, or one id twice."""
    ids = [image.rows[index][2] for index in box_indices]
    return ids if all(type(id_) is int for id_ in ids) and isdistinct(ids) else []


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
