"""Readers of annotation files: COCO captions, VQA v2, jsonl files of the user's own.

Files may be gzipped. Every reader checks what it reads; its `InputError` names the file and the entry.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prepare.entries import (
    Location,
    bad_field,
    base_name,
    contradiction,
    json_lines,
    take,
    take_file_name,
    take_id,
    take_image_id,
)
from prepare.left_out import bad_entry
from utils.errors import InputError
from utils.files import read_json

COCO_NAME = re.compile(r"COCO_([a-z]+20\d\d)_(\d{12})$", re.IGNORECASE)  # the stem of a 2014 image
COCO_NUMBER = re.compile(r"\d{12}$")  # the stem of a 2017 image
SPLIT = re.compile(r"[\w.-]+")
COCO_FOLDER = re.compile(r"/([a-z]+20\d\d)/")  # in a coco_url


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A caption, question or other sentence, with the number (COCO) or file name of its image, or both."""

    id: str
    text: str
    image_id: int | None = None
    file_name: str | None = None
    split: str | None = None
    source: Path | None = None  # the annotation file, for error messages
    second_file_name: str | None = None  # the second image of an NLVR2 example
    fields: dict[str, Any] | None = None  # copied into the record unchanged

    def pictures(self) -> "list[Text]":
        """One copy of this text for each of its images (NLVR2 has two); each copy names one image."""
        if self.second_file_name is None:
            return [self]
        return [
            replace(self, second_file_name=None),
            replace(self, file_name=self.second_file_name, second_file_name=None),
        ]


def coco_captions(path: str | Path) -> list[Text]:
    """Read a COCO captions JSON (`images`, `annotations`); the captions come in file order."""
    path = Path(path)
    content = read_json(path, half_pairs=True)
    images = coco_images(content, path)
    texts = []
    for index, entry in enumerate(take(content, "annotations", list, Location(path))):
        location = Location(path, "annotations", index)
        with bad_entry(location):
            image_id = take_image_id(entry, "image_id", location, text=True)
            caption = take(entry, "caption", str, location)
            if image_id not in images:
                raise InputError(
                    "a caption names an image that the file does not list",
                    file=path,
                    key=location.child("image_id"),
                    found=image_id,
                    expected="the id of an entry in images[]",
                    remedy="use the official file unchanged, or add the image to images[]",
                )
            caption_id = take_id(entry, "id", location, number=True)
            file_name, split = images[image_id]
            texts.append(
                Text(
                    id=caption_id,
                    text=caption,
                    image_id=image_id,
                    file_name=file_name,
                    split=split,
                    source=path,
                )
            )
    return texts


def coco_images(content: Any, path: Path) -> dict[int, tuple[str, str | None]]:
    """The images of COCO's captions JSON: number to file name and split."""
    images: dict[int, tuple[str, str | None]] = {}
    for index, image in enumerate(take(content, "images", list, Location(path))):
        location = Location(path, "images", index)
        with bad_entry(location):
            file_name = take_file_name(image, "file_name", location)
            split_match = COCO_NAME.match(Path(base_name(file_name)).stem) or COCO_FOLDER.search(
                str(image.get("coco_url", ""))
            )
            new_image = file_name, split_match.group(1) if split_match else None
            id_ = take_image_id(image, "id", location, text=True)
            if images.setdefault(id_, new_image) != new_image:
                raise contradiction(location.child("id"), f"{id_}, which is also {images[id_][0]}", "one image an id")
    return images


def caption_lines(path: str | Path) -> Iterator[Text]:
    """Read a jsonl file of the user's own. Each line is `{"id": str or int, "image": file name, "text": str}`."""
    path = Path(path)
    for location, entry in json_lines(path):
        with bad_entry(location):
            id_ = take_id(entry, "id", location, number=True)
            image = take_file_name(entry, "image", location)
            yield Text(id=id_, text=take(entry, "text", str, location), file_name=image, source=path)


def vqa_questions(path: str | Path) -> list[Text]:
    """Read a VQA v2 questions JSON. Its `data_subtype` (train2014, test2015) gives the split."""
    path = Path(path)
    content = read_json(path, half_pairs=True)
    split = content.get("data_subtype") if isinstance(content, dict) else None
    if split is not None:
        if not isinstance(split, str) or not SPLIT.fullmatch(split):
            raise bad_field(Location(path, "data_subtype"), split, "the name of a split, such as train2014")
        split = re.sub("^test-(dev|std)", "test", split)  # test-dev and test-std are parts of test2015
    texts = []
    for index, entry in enumerate(take(content, "questions", list, Location(path))):
        location = Location(path, "questions", index)
        with bad_entry(location):
            id_ = take(entry, "question_id", int, location)
            question = take(entry, "question", str, location)
            image_id = take_image_id(entry, "image_id", location)
            texts.append(Text(id=str(id_), text=question, image_id=image_id, split=split, source=path))
    return texts


def vqa_annotations(path: str | Path) -> list[dict[str, Any]]:
    """Read and check a VQA v2 annotations JSON; its entries are returned unchanged.

    Each has `question_id` and `answers[].answer`, and may have `multiple_choice_answer`, `question_type` and
    `answer_type`, as in the official file.
    """
    path = Path(path)
    entries = []
    for index, entry in enumerate(take(read_json(path, half_pairs=True), "annotations", list, Location(path))):
        location = Location(path, "annotations", index)
        with bad_entry(location):
            take(entry, "question_id", int, location)
            answers = take(entry, "answers", list, location)
            for rank, answer in enumerate(answers):
                take(answer, "answer", str, location.child("answers", rank))
            if not answers:
                raise bad_field(location.child("answers"), answers, "at least one answer of an annotator")
            optional = dict.fromkeys(("multiple_choice_answer", "question_type", "answer_type"), str)
            for key, kind in (optional | {"image_id": int}).items():
                if key in entry:
                    take(entry, key, kind, location)
            entries.append(entry)
    return entries


def vqa_results(path: str | Path) -> list[dict[str, Any]]:
    """Read a VQA results file: a list of `{"answer": str, "question_id": int}`."""
    path = Path(path)
    entries = read_json(path, half_pairs=True)
    if not isinstance(entries, list):
        raise bad_field(Location(path, "the whole file"), entries, "a list")
    for index, entry in enumerate(entries):
        location = Location(path, "", index)
        take(entry, "question_id", int, location)
        take(entry, "answer", str, location)
    return entries
