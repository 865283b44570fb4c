"""Referring expressions: RefCOCO, RefCOCO+ and RefCOCOg from `refs(*).p` and COCO's `instances.json` to a text store.

The true region of an expression is the position of its `ann_id` among the ground-truth boxes of the image, in the order
in which their features were extracted. `iid_to_ann_ids.json` holds that order: {"iid_to_ann_ids": {"image id":
[annotation ids]}}; `scripts/describe_regions.py --boxes` writes this file beside the features.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolz import isdistinct

from data.txt_writer import TextWriter
from prepare.annotations import Text
from prepare.annotations_tasks import plain
from prepare.entries import Location, bad_field, take
from prepare.image_names import RE_IMG_NAME
from prepare.left_out import bad_entry
from prepare.preparation import Preparation
from utils import unpickle
from utils.errors import InputError
from utils.files import read_json

ANNOTATION_KEYS = ("id", "area", "bbox", "image_id", "category_id", "iscrowd")  # fields that annotations.json keeps
IMAGE_KEYS = ("id", "file_name", "height", "width")


def prepare_re(args: argparse.Namespace) -> None:
    """Write the expressions of `args.split` to the store `args.output`, and the boxes of its images to side files."""
    if args.iid_to_ann_ids is None:
        raise InputError(
            "the order of the ground-truth boxes is missing",
            key="--iid_to_ann_ids",
            found="nothing",
            expected="the order in which the boxes of each image were extracted",
            remedy="give iid_to_ann_ids.json, which describe_regions.py --boxes writes beside the .npz files",
        )
    if "google" in Path(args.refs).name:
        print(
            f"{args.refs}: this is Google's split of RefCOCOg, whose parts share images; "
            "published results are of refs(umd).p"
        )
    refs = read_refs(args.refs, args.split)
    instances = read_instances(args.instances, {ref["image_id"] for ref in refs})
    box_orders = read_box_orders(args.iid_to_ann_ids, instances.images)
    refs = with_region(refs, Path(args.refs), instances, box_orders)
    preparation = Preparation(args, RE_IMG_NAME)
    with TextWriter(preparation.output, preparation.meta()) as writer:
        for text, record in preparation.records(expressions(refs, Path(args.refs), instances)):
            writer.add(text.id, record)
        writer.side("refs.json", refs)
        writer.side("annotations.json", instances.annotations)
        writer.side("categories.json", instances.categories)
        images = [image for image in instances.images if image["id"] in box_orders]
        writer.side("images.json", [image | {"ann_ids": box_orders[image["id"]]} for image in images])
    preparation.report()


def read_refs(path: str | Path, split: str) -> list[dict[str, Any]]:
    """Read and check the entries of a split of `refs(*).p`; they stay as they are. `InputError` if there are none."""
    path = Path(path)
    content = unpickle.load(path)
    if not isinstance(content, list):
        raise bad_field(Location(path, "the whole file"), content, "a list of references")
    refs, splits = [], set()
    for index, ref in enumerate(content):
        location = Location(path, "", index)
        with bad_entry(location):
            splits.add(take(ref, "split", str, location))
            if ref["split"] != split:
                continue
            for key in ("ref_id", "ann_id", "image_id"):
                take(ref, key, int, location)
            for rank, sentence in enumerate(take(ref, "sentences", list, location)):
                take(sentence, "sent_id", int, location.child("sentences", rank))
                take(sentence, "sent", str, location.child("sentences", rank))
            refs.append(plain(ref, location))
    if not refs:
        raise InputError(
            "the file has no reference of that split",
            file=path,
            key=f"--split {split}",
            found="the splits " + ", ".join(sorted(splits)) if splits else "no references",
            remedy="name a split that the file has; RefCOCOg's refs(umd).p has train, val, test",
        )
    return refs


@dataclass(kw_only=True)
class Instances:
    """The images of a split, their annotations and all categories, with COCO's field names and in file order."""

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


