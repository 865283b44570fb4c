"""Referring expressions: RefCOCO, RefCOCO+ and RefCOCOg from `refs(*).p` and COCO's `instances.json` to a text store.

The true region of an expression is the position of its `ann_id` among the ground-truth boxes of the image, in the order
in which their features were extracted. `iid_to_ann_ids.json` holds that order: {"iid_to_ann_ids": {"image id":
[annotation ids]}}; `scripts/describe_regions.py --boxes` writes this file beside the features.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.txt_writer import TextWriter
from prepare.annotations import Text
from prepare.annotations_tasks import plain
from prepare.entries import Location, bad_field, check_inside, contradiction, described, take
from prepare.image_names import RE_IMG_NAME, number_of, stem_of
from prepare.instances import Instances, read_box_orders, read_instances
from prepare.left_out import bad_entry, first_bad
from prepare.preparation import Preparation
from utils import unpickle
from utils.errors import InputError


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
    box_orders = read_box_orders(args.iid_to_ann_ids, instances)
    refs = with_region(refs, Path(args.refs), instances, box_orders)
    warn_of_categories(refs, args.refs, instances)
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
    ref_ids: set[int] = set()
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
            ref = plain(ref, location)
            check_ref(ref, ref_ids, location)
            ref_ids.add(ref["ref_id"])
            refs.append(ref)
    if not refs:
        raise InputError(
            "the file has no reference of that split",
            file=path,
            key=f"--split {split}",
            found=first_bad() or ("the splits " + ", ".join(sorted(splits)) if splits else "no references"),
            remedy="name a split that the file has; RefCOCOg's refs(umd).p has train, val, test",
        )
    return refs


def check_ref(ref: dict[str, Any], ref_ids: set[int], location: Location) -> None:
    """`InputError` for a reference that comes twice, or has sentences that are not its own.

    `ref_ids`: the references before this one.
    """
    if ref["ref_id"] in ref_ids:
        raise contradiction(location.child("ref_id"), f"{ref['ref_id']}, for the second time", "one entry each")
    sent_ids = ref.get("sent_ids")
    for rank, sentence in enumerate(ref["sentences"]):
        if isinstance(sent_ids, list) and sentence["sent_id"] not in sent_ids:
            place = location.child("sentences", rank)
            raise contradiction(place, f"sent_id {sentence['sent_id']}", f"one of {described(sent_ids)}")


def with_region(
    refs: list[dict[str, Any]], path: Path, instances: Instances, box_orders: dict[int, list[int]]
) -> list[dict[str, Any]]:
    """The references whose true region is among the boxes of their image; `InputError` for any other.

    `path`: the file of `refs`, for error messages.
    """
    annotations = {annotation["id"]: annotation for annotation in instances.annotations}
    sizes = {image["id"]: (image["width"], image["height"]) for image in instances.images}
    complete_refs = []
    for ref in refs:
        with bad_entry(f"ref_id {ref['ref_id']}"):
            ann_id, image_id = ref["ann_id"], ref["image_id"]
            if ann_id not in annotations or ann_id not in box_orders.get(image_id, ()):
                raise InputError(
                    "the true region of a reference is not among the boxes of its image",
                    file=path,
                    key=f"ref_id {ref['ref_id']}",
                    found=f"ann_id {ann_id}",
                    expected=f"one of the boxes of image {image_id} in {instances.path} and in iid_to_ann_ids",
                    remedy="give references, instances and iid_to_ann_ids of the same dataset",
                )
            location, name = Location(path, f"ref_id {ref['ref_id']}"), ref.get("file_name")
            number, is_coco = number_of(stem_of(name)) if isinstance(name, str) else (None, False)
            if is_coco and number != image_id:
                raise contradiction(location.child("file_name"), str(name), f"that of image_id {image_id}")
            check_region(annotations[ann_id], image_id, sizes[image_id], location)
            complete_refs.append(ref)
    return complete_refs


def warn_of_categories(refs: list[dict[str, Any]], path: str, instances: Instances) -> None:
    """Print how many references name another category than their annotation has: its id may be another release's."""
    categories = {annotation["id"]: annotation["category_id"] for annotation in instances.annotations}
    others = [ref for ref in refs if ref.get("category_id", categories[ref["ann_id"]]) != categories[ref["ann_id"]]]
    if others:
        example = others[0]
        print(
            f"WARNING: {len(others):,} of {len(refs):,} references in {path} have another category_id than their "
            f"annotation in {instances.path}, such as ref_id {example['ref_id']}: {example['category_id']} and "
            f"{categories[example['ann_id']]}. Look whether both files are of one release"
        )


def check_region(annotation: dict[str, Any], image_id: int, size: tuple[int, int], location: Location) -> None:
    """`InputError` unless a true region lies in the image of its reference, and has an area. `size`: of that image."""
    if annotation["image_id"] != image_id:
        expected = f"an annotation of image {image_id}"
        raise contradiction(location, f"ann_id {annotation['id']}, of image {annotation['image_id']}", expected)
    x, y, width, height = annotation["bbox"]
    if not width or not height:
        expected = "a box with an area, because no predicted box can overlap with this one"
        raise contradiction(location, f"ann_id {annotation['id']} with the box {annotation['bbox']}", expected)
    check_inside((x, y, x + width, y + height), size, location)


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
