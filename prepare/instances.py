"""COCO's `instances.json` and `iid_to_ann_ids.json`: the boxes of images, and their order in an image store."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolz import isdistinct

from prepare.annotations_tasks import plain
from prepare.entries import MOST_PIXELS, Location, bad_field, contradiction, take, take_file_name
from prepare.left_out import bad_entry
from utils.errors import InputError
from utils.files import read_json

ANNOTATION_KEYS = ("id", "area", "bbox", "image_id", "category_id", "iscrowd")  # fields that annotations.json keeps
IMAGE_KEYS = ("id", "file_name", "height", "width")


@dataclass(kw_only=True)
class Instances:
    """The images of a split, their annotations and all categories, with COCO's field names and in file order."""

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    bad_ids: set[int] = field(default_factory=set)  # of annotations that --skip_bad left out


def read_instances(path: str | Path, image_ids: set[int]) -> Instances:
    """Read the images with these ids, their annotations and all categories from a COCO instances JSON.

    `InputError` if an image is missing or a field has a wrong value.
    """
    path = Path(path)
    content = read_json(path, half_pairs=True)
    images: dict[int, dict[str, Any]] = {}
    annotations: dict[int, dict[str, Any]] = {}
    all_ids: set[int] = set()
    for index, image in enumerate(take(content, "images", list, Location(path))):
        location = Location(path, "images", index)
        with bad_entry(location):
            if take(image, "id", int, location) in image_ids:
                check_image(image, location)
                add_new(images, {key: image[key] for key in IMAGE_KEYS}, location)
    for index, entry in enumerate(take(content, "annotations", list, Location(path))):
        location = Location(path, "annotations", index)
        with bad_entry(location):
            if take(entry, "image_id", int, location) in image_ids:
                all_ids.add(take(entry, "id", int, location))
                take(entry, "category_id", int, location)
                check_box(entry, location)
                fields = {key: entry[key] for key in ANNOTATION_KEYS if key in entry}
                add_new(annotations, plain(fields, location), location)
    absent_ids = image_ids - images.keys()
    with bad_entry(f"{len(absent_ids):,} images"):
        if absent_ids:
            raise InputError(
                "the references name images that the file does not list",
                file=path,
                key="images[].id " + ", ".join(map(str, sorted(absent_ids)[:5])),
                found=f"{len(absent_ids):,} of {len(image_ids):,} images are missing",
                remedy="give the instances.json that came with these references",
            )
    return Instances(
        path=path,
        images=list(images.values()),
        annotations=list(annotations.values()),
        categories=[
            read_category(entry, Location(path, "categories", index))
            for index, entry in enumerate(take(content, "categories", list, Location(path)))
        ],
        bad_ids=all_ids - annotations.keys(),
    )


def read_category(entry: Any, location: Location) -> dict[str, Any]:
    """A category, with all of its fields; `InputError` unless it has an id and a name."""
    take(entry, "id", int, location)
    take(entry, "name", str, location)
    category: dict[str, Any] = plain(entry, location)
    return category


def check_image(image: dict[str, Any], location: Location) -> None:
    """`InputError` unless an image has a file name and a size."""
    take_file_name(image, "file_name", location)
    for key in ("height", "width"):
        if not 1 <= take(image, key, int, location) <= MOST_PIXELS:
            raise bad_field(location.child(key), image[key], f"1 to {MOST_PIXELS:,} pixels")


def add_new(entries: dict[int, dict[str, Any]], entry: dict[str, Any], location: Location) -> None:
    """Add an entry under its id; `InputError` for an id that another entry has. The same entry may come twice."""
    if entries.setdefault(entry["id"], entry) != entry:
        raise contradiction(location.child("id"), f"{entry['id']}, which another entry has too", "one entry an id")


def check_box(entry: dict[str, Any], location: Location) -> None:
    """Check the field `bbox` of an entry: `InputError` unless it is x, y, width, height in pixels."""
    box = take(entry, "bbox", list, location)
    is_box = len(box) == 4 and all(type(number) in (int, float) and abs(number) < 1e6 for number in box)
    if not is_box or min(box[2:]) < 0:
        raise bad_field(location.child("bbox"), box, "four numbers: x, y, width, height in pixels, no negative size")


def read_box_orders(path: str | Path, instances: Instances) -> dict[int, list[int]]:
    """Read iid_to_ann_ids.json: image id to the annotation ids of its ground-truth boxes, in the order of extraction.

    `InputError` if an image of `instances` is not in the file, or is given an annotation that is not its own.
    """
    image_by_annotation = {entry["id"]: entry["image_id"] for entry in instances.annotations}
    path = Path(path)
    orders_by_image = take(read_json(path, half_pairs=True), "iid_to_ann_ids", dict, Location(path))
    location = Location(path, "iid_to_ann_ids")
    orders = {}
    for image in instances.images:
        with bad_entry(location.child(str(image["id"]))):
            order = take(orders_by_image, str(image["id"]), list, location)
            if not all(type(id_) is int for id_ in order) or not isdistinct(order):
                raise bad_field(location.child(str(image["id"])), order, "a list of annotation ids that all differ")
            for id_ in order:
                owner = image_by_annotation.get(id_)
                if owner != image["id"] and id_ not in instances.bad_ids:
                    relation = f"not of image {image['id']}" if owner is None else f"of image {owner}"
                    found = f"annotation {id_}, which is {relation} in {instances.path}"
                    raise contradiction(location.child(str(image["id"])), found, "annotations of this image")
            orders[image["id"]] = order
    return orders
