"""Readers of VCR's annotations: the jsonl of questions and the metadata of the images.

A question, an answer and a rationale is a list of tokens. A token is a word or a *tag*; a tag is a list of indexes into
`objects`: ["Does", [0], "live", "in", "this", "house", "?"].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prepare.annotations import Text
from prepare.entries import (
    MOST_PIXELS,
    Location,
    bad_field,
    base_name,
    check_inside,
    contradiction,
    json_lines,
    take,
    take_file_name,
    take_id,
)
from prepare.left_out import bad_entry
from utils.errors import InputError
from utils.files import read_json
from utils.formats import CHOICES, UNLABELLED

Tokens = list[str | list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VcrText(Text):
    """A question with four answers and four rationales. `text` is the question in words, for error messages."""

    objects: tuple[str, ...]  # the names of the objects
    metadata_file: str  # a path under the metadata folder
    question: Tokens
    answers: list[Tokens]
    rationales: list[Tokens]


def vcr_examples(path: str | Path) -> Iterator[VcrText]:
    """Read train.jsonl, val.jsonl or test.jsonl; `qa_target` and `qar_target` are −1 in the test split."""
    path = Path(path)
    for location, entry in json_lines(path):
        with bad_entry(location):
            objects = take(entry, "objects", list, location)
            if not objects or not all(isinstance(name, str) for name in objects):
                raise bad_field(location.child("objects"), objects, "a list of names of objects")
            if ("answer_label" in entry) != ("rationale_label" in entry):
                raise contradiction(
                    location, "one of answer_label and rationale_label", "both, or none in a test split"
                )
            check_metadata(entry, location)
            question = tokens(entry, "question", location, len(objects))
            yield VcrText(
                id=take_id(entry, "annot_id", location),
                text=" ".join(str(token) for token in question),
                file_name=entry["img_fn"],
                source=path,
                fields={
                    "qa_target": target(entry, "answer_label", location),
                    "qar_target": target(entry, "rationale_label", location),
                },
                objects=tuple(objects),
                metadata_file=entry["metadata_fn"],
                question=question,
                answers=choices(entry, "answer_choices", location, len(objects)),
                rationales=choices(entry, "rationale_choices", location, len(objects)),
            )


def check_metadata(entry: dict[str, Any], location: Location) -> None:
    """`InputError` where `img_fn` and `metadata_fn` are names of two images, whose boxes would be confused."""
    image, metadata = (take_file_name(entry, key, location) for key in ("img_fn", "metadata_fn"))
    if Path(base_name(image)).stem != Path(base_name(metadata)).stem:
        raise contradiction(location.child("metadata_fn"), metadata, f"the metadata of img_fn {image}")


def choices(entry: dict[str, Any], key: str, location: Location, object_count: int) -> list[Tokens]:
    """The four answers or rationales under `key`, checked."""
    texts = take(entry, key, list, location)
    if len(texts) != CHOICES:
        raise bad_field(location.child(key), f"{len(texts)} choices", f"{CHOICES} choices")
    text_by_number = {str(number): text for number, text in enumerate(texts)}
    return [tokens(text_by_number, number, location.child(key), object_count) for number in text_by_number]


def tokens(entry: dict[str, Any], key: str, location: Location, object_count: int) -> Tokens:
    """The words and tags under `key`, checked: every tag must point at existing objects."""
    words_and_tags = take(entry, key, list, location)
    for index, token in enumerate(words_and_tags):
        is_tag = isinstance(token, list) and token and all(type(i) is int and 0 <= i < object_count for i in token)
        if not is_tag and not isinstance(token, str):
            expected = f"a word, or a list of indexes into the {object_count} objects"
            raise bad_field(location.child(key, index), token, expected)
    return words_and_tags


def target(entry: dict[str, Any], key: str, location: Location) -> int:
    """The index of the right choice; −1 if the line has no `key`, as in the test split."""
    if key not in entry:
        return UNLABELLED
    label = take(entry, key, int, location)
    if not 0 <= label < CHOICES:
        expected = f"0..{CHOICES - 1}, or no such field in the test split"
        raise bad_field(location.child(key), label, expected)
    return label


def vcr_boxes(path: Path, text: VcrText) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an image's metadata: boxes (n, 4) x1, y1, x2, y2 of the objects of `text`; (width, height); in pixels."""
    content = read_json(path, half_pairs=True)
    size = take(content, "width", int, Location(path)), take(content, "height", int, Location(path))
    if min(size) < 1 or max(size) > MOST_PIXELS:
        raise bad_field(Location(path, "width, height"), size, f"1 to {MOST_PIXELS:,} pixels each")
    rows = take(content, "boxes", list, Location(path))
    if len(rows) != len(text.objects):
        raise InputError(
            "the numbers of boxes and objects do not agree",
            file=path,
            key="boxes",
            found=f"{len(rows)} boxes",
            expected=f"{len(text.objects)}, one for each of the objects of {text.id} in {text.source}",
            remedy="set --metadata to the folder vcr1images that belongs to these annotations",
        )
    names = content.get("names")
    if isinstance(names, list) and len(names) == len(rows) and names != list(text.objects):
        index = next(k for k, own in enumerate(text.objects) if names[k] != own)
        expected = f"{text.objects[index]}, as in {text.id} of {text.source}"
        raise contradiction(Location(path, "names", index), str(names[index]), expected)
    for index, row in enumerate(rows):
        is_box = isinstance(row, list) and len(row) >= 4 and all(type(x) in (int, float) for x in row[:4])
        if not is_box or not all(abs(x) < 1e6 for x in row[:4]):  # also refuses NaN
            raise bad_field(Location(path, "boxes", index), row, "x1, y1, x2, y2 in pixels, and a score")
        check_inside(row[:4], size, Location(path, "boxes", index))
    return np.array([row[:4] for row in rows], float), size
