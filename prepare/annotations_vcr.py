"""Reading VCR: its jsonl of questions and the metadata of its pictures.

In a question, an answer and a rationale, a token is a word or a *tag*, a list of indexes into `objects`:
["Does", [0], "live", "in", "this", "house", "?"].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from prepare.annotations import Text, bad_field, json_lines, read_json, take
from prepare.annotations_tasks import text_id
from utils.errors import InputError

CHOICES = 4
Tokens = list[str | list[int]]


@dataclass(frozen=True, slots=True)
class VcrText(Text):
    """A question with four answers and four rationales. `text` is its words, for messages."""

    objects: tuple[str, ...] = ()
    metadata: str = ""  # file name, under the folder of metadata
    question: Tokens = None  # type: ignore[assignment]
    answers: list[Tokens] = None  # type: ignore[assignment]
    rationales: list[Tokens] = None  # type: ignore[assignment]


def vcr_examples(path: str | Path) -> Iterator[VcrText]:
    """The lines of train.jsonl, val.jsonl or test.jsonl; `qa_target` and `qar_target` are −1 where there is none."""
    path = Path(path)
    for where, entry in json_lines(path):
        objects = take(entry, "objects", list, path, where)
        if not objects or not all(isinstance(name, str) for name in objects):
            raise bad_field(path, f"{where}.objects", objects, "a list of names")
        image = take(entry, "img_fn", str, path, where)
        if not PurePosixPath(image).stem:
            raise bad_field(path, f"{where}.img_fn", image, "a file name")
        question = tokens(entry, "question", path, where, len(objects))
        targets = (target(entry, key, path, where) for key in ("answer_label", "rationale_label"))
        yield VcrText(
            text_id(take(entry, "annot_id", str, path, where), path, f"{where}.annot_id"),
            " ".join(str(token) for token in question),
            None,
            image,
            None,
            path,
            None,
            dict(zip(("qa_target", "qar_target"), targets)),
            tuple(objects),
            take(entry, "metadata_fn", str, path, where),
            question,
            *(choices(entry, key, path, where, len(objects)) for key in ("answer_choices", "rationale_choices")),
        )


def choices(entry: Any, key: str, path: Path, where: str, n_objects: int) -> list[Tokens]:
    """The four answers or rationales."""
    found = take(entry, key, list, path, where)
    if len(found) != CHOICES:
        raise bad_field(path, f"{where}.{key}", f"{len(found)} choices", f"{CHOICES} choices")
    numbered = {str(k): choice for k, choice in enumerate(found)}
    return [tokens(numbered, str(k), path, f"{where}.{key}", n_objects) for k in range(CHOICES)]


def tokens(entry: Any, key: str, path: Path, where: str, n_objects: int) -> Tokens:
    """A list of words and tags; every tag names objects that there are."""
    found = take(entry, key, list, path, where)
    for k, token in enumerate(found):
        tag = isinstance(token, list) and token and all(type(i) is int and 0 <= i < n_objects for i in token)
        if not tag and not isinstance(token, str):
            expected = f"a word, or a list of indexes into the {n_objects} objects"
            raise bad_field(path, f"{where}.{key}[{k}]", token, expected)
    return found


def target(entry: dict[str, Any], key: str, path: Path, where: str) -> int:
    """The number of the right choice; −1 where the line does not tell, as in the test split."""
    if key not in entry:
        return -1
    label = take(entry, key, int, path, where)
    if not 0 <= label < CHOICES:
        raise bad_field(path, f"{where}.{key}", label, f"0..{CHOICES - 1}, or no such field in the test split")
    return label


def vcr_boxes(path: Path, text: VcrText) -> tuple[np.ndarray, tuple[int, int]]:
    """boxes (n, 4) x1, y1, x2, y2 in pixels of the objects of `text`, and the picture's (width, height)."""
    content = read_json(path)
    size = take(content, "width", int, path), take(content, "height", int, path)
    if min(size) < 1:
        raise bad_field(path, "width, height", size, "pixels")
    rows = take(content, "boxes", list, path)
    if len(rows) != len(text.objects):
        raise InputError(
            "boxes and objects do not agree",
            file=path,
            key="boxes",
            found=f"{len(rows)} boxes",
            expected=f"{len(text.objects)}, one for each of the objects of {text.id} in {text.source}",
            remedy="give --metadata the folder vcr1images that belongs to these annotations",
        )
    for k, row in enumerate(rows):
        numbers = isinstance(row, list) and len(row) >= 4 and all(type(x) in (int, float) for x in row[:4])
        if not numbers or not all(abs(x) < 1e6 for x in row[:4]):  # also refuses NaN
            raise bad_field(path, f"boxes[{k}]", row, "x1, y1, x2, y2 in pixels, and a score")
    return np.array([row[:4] for row in rows], float), size
