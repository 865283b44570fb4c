"""Referring expressions: a phrase, a picture's boxes, and the one that is meant (paper section 4.2)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from data.batch import Example, Seq
from data.img_store import ImageStore
from data.text_image import TextImage, rows_of_pictures
from data.txt_store import TextStore
from utils.errors import InputError
from utils.files import read_json

Boxes = Literal["gt", "detected"]
NAMES = {"gt": "visual_grounding_coco_gt_{:012}.npz", "detected": "visual_grounding_det_coco_{:012}.npz"}


def box_source(img_db: str, boxes: Boxes | None = None) -> Boxes:
    """Whether an image store holds ground-truth or detected boxes: as `boxes` says; old commands, which say nothing,
    tell by `coco_gt` in its name."""
    return boxes or ("gt" if "coco_gt" in Path(img_db).name else "detected")


class ReferringExpressions(TextImage):
    """Expressions and all boxes of their pictures; batches count examples. `blind`: no words (a control).

    Targets, by example: `region_labels` (1,) int64, the place of the true box among ground-truth boxes, -1 among
    detected ones; `tgt_box` (1, 4) float64. By sequence: `boxes` (r, 4), one a region. Boxes are x, y, w, h in pixels.
    """

    task = "re"
    batch_unit = "examples"

    def __init__(self, texts: TextStore, images: ImageStore, boxes: Boxes, *, blind: bool = False):
        self.boxes, self.blind = boxes, blind
        super().__init__(texts, images)
        file = texts.path / "images.json"
        try:  # by image id: annotation ids in the order of the boxes, width and height
            self._pictures_by_id = {
                int(image["id"]): (image["ann_ids"], image["width"], image["height"]) for image in read_json(file)
            }
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "not the pictures of a referring-expression store",
                file=file,
                found=repr(error),
                expected="a list of id, ann_ids, width, height",
                remedy="prepare the store with prepro.py re",
            ) from None
        if boxes == "gt":
            self._check_counts(images)

    def _check_counts(self, images: ImageStore) -> None:
        """Every picture has as many boxes as annotations are listed; by the number that ends its name."""
        for name, text in zip(*np.unique(self.texts.img_index[:, 0], return_index=True)):
            number = re.search(r"(\d+)\.npz$", self.texts.img_names[name].decode())
            if number is None or int(number[1]) not in self._pictures_by_id:
                continue
            ann_ids, _, _ = self._pictures_by_id[int(number[1])]
            n_boxes = int(images.n_stored[self.pictures[text]])
            if len(ann_ids) != n_boxes:
                raise self._other_boxes(f"image_id {int(number[1])}", n_boxes, ann_ids)

    def picture_rows(self, texts: TextStore, images: ImageStore) -> np.ndarray:
        """By name, or else by the number that ends it: the same texts serve the stores of both kinds of boxes."""
        if (images.rows(texts.img_names) >= 0).all():
            return rows_of_pictures(texts, images)
        return rows_of_pictures(texts, images, rename=self._release_name)

    def _release_name(self, name: str) -> str:
        number = re.search(r"(\d+)\.npz$", name)
        return NAMES[self.boxes].format(int(number[1])) if number else name

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """One sequence: the expression and all boxes of its picture."""
        text, picture = row
        record = self.texts.read(text)
        words = np.zeros(0, np.int64) if self.blind else self.tokens(record)
        (image,) = self.images_of(picture)
        ann_ids, width, height = self._picture(text, record)
        scale = np.array([width, height, width, height], np.float32)
        boxes = image.pos[:, [0, 1, 4, 5]] * scale
        targets = {
            "region_labels": np.array([self._label(text, record, ann_ids, len(boxes))], np.int64),
            "tgt_box": np.array([record["bbox"]], np.float64),
        }
        seq = Seq(input_ids=self.add_special_tokens(words), images=[image], targets={"boxes": boxes})
        return Example(self.id(text), [seq], targets)

    def _picture(self, text: int, record: dict) -> tuple[list[int], int, int]:
        """Annotations, width and height of a record's picture, as `images.json` has them."""
        missing = [key for key in ("image_id", "ann_id", "bbox") if key not in record]
        if missing or int(record["image_id"]) not in self._pictures_by_id:
            raise InputError(
                "not a record of referring expressions, or of a picture that is not listed",
                file=self.texts.path / ("data.mdb" if missing else "images.json"),
                key=f"sent_id {self.id(text)}: {missing[0] if missing else 'image_id'}",
                found="no such field" if missing else f"{record['image_id']}, which is not in the file",
                expected="image_id, ann_id and bbox in the record, and its picture in images.json",
                remedy="prepare the store with prepro.py re",
            )
        return self._pictures_by_id[int(record["image_id"])]

    def _label(self, text: int, record: dict, ann_ids: list[int], n_boxes: int) -> int:
        """The place of the true box among the picture's, -1 among detected boxes."""
        if self.boxes == "detected":
            return -1
        if len(ann_ids) != n_boxes or record["ann_id"] not in ann_ids:
            key = f"sent_id {self.id(text)}, image_id {record['image_id']}, ann_id {record['ann_id']}"
            raise self._other_boxes(key, n_boxes, ann_ids)
        return ann_ids.index(record["ann_id"])

    def _other_boxes(self, key: str, n_boxes: int, ann_ids: list[int]) -> InputError:
        return InputError(
            "a picture's ground-truth boxes are not those that the text store lists",
            file=self.texts.path / "images.json",
            key=key,
            found=f"{n_boxes} boxes in the image store, {len(ann_ids)} ann_ids",
            expected="the same boxes in the same order, the true one among them",
            remedy="prepare the texts with the iid_to_ann_ids.json that was written with the boxes",
        )
