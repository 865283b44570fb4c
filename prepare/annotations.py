"""Reading official annotation files: COCO captions, VQA v2, jsonl of one's own, lists of images.

Every reader takes plain or gzipped files, checks what it reads, and raises `InputError` with file and entry.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import InputError
from utils.files import read_bytes

T = TypeVar("T")
COCO_NAME = re.compile(r"COCO_([a-z]+20\d\d)_(\d{12})$", re.IGNORECASE)  # the stem of a picture of 2014
COCO_NUMBER = re.compile(r"\d{12}$")  # ... and of 2017
MAX_ID_BYTES = 511  # LMDB's limit for a key
COCO_FOLDER = re.compile(r"/([a-z]+20\d\d)/")  # in a coco_url


@dataclass(frozen=True, slots=True)
class Text:
    """A caption or question and its picture, known by number (COCO) or file name or both."""

    id: str
    text: str
    image_id: int | None = None
    file_name: str | None = None
    split: str | None = None
    source: Path | None = None  # the annotation file, for messages
    second: str | None = None  # file name of a second picture (NLVR2)
    fields: dict[str, Any] | None = None  # what goes into the record as it is

    def pictures(self) -> "list[Text]":
        """This text with each of its pictures alone."""
        if self.second is None:
            return [self]
        return [replace(self, second=None), replace(self, file_name=self.second, second=None)]


@dataclass
class ImageList:
    """Pictures named by number (COCO) or by file name, compared without folder and suffix."""

    ids: set[int] = field(default_factory=set)
    stems: set[str] = field(default_factory=set)

    def __contains__(self, text: Text) -> bool:
        """Whether the list names the (first) picture of `text`."""
        if text.image_id is not None and text.image_id in self.ids:
            return True
        return text.file_name is not None and Path(text.file_name).stem in self.stems


def coco_captions(path: str | Path) -> list[Text]:
    """The captions of a COCO captions JSON (`images`, `annotations`), in file order."""
    path = Path(path)
    content = read_json(path)
    images = {}
    for index, image in enumerate(take(content, "images", list, path)):
        name = take(image, "file_name", str, path, "images", index)
        named = COCO_NAME.match(Path(name).stem) or COCO_FOLDER.search(str(image.get("coco_url", "")))
        images[take(image, "id", int, path, "images", index)] = (name, named.group(1) if named else None)
    texts = []
    for index, entry in enumerate(take(content, "annotations", list, path)):
        image_id = take(entry, "image_id", int, path, "annotations", index)
        caption = take(entry, "caption", str, path, "annotations", index)
        if image_id not in images:
            raise InputError(
                "a caption of an image that the file does not list",
                file=path,
                key=f"annotations[{index}].image_id",
                found=image_id,
                expected="an id in images[]",
            )
        caption_id = take(entry, "id", int, path, "annotations", index)
        texts.append(Text(str(caption_id), caption, image_id, *images[image_id], path))
    return texts


def caption_lines(path: str | Path) -> Iterator[Text]:
    """The texts of a jsonl of one's own: `{"id": str or int, "image": file name, "text": str}` a line."""
    path = Path(path)
    for where, entry in json_lines(path):
        id_ = entry.get("id") if isinstance(entry, dict) else None
        if type(id_) is int:
            id_ = str(id_)
        if not isinstance(id_, str) or not 0 < len(id_.encode(errors="replace")) <= MAX_ID_BYTES:
            raise bad_field(path, f"{where}, id", id_, f"text of 1 to {MAX_ID_BYTES} bytes, or a number")
        image = take(entry, "image", str, path, where)
        if not Path(image).stem:
            raise bad_field(path, f"{where}, image", image, "a file name")
        yield Text(encodable(id_), take(entry, "text", str, path, where), None, image, None, path)