def read_instances(path: str | Path, image_ids: set[int]) -> Instances:
    """Read the images with these ids, their annotations and all categories from a COCO instances JSON.

    `InputError` if an image is missing or a field has a wrong value.
    """
    path = Path(path)
    content = read_json(path, half_pairs=True)
    images, annotations = [], []
    for index, image in enumerate(take(content, "images", list, Location(path))):
        location = Location(path, "images", index)
        with bad_entry(location):
            if take(image, "id", int, location) in image_ids:
                take(image, "file_name", str, location)
                for key in ("height", "width"):
                    take(image, key, int, location)
                images.append({key: image[key] for key in IMAGE_KEYS})
    for index, entry in enumerate(take(content, "annotations", list, Location(path))):
        location = Location(path, "annotations", index)
        with bad_entry(location):
            if take(entry, "image_id", int, location) in image_ids:
                for key in ("id", "category_id"):
                    take(entry, key, int, location)
                check_box(entry, location)
                annotations.append({key: entry[key] for key in ANNOTATION_KEYS if key in entry})
    absent_ids = image_ids - {image["id"] for image in images}
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
        images=images,
        annotations=annotations,
        categories=take(content, "categories", list, Location(path)),
    )


def check_box(entry: dict[str, Any], location: Location) -> None:
    """Check the field `bbox` of an entry: `InputError` unless it is x, y, width, height in pixels."""
    box = take(entry, "bbox", list, location)
    is_box = len(box) == 4 and all(type(number) in (int, float) and abs(number) < 1e6 for number in box)
    if not is_box or min(box[2:]) < 0:
        raise bad_field(location.child("bbox"), box, "four numbers: x, y, width, height in pixels, no negative size")


def read_box_orders(path: str | Path, images: list[dict[str, Any]]) -> dict[int, list[int]]:
    """Read iid_to_ann_ids.json: image id to the annotation ids of its ground-truth boxes, in the order of extraction.

    `InputError` if one of `images` is not in the file.
    """
    path = Path(path)
    orders_by_image = take(read_json(path, half_pairs=True), "iid_to_ann_ids", dict, Location(path))
    location = Location(path, "iid_to_ann_ids")
    orders = {}
    for image in images:
        with bad_entry(location.child(str(image["id"]))):
            order = take(orders_by_image, str(image["id"]), list, location)
            if not all(type(id_) is int for id_ in order) or not isdistinct(order):
                raise bad_field(location.child(str(image["id"])), order, "a list of annotation ids that all differ")
            orders[image["id"]] = order
    return orders


def with_region(
    refs: list[dict[str, Any]], path: Path, instances: Instances, box_orders: dict[int, list[int]]
) -> list[dict[str, Any]]:
    """The references whose true region is among the boxes of their image; `InputError` for any other.

    `path`: the file of `refs`, for error messages.
    """
    ann_ids = {annotation["id"] for annotation in instances.annotations}
    complete_refs = []
    for ref in refs:
        with bad_entry(f"ref_id {ref['ref_id']}"):
            ann_id, image_id = ref["ann_id"], ref["image_id"]
            if ann_id not in ann_ids or ann_id not in box_orders.get(image_id, ()):
                raise InputError(
                    "the true region of a reference is not among the boxes of its image",
                    file=path,
                    key=f"ref_id {ref['ref_id']}",
                    found=f"ann_id {ann_id}",
                    expected=f"one of the boxes of image {image_id} in {instances.path} and in iid_to_ann_ids",
                    remedy="give references, instances and iid_to_ann_ids of the same dataset",
                )
            complete_refs.append(ref)
    return complete_refs


def expressions(refs: list[dict[str, Any]], path: Path, instances: Instances) -> Iterator[Text]:
    """The sentences of `refs` with the fields of their records; `path`: the file of `refs`, for error messages."""
    boxes = {annotation["id"]: annotation["bbox"] for annotation in instances.annotations}
    file_names = {image["id"]: image["file_name"] for image in instances.images}
    for ref in refs:
        ann_id, image_id = ref["ann_id"], ref["image_id"]
        for sentence in ref["sentences"]:
            fields = {"sent_id": sentence["sent_id"], "sent": sentence["sent"], "ref_id": ref["ref_id"]}
            fields |= {"ann_id": ann_id, "image_id": image_id, "bbox": boxes[ann_id]}
            yield Text(
                id=str(sentence["sent_id"]),
                text=sentence["sent"],
                image_id=image_id,
                file_name=file_names[image_id],
                source=path,
                fields=fields,
            )
