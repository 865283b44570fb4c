"""Referring expressions: RefCOCO, RefCOCO+ and RefCOCOg from `refs(*).p` and COCO's `instances.json` to a text store.

The true region of an expression is the place of its `ann_id` among the ground-truth boxes of the picture, in the order
in which their features were extracted. `iid_to_ann_ids.json` tells that order: {"iid_to_ann_ids": {"image id":
[annotation ids]}}; `scripts/describe_regions.py --boxes` writes one beside its features.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.txt_store import TextWriter
from prepare.annotations import Text, bad_field, read_json, take
from prepare.annotations_tasks import plain
from prepare.image_names import RE_IMG_NAME
from prepare.preparation import Preparation
from utils import unpickle
from utils.errors import InputError

ANNOTATION = ("id", "area", "bbox", "image_id", "category_id", "iscrowd")  # what annotations.json keeps
IMAGE = ("id", "file_name", "height", "width")


def prepare_re(args: argparse.Namespace) -> None:
    """The expressions of one split, with the boxes of its pictures in side files."""
    if "google" in Path(args.refs).name:
        print(
            f"{args.refs}: RefCOCOg by Google's split, whose parts share pictures; published results are of refs(umd).p"
        )
    refs = read_refs(args.refs, args.split)
    world = read_instances(args.instances, {ref["image_id"] for ref in refs})
    orders = read_orders(args.iid_to_ann_ids, world.images)
    job = Preparation(args, RE_IMG_NAME)
    with TextWriter(args.output, job.meta()) as writer:
        for text, record in job.records(expressions(refs, args.refs, world, orders)):
            writer.add(text.id, record)
        writer.side("refs.json", refs)
        writer.side("annotations.json", world.annotations)
        writer.side("categories.json", world.categories)
        writer.side("images.json", [image | {"ann_ids": orders[image["id"]]} for image in world.images])
    job.report()


def read_refs(path: str | Path, split: str) -> list[dict[str, Any]]:
    """The entries of `refs(*).p` of that split, checked and as they are; `InputError` where there are none."""
    path = Path(path)
    content = unpickle.load(path)
    if not isinstance(content, list):
        raise bad_field(path, "the whole file", content, "a list of references")
    refs, splits = [], set()
    for index, ref in enumerate(content):
        splits.add(take(ref, "split", str, path, "", index))
        if ref["split"] != split:
            continue
        for key in ("ref_id", "ann_id", "image_id"):
            take(ref, key, int, path, "", index)
        for rank, sentence in enumerate(take(ref, "sentences", list, path, "", index)):
            take(sentence, "sent_id", int, path, f"[{index}].sentences", rank)
            take(sentence, "sent", str, path, f"[{index}].sentences", rank)
        refs.append(plain(ref, path, f"[{index}]"))
    if not refs:
        raise InputError(
            "no reference of that split",
            file=path,
            key=f"--split {split}",
            found=", ".join(sorted(splits)) or "no references",
            remedy="name a split that the file has; RefCOCOg's refs(umd).p has train, val, test",
        )
    return refs


@dataclass
class Instances:
    """The images of a split, their annotations and the categories, under COCO's names, in the file's order."""

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


def read_instances(path: str | Path, image_ids: set[int]) -> Instances:
    """What a COCO instances JSON says of those images."""
    path = Path(path)
    content = read_json(path)
    images, annotations = [], []
    for index, image in enumerate(take(content, "images", list, path)):
        if take(image, "id", int, path, "images", index) in image_ids:
            take(image, "file_name", str, path, "images", index)
            for key in ("height", "width"):
                take(image, key, int, path, "images", index)
            images.append({key: image[key] for key in IMAGE})
    for index, entry in enumerate(take(content, "annotations", list, path)):
        if take(entry, "image_id", int, path, "annotations", index) in image_ids:
            for key in ("id", "category_id"):
                take(entry, key, int, path, "annotations", index)
            check_box(entry, path, index)
            annotations.append({key: entry[key] for key in ANNOTATION if key in entry})
    absent = image_ids - {image["id"] for image in images}
    if absent:
        raise InputError(
            "images of references that the file does not list",
            file=path,
            key="images[].id " + ", ".join(map(str, sorted(absent)[:5])),
            found=f"{len(absent):,} of {len(image_ids):,} are not there",
            remedy="give the instances.json that came with these references",
        )
    return Instances(path, images, annotations, take(content, "categories", list, path))


def check_box(entry: dict[str, Any], path: Path, index: int) -> None:
    """`bbox` is x, y, width, height in pixels."""
    box = take(entry, "bbox", list, path, "annotations", index)
    if len(box) != 4 or not all(type(number) in (int, float) and abs(number) < 1e6 for number in box):
        raise bad_field(path, f"annotations[{index}].bbox", box, "four numbers: x, y, width, height in pixels")


def read_orders(path: str | Path | None, images: list[dict[str, Any]]) -> dict[int, list[int]]:
    """Image id to the annotation ids of its ground-truth boxes, in the order in which they were extracted."""
    if path is None:
        raise InputError(
            "the true regions cannot be known",
            key="--iid_to_ann_ids",
            found="nothing",
            expected="the order in which each picture's ground-truth boxes were extracted",
            remedy="give iid_to_ann_ids.json: describe_regions.py --boxes writes it beside the .npz files",
        )
    path = Path(path)
    listed = take(read_json(path), "iid_to_ann_ids", dict, path)
    orders = {}
    for image in images:
        order = take(listed, str(image["id"]), list, path, "iid_to_ann_ids")
        if not all(type(id_) is int for id_ in order) or len(set(order)) != len(order):
            raise bad_field(path, f"iid_to_ann_ids.{image['id']}", order, "a list of annotation ids, each once")
        orders[image["id"]] = order
    return orders


def expressions(
    refs: list[dict[str, Any]], path: str | Path, world: Instances, orders: dict[int, list[int]]
) -> Iterator[Text]:
    """The sentences with the fields of their records."""
    path, boxes = Path(path), {entry["id"]: entry["bbox"] for entry in world.annotations}
    names = {image["id"]: image["file_name"] for image in world.images}
    for ref in refs:
        ann_id, image_id = ref["ann_id"], ref["image_id"]
        if ann_id not in boxes or ann_id not in orders[image_id]:
            raise InputError(
                "the true region of a reference is not known",
                file=path,
                key=f"ref_id {ref['ref_id']}",
                found=f"ann_id {ann_id}",
                expected=f"one of the boxes of image {image_id} in {world.path} and in iid_to_ann_ids",
                remedy="references, instances and the order of boxes must be of one dataset",
            )
        for sentence in ref["sentences"]:
            fields = {"sent_id": sentence["sent_id"], "sent": sentence["sent"], "ref_id": ref["ref_id"]}
            fields |= {"ann_id": ann_id, "image_id": image_id, "bbox": boxes[ann_id]}
            yield Text(str(sentence["sent_id"]), sentence["sent"], image_id, names[image_id], None, path, None, fields)
