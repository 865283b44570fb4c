"""What the records of a text store must hold for a task, so that a store of another task is refused by the field."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from data.region_checks import OUTSIDE
from data.side_files import is_box, quoted
from data.txt_store import SAMPLE, TextStore
from utils.errors import InputError
from utils.formats import CHOICES, UNLABELLED, VE_LABELS

LOG = logging.getLogger("uniter")

Kind = Literal["vcr", "re", "answers", "statement", "text"]

KINDS: dict[Kind, str] = {
    "vcr": "VCR",
    "re": "referring expressions",
    "answers": "VQA or visual entailment",
    "statement": "NLVR2",
    "text": "captions, or of a split without labels",
}
ONE_TEXT: tuple[Kind, ...] = ("re", "answers", "statement", "text")  # records of one text: all but VCR's
COMMANDS = "prepro.py captions, itm, vqa, ve, nlvr2, vcr or re"


def kind_of(record: dict[str, Any]) -> tuple[Kind, str]:
    """The kind of dataset that a record is from, and the field that shows it."""
    fields: dict[Kind, tuple[str, ...]] = {"vcr": ("input_ids_as", "input_ids_rs"), "re": ("ann_id", "bbox")}
    for kind, names in fields.items():
        for name in names:
            if name in record:
                return kind, name
    target = record.get("target")
    return ("answers" if isinstance(target, dict) else "statement" if isinstance(target, int) else "text"), "target"


def check_kind(texts: TextStore, text: int, record: dict[str, Any], title: str, kinds: tuple[Kind, ...]) -> None:
    """`InputError` unless the record of a text is of one of `kinds`, those that a task can use.

    `title`: what the store should be one of.
    """
    kind, field = kind_of(record)
    if kind not in kinds:
        raise InputError(
            f"the store is not a text store of {title}",
            file=texts.path / "data.mdb",
            key=f"{texts.id(text)}: {field}",
            found=f"a record of {KINDS[kind]}" if kind != "text" else f"no field of {KINDS[kinds[0]]}",
            expected=f"records of {' or '.join(KINDS[kind] for kind in kinds)}",
            remedy=f"give the text store of this task; each is prepared by its own command ({COMMANDS})",
        )


def say_other_kind(texts: TextStore, task: str) -> None:
    """Log a warning when the first text is of another dataset than captions, whose labels `task` does not read."""
    kind, field = kind_of(texts.read(0))
    texts.close()
    if kind != "text":
        path, found = texts.path, KINDS[kind]
        LOG.warning("%s takes the texts of %s as captions, but their field %s is of %s", task, path, field, found)


class Field(NamedTuple):
    """A wrong field of a record: its name, and what it must be."""

    name: str
    expected: str


def answers_field(record: dict[str, Any], answers: int, one_label: bool) -> Field | None:
    """The wrong part of the field `target` of a VQA or visual-entailment record, or None.

    `answers`: the size of the answer vocabulary. `one_label`: whether a record has exactly one label.
    """
    target = record.get("target")
    if target is None or target == {}:
        return None
    labels, scores = (target.get(name) for name in ("labels", "scores")) if isinstance(target, dict) else (None, None)
    if not isinstance(labels, list) or not isinstance(scores, list) or len(labels) != len(scores):
        return Field("target", '{"labels": [int], "scores": [float]}, equally many of both')
    if not all(type(label) is int and 0 <= label < answers for label in labels):
        return Field("target: labels", f"labels of the answer vocabulary, 0..{answers - 1}")
    if not all(isinstance(score, int | float) and 0 <= score <= 1 for score in scores):  # NaN is refused too
        return Field("target: scores", "numbers in 0..1")
    if len(set(labels)) < len(labels) or (one_label and len(labels) > 1):
        return Field("target: labels", "one label" if one_label else "different labels")
    return None


def statement_field(record: dict[str, Any]) -> Field | None:
    """The field `target` of an NLVR2 record when it is wrong, or None."""
    target = record.get("target")
    return (
        None if target is None or (isinstance(target, int) and target in (0, 1)) else Field("target", "1 (true) or 0")
    )


def expression_field(record: dict[str, Any]) -> Field | None:
    """The wrong field of a record of referring expressions, or None."""
    for name in ("image_id", "ann_id"):
        if not _is_id(record.get(name)):
            return Field(name, "a whole number")
    return None if is_box(record.get("bbox")) else Field("bbox", "x, y, w, h in pixels: four numbers, w and h above 0")


def outside_field(bbox: list[float], width: float, height: float) -> Field | None:
    """The field `bbox` when the box x, y, w, h does not lie in an image of `width` × `height` pixels, or None."""
    x, y, w, h = bbox
    inside = min(x / width, y / height) >= -OUTSIDE and max((x + w) / width, (y + h) / height) <= 1 + OUTSIDE
    return None if inside else Field("bbox", f"a box in its image of {width} × {height} pixels")


def choices_field(record: dict[str, Any], require_labels: bool = False) -> Field | None:
    """The wrong field of a VCR record, or None: four answers and four rationales, and the numbers of the right ones."""
    for name in ("input_ids_as", "input_ids_rs"):
        choices = record.get(name)
        if not (isinstance(choices, list) and len(choices) == CHOICES and all(isinstance(c, list) for c in choices)):
            return Field(name, "four lists of word pieces")
    low = 0 if require_labels else UNLABELLED
    for name in ("qa_target", "qar_target"):
        target = record.get(name, UNLABELLED)
        if type(target) is not int or not low <= target < CHOICES:
            return Field(name, f"0..{CHOICES - 1}" + ("" if require_labels else ", or -1 in a test split"))
    return None


def _is_id(value: Any) -> bool:
    """Whether a value is a whole number, or one as text, as some writers store ids."""
    return type(value) is int or (isinstance(value, str) and value.isdecimal())


def bad_field(texts: TextStore, text: int, record: dict[str, Any], field: Field) -> InputError:
    """The error for a wrong field of a record."""
    name, *inner = field.name.split(": ")
    value = record.get(name, "no such field")
    return InputError(
        "a field of a text's record is not what the task needs",
        file=texts.path / "data.mdb",
        key=f"{texts.id(text)}: {field.name}",
        found=quoted(value[inner[0]] if inner else value),
        expected=field.expected,
        remedy="prepare the store again with the prepro.py command for this task; train on a labelled split",
    )


def sample_records(texts: TextStore, size: int = SAMPLE, seed: int = 0) -> Iterator[int]:
    """The numbers of `size` texts drawn by `seed`, or of all where there are fewer."""
    return iter(np.random.default_rng(seed).choice(len(texts), min(size, len(texts)), replace=False).tolist())


def all_labelled(
    texts: TextStore,
    has_label: Callable[[dict[str, Any]], bool],
    has_empty_label: Callable[[dict[str, Any]], bool] = lambda record: False,
) -> bool:
    """Whether all texts have labels, not all of them empty; reads all records.

    `InputError` when some have labels and others have none.
    """
    without, empty = [], 0
    for text in range(len(texts)):
        record = texts.read(text)
        if not has_label(record):
            without.append(text)
        elif has_empty_label(record):
            empty += 1
    texts.close()  # must not be open when loader processes fork
    if 0 < len(without) < len(texts):
        raise InputError(
            "some texts of a split have labels and others have none, so that it has no score",
            file=texts.path / "data.mdb",
            key=", ".join(texts.id(text) for text in without[:3]),
            found=f"{len(without):,} of {len(texts):,} texts without a label",
            expected="labels for all texts, as in training and validation, or for none, as in a test split",
            remedy="prepare the texts with labels and those without as two stores",
        )
    return not without and empty < len(texts)


def looks_like_entailment(texts: TextStore) -> bool:
    """Whether a store of VQA's format is one of visual entailment: in a sample, one label of 0..2, sure, for each text.

    A store of VQA has `ans2label.json`, or questions in its records, or other labels.
    """
    if (texts.path / "ans2label.json").exists() or not len(texts):
        return False
    records = [texts.read(i) for i in sample_records(texts)]
    texts.close()
    if any("question_id" in record or "question" in record for record in records):
        return False
    targets = [record.get("target") or {"labels": []} for record in records]
    return all(
        len(target["labels"]) == 1 and target["labels"][0] < len(VE_LABELS) and math.isclose(target["scores"][0], 1)
        for target in targets
    )
