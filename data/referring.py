"""Data of referring expressions (RE): which of an image's boxes does a phrase mean? (Paper sections 4.1 and A.2.)"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data.batch import Example, Seq
from data.img_store import ImageStore
from data.record_checks import Field, Kind, bad_field, expression_field, outside_field, sample_records
from data.region_checks import OUTSIDE
from data.rng import generator
from data.side_files import read_entries
from data.text_image import TextImage, rows_of_pictures
from data.txt_store import TextStore
from utils.errors import InputError

Boxes = Literal["gt", "detected"]
# The release's image keys, made from COCO's image id.
NAMES = {"gt": "visual_grounding_coco_gt_{:012}.npz", "detected": "visual_grounding_det_coco_{:012}.npz"}


def box_source(img_db: str, boxes: Boxes | None = None) -> Boxes:
    """Whether the image store `img_db` holds ground-truth or detected boxes: what `boxes` says.

    When `boxes` is None, as in commands of the release, a folder with `coco_gt` in its name holds ground-truth boxes.
    """
    return boxes or ("gt" if "coco_gt" in Path(img_db).name else "detected")


# By how much, as a share of the image's side, a region may differ from the true box: by rounding, and where it was cut
# at the border of the image.
BOX_ERROR = OUTSIDE


class Picture(NamedTuple):
    """An image in `images.json`."""

    ann_ids: list[int]  # the annotations in the order of the boxes
    width: float  # pixels
    height: float


class ReferringExpressions(TextImage):
    """Referring expressions with all boxes of their images. Batch sizes count examples.

    Targets, by example: `region_labels` (1,) int64, the position of the true box among the image's ground-truth boxes,
    -1 with detected boxes; `tgt_box` (1, 4) float64, the true box. By sequence: `boxes` (r, 4) float32, the box of each
    region. Boxes are x, y, w, h in pixels.
    """

    task = "re"
    title = "referring expressions"
    kinds: tuple[Kind, ...] = ("re",)
    batch_unit = "examples"

    def __init__(self, texts: TextStore, images: ImageStore, boxes: Boxes, *, blind: bool = False):
        """`boxes`: what `images` holds. `blind`: leave out the words of the expressions (a control).

        `InputError` when `images.json` is malformed, or lists another number of boxes for an image than `images` has,
        or a record in a sample has a true box without area or outside its image.
        """
        self.boxes, self.blind = boxes, blind
        super().__init__(texts, images)
        if boxes == "gt":
            self._check_counts(images)
            for text in sample_records(texts):
                self.example([text, self.pictures[text]], generator(0))
            texts.close()  # neither must be open when loader processes fork
            images.close()

    @cached_property
    def _pictures_by_id(self) -> dict[int, Picture]:
        """The images in `images.json` by their ids."""
        entries = read_entries(self.texts.path / "images.json")
        return {entry["id"]: Picture(entry["ann_ids"], entry["width"], entry["height"]) for entry in entries}

    def wrong_field(self, record: dict[str, Any]) -> Field | None:
        """The wrong field of a record: an id, or a true box without area."""
        return expression_field(record)

    def record(self, text: int) -> dict[str, Any]:
        """Read the record of a text; `InputError` also when its true box does not lie in its image, or in another."""
        record = super().record(text)
        name = self.texts.pictures(text)[0]
        number = re.search(r"(\d+)\.npz$", name)
        if number and int(number[1]) in self._pictures_by_id and int(number[1]) != int(record["image_id"]):
            raise bad_field(self.texts, text, record, Field("image_id", f"the number of its image, {name}"))
        _, width, height = self._picture(text, record)
        field = outside_field(record["bbox"], width, height)
        if field is not None:
            raise bad_field(self.texts, text, record, field)
        return record

    def _check_counts(self, images: ImageStore) -> None:
        """`InputError` unless each image has as many boxes as annotations. Its id is the number that ends its key."""
        for name, text in zip(*np.unique(self.texts.img_index[:, 0], return_index=True)):
            number = re.search(r"(\d+)\.npz$", self.texts.img_names[name].decode())
            if number is None or int(number[1]) not in self._pictures_by_id:
                continue
            ann_ids, _, _ = self._pictures_by_id[int(number[1])]
            n_boxes = int(images.n_stored[self.pictures[text]])
            if len(ann_ids) != n_boxes:
                raise self._other_boxes(f"image_id {int(number[1])}", _counts(n_boxes, ann_ids))

    def picture_rows(self, texts: TextStore, images: ImageStore) -> np.ndarray:
        """(n,) int32 rows of the texts' images, found by key or else by the image id in it.

        So the same texts can be used with ground-truth and with detected boxes, whose stores have other keys.
        """
        if (images.rows(texts.img_names) >= 0).all():
            return rows_of_pictures(texts, images)
        return rows_of_pictures(texts, images, rename=self._release_name)

    def _release_name(self, name: str) -> str:
        number = re.search(r"(\d+)\.npz$", name)
        return NAMES[self.boxes].format(int(number[1])) if number else name

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build one sequence of the expression and all regions of its image, with the true box."""
        text, picture = row
        record = self.record(text)
        words = np.zeros(0, np.int64) if self.blind else self.tokens(record)
        (image,) = self.images_of(picture)
        ann_ids, width, height = self._picture(text, record)
        scale = np.array([width, height, width, height], np.float32)
        boxes = image.pos[:, [0, 1, 4, 5]] * scale
        label = self._label(text, record, ann_ids, len(boxes))
        if label >= 0 and (np.abs(boxes[label] - record["bbox"]) > BOX_ERROR * scale).any():
            region = ", ".join(f"{number:.4g}" for number in boxes[label].tolist())
            value = f"region {label}, whose box is {region}; the true box is {record['bbox']}"
            raise self._other_boxes(f"sent_id {self.id(text)}, ann_id {record['ann_id']}", value)
        targets = {
            "region_labels": np.array([label], np.int64),
            "tgt_box": np.array([record["bbox"]], np.float64),
        }
        seq = Seq(input_ids=self.add_special_tokens(words), images=[image], targets={"boxes": boxes})
        return Example(self.id(text), [seq], targets)

    def _picture(self, text: int, record: dict[str, Any]) -> Picture:
        """The image of a record, by its id in `images.json`."""
        image_id = int(record["image_id"])
        if image_id not in self._pictures_by_id:
            raise InputError(
                "the image of a referring expression is not listed",
                file=self.texts.path / "images.json",
                key=f"sent_id {self.id(text)}: image_id",
                found=f"{image_id}, which is not in the file",
                expected="the images of all records",
                remedy="prepare the store with prepro.py re",
            )
        return self._pictures_by_id[image_id]

    def _label(self, text: int, record: dict, ann_ids: list[int], n_boxes: int) -> int:
        """The position of the true box among the image's boxes; -1 with detected boxes."""
        if self.boxes == "detected":
            return -1
        if len(ann_ids) != n_boxes or record["ann_id"] not in ann_ids:
            key = f"sent_id {self.id(text)}, image_id {record['image_id']}, ann_id {record['ann_id']}"
            raise self._other_boxes(key, _counts(n_boxes, ann_ids))
        return ann_ids.index(record["ann_id"])

    def _other_boxes(self, key: str, value: str) -> InputError:
        return InputError(
            "an image's ground-truth boxes are not those that the text store lists",
            file=self.texts.path / "images.json",
            key=key,
            found=value,
            expected="the same boxes in the same order, the true box among them",
            remedy="prepare the texts with the iid_to_ann_ids.json that was written with the boxes",
        )


def _counts(n_boxes: int, ann_ids: list[int]) -> str:
    return f"{n_boxes} boxes in the image store, {len(ann_ids)} ann_ids"
