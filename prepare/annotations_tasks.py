"""Reading the official annotation files of NLVR2, SNLI-VE and retrieval (Karpathy's splits)."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.submission import VE_LABELS
from prepare.annotations import MAX_ID_BYTES, Text, bad_field, encodable, json_lines, read_json, take
from utils.errors import InputError

NLVR2_LABELS = {"False": 0, "True": 1}


def nlvr2_examples(path: str | Path) -> Iterator[Text]:
    """NLVR2's jsonl: `identifier`, `sentence`, and `label` where it is known.

    The pictures of "dev-850-0-3" are dev-850-0-img0.png (left) and dev-850-0-img1.png, unless a line of one's own names
    others as `left_image` and `right_image`. The record has all fields of the line, and `target`: 1 where the sentence
    is true, 0 where it is not.
    """
    path = Path(path)
    for where, entry in json_lines(path):
        id_ = text_id(take(entry, "identifier", str, path, where), path, f"{where}.identifier")
        pair = id_.rpartition("-")[0]
        if not pair:
            raise bad_field(path, f"{where}.identifier", id_, "a pair of pictures, '-' and a number: dev-850-0-3")
        sentence = take(entry, "sentence", str, path, where)
        fields = plain(entry, path, where)
        if "label" in entry:
            label = entry["label"]
            if not isinstance(label, str) or label not in NLVR2_LABELS:
                raise bad_field(path, f"{where}.label", label, "True or False, as text; absent where it is not known")
            fields["target"] = NLVR2_LABELS[label]
        left, right = (
            take(entry, key, str, path, where) if key in entry else f"{pair}-img{side}.png"
            for side, key in enumerate(("left_image", "right_image"))
        )
        yield Text(id_, sentence, None, left, None, path, right, fields)


def ve_examples(paths: Sequence[str | Path]) -> tuple[list[Text], int]:
    """The hypotheses (`sentence2`) of SNLI-VE's jsonl files, and how many were left out for want of a label ("-").

    Ids are the `pairID` where every example has one and no two are the same; else running numbers from 0.
    """
    texts, undecided = [], 0
    pair_ids: list[str | None] = []
    for path in map(Path, paths):
        for where, entry in json_lines(path):
            label = take(entry, "gold_label", str, path, where)
            pair_id = take(entry, "pairID", str, path, where) if "pairID" in entry else None
            pair_ids.append(pair_id)
            if label == "-":
                undecided += 1
                continue
            if label not in VE_LABELS:
                raise bad_field(path, f"{where}.gold_label", label, ", ".join(VE_LABELS) + " or -")
            number = take(entry, "Flickr30K_ID", str, path, where).removesuffix(".jpg")
            if not number.isdecimal():
                raise bad_field(path, f"{where}.Flickr30K_ID", number, "digits, as 2248275918")
            fields = {"target": {"labels": [VE_LABELS.index(label)], "scores": [1.0]}}
            sentence = take(entry, "sentence2", str, path, where)
            id_ = str(len(pair_ids) - 1)
            texts.append(Text(id_, sentence, int(number), f"{number}.jpg", None, path, None, fields))
    if None not in pair_ids and len(set(pair_ids)) == len(pair_ids):
        texts = [
            replace(text, id=text_id(str(pair_ids[int(text.id)]), text.source, f"pairID of example {text.id}"))
            for text in texts
        ]
    return texts, undecided


def karpathy_captions(path: str | Path, parts: Sequence[str]) -> list[Text]:
    """The captions (`sentences[].raw`) of those parts of dataset_coco.json or dataset_flickr30k.json (Karpathy)."""
    path = Path(path)
    texts, there = [], set()
    for index, image in enumerate(take(read_json(path), "images", list, path)):
        part = take(image, "split", str, path, "images", index)
        there.add(part)
        if part not in parts:
            continue
        name = take(image, "filename", str, path, "images", index)
        image_id = take(image, "cocoid", int, path, "images", index) if "cocoid" in image else None
        folder = take(image, "filepath", str, path, "images", index) if image_id is not None else None
        if image_id is None and Path(name).stem.isdecimal():
            image_id = int(Path(name).stem)  # Flickr30k
        for rank, sentence in enumerate(take(image, "sentences", list, path, "images", index)):
            place = (path, f"images[{index}].sentences", rank)
            raw, id_ = take(sentence, "raw", str, *place), take(sentence, "sentid", int, *place)
            texts.append(Text(str(id_), raw, image_id, name, folder, path))
    absent = [part for part in parts if part not in there]
    if absent:
        raise InputError(
            "no image of that part",
            file=path,
            key="--part " + " ".join(absent),
            found="images[].split: " + (", ".join(sorted(there)) or "no images"),
            remedy="name parts that the file has",
        )
    return texts


def text_id(id_: str, path: Path | None, key: str) -> str:
    """`id_`, which must do as a key of a text store."""
    if not 0 < len(id_.encode()) <= MAX_ID_BYTES:
        assert path is not None
        raise bad_field(path, key, id_, f"text of 1 to {MAX_ID_BYTES} bytes")
    return id_


def plain(entry: Any, path: Path, key: str) -> Any:
    """A copy of an entry that JSON and msgpack can write: without lone surrogates anywhere."""
    try:
        return json.loads(encodable(json.dumps(entry, ensure_ascii=False)))
    except (TypeError, ValueError) as error:
        raise bad_field(path, key, str(error), "text, numbers, lists and dicts only") from None
