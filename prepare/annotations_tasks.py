"""Readers of the official annotation files of NLVR2, SNLI-VE and retrieval (Karpathy's splits)."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolz import isdistinct

from prepare.annotations import COCO_NAME, Text
from prepare.entries import (
    MAX_NUMBER,
    Location,
    bad_field,
    base_name,
    checked_id,
    contradiction,
    encodable,
    json_lines,
    take,
    take_file_name,
    take_id,
    take_image_id,
)
from prepare.left_out import bad_entry
from utils.errors import InputError
from utils.files import read_json
from utils.formats import VE_LABELS

NLVR2_LABELS = {"False": 0, "True": 1}
NLVR2_IMAGES = ("left_image", "right_image")  # keys that we added
NLVR2_CONTRAST = re.compile(r"[^-]+(-[0-9]+){4}")  # an identifier of the contrast set: of five parts
NLVR2_UNKNOWN = re.compile(r"(-[0-9]+){5,}$")  # whatever names the image pair in it
FLICKR_NUMBER = re.compile(r"([0-9]{1,18})(\.jpg)?")


def nlvr2_examples(path: str | Path) -> Iterator[Text]:
    """Read NLVR2's jsonl: `identifier`, `sentence`, and `label` except in a test split.

    The images of "dev-850-0-3" are dev-850-0-img0.png (left) and dev-850-0-img1.png (right). An identifier of NLVR2's
    contrast set has a fifth part, and images of its own: test1-769-1-0-1-img0.png. A line may name other files as
    `left_image` and `right_image`. The record has all fields of the line, and `target`: 1 if the sentence is true, 0 if
    it is false.
    """
    path = Path(path)
    for location, entry in json_lines(path):
        with bad_entry(location):
            id_ = take_id(entry, "identifier", location)
            pair = id_ if NLVR2_CONTRAST.fullmatch(id_) else id_.rpartition("-")[0]
            own_images = [take_file_name(entry, key, location) for key in NLVR2_IMAGES if key in entry]
            if len(own_images) < 2 and (not pair or NLVR2_UNKNOWN.search(id_)):
                expected = "the name of an image pair, '-' and a number, such as dev-850-0-3, or both image names"
                raise bad_field(location.child("identifier"), id_, expected)
            sentence = take(entry, "sentence", str, location)
            fields = plain(entry, location)
            if "label" in entry:
                label = entry["label"]
                if not isinstance(label, str) or label not in NLVR2_LABELS:
                    expected = '"True" or "False", as text; no such field in a test split'
                    raise bad_field(location.child("label"), label, expected)
                fields["target"] = NLVR2_LABELS[label]
            left, right = (entry.get(key, f"{pair}-img{side}.png") for side, key in enumerate(NLVR2_IMAGES))
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
                flickr_id = FLICKR_NUMBER.fullmatch(take(entry, "Flickr30K_ID", str, location))
                if flickr_id is None:
                    raise bad_field(location.child("Flickr30K_ID"), entry["Flickr30K_ID"], "digits, as in 2248275918")
                number, pair_number = flickr_id[1], FLICKR_NUMBER.match(pair_ids[-1] or "")
                if pair_number and pair_number[2] and int(pair_number[1]) != int(number):
                    raise contradiction(location.child("Flickr30K_ID"), number, f"the image of pairID {pair_ids[-1]}")
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
        texts = list(with_pair_ids(texts, pair_ids))
    return texts, undecided_count


def with_pair_ids(texts: list[Text], pair_ids: list[str | None]) -> Iterator[Text]:
    """Copies of `texts` whose ids are their `pairID` and not their running numbers, which count in `pair_ids`."""
    for text in texts:
        assert text.source is not None
        location = Location(text.source, f"pairID of example {text.id}")
        with bad_entry(location):
            yield replace(text, id=checked_id(str(pair_ids[int(text.id)]), location))


def karpathy_captions(path: str | Path, parts: Sequence[str]) -> list[Text]:
    """Read the captions (`sentences[].raw`) of `parts` of dataset_coco.json or dataset_flickr30k.json (Karpathy).

    `parts`: train, restval, val, test. `InputError` for a part that has no image.
    """
    path = Path(path)
    texts, file_parts = [], set()
    parts_of_images: dict[object, str] = {}
    for index, image in enumerate(take(read_json(path, half_pairs=True), "images", list, Location(path))):
        location = Location(path, "images", index)
        with bad_entry(location):
            part = take(image, "split", str, location)
            file_parts.add(part)
            check_part(image, parts_of_images, location)
            if part not in parts:
                continue
            file_name = take_file_name(image, "filename", location)
            image_id = take_image_id(image, "cocoid", location) if "cocoid" in image else None
            folder = take(image, "filepath", str, location) if image_id is not None else None
            if image_id is None and (number := FLICKR_NUMBER.fullmatch(Path(base_name(file_name)).stem)):
                image_id = int(number[1])  # Flickr30k
            check_karpathy_image(image, location)
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


def check_part(image: dict[str, Any], parts: dict[object, str], location: Location) -> None:
    """`InputError` for an image that is listed twice: in two parts, one of which is trained on, it is a leak.

    `parts`: the part of each file name and each of COCO's numbers so far, which grows.
    """
    for key in ("filename", "cocoid"):
        name = image.get(key)
        if type(name) in (str, int) and name in parts:
            statement = f"{name}, in {image['split']}, which is also in {parts[name]}"
            raise contradiction(location.child(key), statement, "one entry an image")
    parts |= {image[key]: image["split"] for key in ("filename", "cocoid") if type(image.get(key)) in (str, int)}


def check_karpathy_image(image: dict[str, Any], location: Location) -> None:
    """`InputError` for an image whose folder or sentences contradict it."""
    name, folder = image["filename"], image.get("filepath")
    coco = COCO_NAME.match(Path(base_name(name)).stem)
    if coco and folder is not None and folder != coco[1]:
        raise contradiction(location.child("filepath"), str(folder), f"{coco[1]}, as in {name}")
    for key, numbers in (("imgid", [image.get("imgid")]), ("sentid", image.get("sentids"))):
        for rank, sentence in enumerate(image["sentences"] if isinstance(image.get("sentences"), list) else []):
            value = sentence.get(key) if isinstance(sentence, dict) else None
            if isinstance(numbers, list) and None not in (value, *numbers) and value not in numbers:
                raise contradiction(location.child("sentences", rank), f"{key} {value}", f"one of its image: {numbers}")


def plain(entry: Any, location: Location) -> Any:
    """A copy of an entry without lone surrogates, so that JSON and msgpack can write it.

    `InputError` for what they cannot write, such as NaN, and for a number of more than 64 bits.
    """
    try:
        text = encodable(json.dumps(entry, ensure_ascii=False, allow_nan=False))
        return json.loads(text, parse_int=small_number)
    except (TypeError, ValueError, RecursionError) as error:
        raise bad_field(location, str(error), "text, numbers, lists and objects only") from None


def small_number(digits: str) -> int:
    """The whole number `digits`; `ValueError` unless it fits into 64 bits."""
    number = int(digits)
    if abs(number) >= MAX_NUMBER:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return number