def vqa_questions(path: str | Path) -> list[Text]:
    """The questions of a VQA v2 questions JSON; its `data_subtype` (train2014, test2015) gives the split."""
    path = Path(path)
    content = read_json(path)
    split = content.get("data_subtype") if isinstance(content, dict) else None
    if isinstance(split, str):
        split = re.sub("^test-(dev|std)", "test", split)  # part of test2015's questions, on its images
    texts = []
    for index, entry in enumerate(take(content, "questions", list, path)):
        id_ = take(entry, "question_id", int, path, "questions", index)
        question = take(entry, "question", str, path, "questions", index)
        image_id = take(entry, "image_id", int, path, "questions", index)
        texts.append(Text(str(id_), question, image_id, None, split, path))
    return texts


def vqa_annotations(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a VQA v2 annotations JSON as they are, checked.

    Each has `question_id` and `answers[].answer`, and may have the official file's `multiple_choice_answer`,
    `question_type` and `answer_type`.
    """
    path = Path(path)
    entries = take(read_json(path), "annotations", list, path)
    for index, entry in enumerate(entries):
        take(entry, "question_id", int, path, "annotations", index)
        answers = take(entry, "answers", list, path, "annotations", index)
        for rank, answer in enumerate(answers):
            take(answer, "answer", str, path, f"annotations[{index}].answers", rank)
        if not answers:
            raise bad_field(path, f"annotations[{index}].answers", answers, "the annotators' answers")
        for key in ("multiple_choice_answer", "question_type", "answer_type"):
            if key in entry:
                take(entry, key, str, path, "annotations", index)
    return entries


def vqa_results(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a VQA results file: a list of `{"answer": str, "question_id": int}`."""
    path = Path(path)
    entries = read_json(path)
    if not isinstance(entries, list):
        raise bad_field(path, "the whole file", entries, "a list")
    for index, entry in enumerate(entries):
        take(entry, "question_id", int, path, "", index)
        take(entry, "answer", str, path, "", index)
    return entries


def image_list(path: str | Path) -> ImageList:
    """Pictures, one a line: a number, a file name, or a file name and its number (as Karpathy's lists)."""
    path = Path(path)
    listed = ImageList()
    for _, line in lines(path):
        name, *number = line.rsplit(None, 1)
        if not (number and number[0].isdecimal()):
            name, number = line, []
        stem = Path(name).stem
        coco = COCO_NAME.match(stem) or COCO_NUMBER.match(stem)
        if number or name.isdecimal():
            listed.ids.add(int(number[0] if number else name))
        elif coco:
            listed.ids.add(int(coco.group(coco.lastindex or 0)))
        if not name.isdecimal():
            listed.stems.add(stem)
    if not listed.ids and not listed.stems:
        raise InputError("the list names no image", file=path, expected="one file name or number a line")
    return listed


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """("line 1", its value) of every line of a jsonl that is not blank."""
    for number, line in lines(path):
        where = f"line {number}"
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError("not a JSON object", file=path, key=where, found=error) from None


def read_json(path: Path) -> Any:
    """A JSON file, plain or gzipped."""
    try:
        return json.loads(read_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError("not a JSON file", file=path, found=error, expected="JSON text") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without white space around it) of every line that is not blank."""
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", file=path, found=error) from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def take(entry: Any, key: str, kind: type[T], path: Path, where: str = "", index: int | None = None) -> T:
    """`entry[key]`, which must be of exactly that kind; `where` and `index` say which entry it is."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not kind:
        place = where + (f"[{index}]" if index is not None else "")
        found = value if isinstance(entry, dict) else entry
        raise bad_field(path, f"{place}.{key}".lstrip("."), found, KINDS[kind])
    return encodable(value) if isinstance(value, str) else value  # type: ignore[return-value]


def encodable(text: str) -> str:
    """`text` without lone surrogates, which JSON may hold and UTF-8 may not; the tokeniser drops them anyway."""
    return text if text.isascii() else text.encode(errors="ignore").decode()


KINDS = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


def bad_field(path: Path, key: str, found: Any, expected: str) -> InputError:
    """The error for a field that is absent or of the wrong kind."""
    shown = "nothing" if found is None else repr(found)
    return InputError(
        "a field is missing or of the wrong kind",
        file=path,
        key=key,
        found=shown if len(shown) <= 80 else shown[:77] + "...",
        expected=expected,
        remedy="give the official file, unchanged, or complete this entry",
    )
