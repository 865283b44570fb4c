"""Readers of the official annotation files of NLVR2, SNLI-VE and retrieval (Karpathy's splits)."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolz import isdistinct

from prepare.annotations import MAX_ID_BYTES, Text
from prepare.entries import Location, bad_field, encodable, json_lines, take
from prepare.left_out import bad_entry
from utils.errors import InputError
from utils.files import read_json
from utils.formats import VE_LABELS

NLVR2_LABELS = {"False": 0, "True": 1}


def nlvr2_examples(path: str | Path) -> Iterator[Text]:
    """Read NLVR2's jsonl: `identifier`, `sentence`, and `label` except in a test split.

    The images of "dev-850-0-3" are dev-850-0-img0.png (left) and dev-850-0-img1.png (right). A line may name other
    files as `left_image` and `right_image`. The record has all fields of the line, and `target`: 1 if the sentence is
    true, 0 if it is false.
    """
    path = Path(path)
    for location, entry in json_lines(path):
        with bad_entry(location):
            id_ = text_id(take(entry, "identifier", str, location), location.child("identifier"))
            pair = id_.rpartition("-")[0]
            if not pair:
                expected = "the name of an image pair, '-' and a number, such as dev-850-0-3"
                raise bad_field(location.child("identifier"), id_, expected)
            sentence = take(entry, "sentence", str, location)
            fields = plain(entry, location)
            if "label" in entry:
                label = entry["label"]
                if not isinstance(label, str) or label not in NLVR2_LABELS:
                    expected = '"True" or "False", as text; no such field in a test split'
                    raise bad_field(location.child("label"), label, expected)
                fields["target"] = NLVR2_LABELS[label]
            left, right = (
                take(entry, key, str, location) if key in entry else f"{pair}-img{side}.png"
                for side, key in enumerate(("left_image", "right_image"))
            )
            yield Text(id=id_, text=sentence, file_name=left, second_file_name=right, source=path, fields=fields)


def ve_examples(paths: Sequence[str | Path]) -> tuple[list[Text], int]:
    """Read the hypotheses (`sentence2`) of SNLI-VE's jsonl files; also returns how many had no label ("-").

    Examples without a label are left out. The id is the `pairID` if every example has one and all differ; otherwise it
    is a running number from 0.
    """
    texts, undecided_count = [], 0
    pair_ids: list[str | None] = []
    for path in map(Path, paths):
        for location, entry in json_lines(path):
            with bad_entry(location):
                label = take(entry, "gold_label", str, location)
                pair_ids.append(take(entry, "pairID", str, location) if "pairID" in entry else None)
                if label == "-":
                    undecided_count += 1
                    continue
                if label not in VE_LABELS:
                    raise bad_field(location.child("gold_label"), label, ", ".join(VE_LABELS) + " or -")
                number = take(entry, "Flickr30K_ID", str, location).removesuffix(".jpg")
                if not number.isdecimal():
                    raise bad_field(location.child("Flickr30K_ID"), number, "digits, such as 2248275918")
                texts.append(
                    Text(
                        id=str(len(pair_ids) - 1),
                        text=take(entry, "sentence2", str, location),
                        image_id=int(number),
                        file_name=f"{number}.jpg",
                        source=path,
                        fields={"target": {"labels": [VE_LABELS.index(label)], "scores": [1.0]}},
                    )
                )
    if None not in pair_ids and isdistinct(pair_ids):
        texts = [with_pair_id(text, str(pair_ids[int(text.id)])) for text in texts]
    return texts, undecided_count


def with_pair_id(text: Text, pair_id: str) -> Text:
    """A copy of `text` whose id is its `pairID` and not its running number."""
    assert text.source is not None
    return replace(text, id=text_id(pair_id, Location(text.source, f"pairID of example {text.id}")))


def karpathy_captions(path: str | Path, parts: Sequence[str]) -> list[Text]:
    """Read the captions (`sentences[].raw`) of `parts` of dataset_coco.json or dataset_flickr30k.json (Karpathy).

    `parts`: train, restval, val, test. `InputError` for a part that has no image.
    """
    path = Path(path)
    texts, file_parts = [], set()
    for index, image in enumerate(take(read_json(path, half_pairs=True), "images", list, Location(path))):
        location = Location(path, "images", index)
        with bad_entry(location):
            part = take(image, "split", str, location)
            file_parts.add(part)
            if part not in parts:
                continue
            file_name = take(image, "filename", str, location)
            image_id = take(image, "cocoid", int, location) if "cocoid" in image else None
            folder = take(image, "filepath", str, location) if image_id is not None else None
            if image_id is None and Path(file_name).stem.isdecimal():
                image_id = int(Path(file_name).stem)  # Flickr30k
            for rank, sentence in enumerate(take(image, "sentences", list, location)):
                sentence_location = location.child("sentences", rank)
                with bad_entry(sentence_location):
                    caption = take(sentence, "raw", str, sentence_location)
                    id_ = take(sentence, "sentid", int, sentence_location)
                    texts.append(
                        Text(
                            id=str(id_), text=caption, image_id=image_id, file_name=file_name, split=folder, source=path
                        )
                    )
    absent_parts = [part for part in parts if part not in file_parts]
    if absent_parts:
        raise InputError(
            "the file has no image of that part",
            file=path,
            key="--part " + " ".join(absent_parts),
            found="the parts " + ", ".join(sorted(file_parts)) if file_parts else "no images",
            expected="a value of images[].split",
            remedy="name parts that the file has",
        )
    return texts


def text_id(id_: str, location: Location) -> str:
    """`id_`; `InputError` if it cannot be a key of a text store. `location`: where the id is in its file."""
    if not 0 < len(id_.encode()) <= MAX_ID_BYTES:
        raise bad_field(location, id_, f"text of 1 to {MAX_ID_BYTES} bytes")
    return id_


def plain(entry: Any, location: Location) -> Any:
    """A copy of an entry without lone surrogates, so that JSON and msgpack can write it."""
    try:
        return json.loads(encodable(json.dumps(entry, ensure_ascii=False)))
    except (TypeError, ValueError) as error:
        raise bad_field(location, str(error), "text, numbers, lists and dicts only") from None
