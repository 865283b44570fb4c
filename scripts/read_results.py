"""Reading results files and the official annotations that they are scored by, entry by entry, checked."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.submission import VCR_COLUMNS
from prepare.annotations import bad_field, read_json, take
from prepare.annotations_tasks import karpathy_captions
from utils import unpickle
from utils.errors import InputError
from utils.files import read_bytes


def numbered(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("[index]", entry) of every entry of a JSON list of objects."""
    yield from objects(path, read_json(path))


def objects(path: Path, content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """("[index]", entry) of every entry of `content`, the list of objects that `path` holds."""
    if not isinstance(content, list):
        raise bad_field(path, "the whole file", content, "a list")
    for index, entry in enumerate(content):
        if not isinstance(entry, dict):
            raise bad_field(path, f"[{index}]", entry, "an object")
        yield f"[{index}]", entry


def keyed(path: Path, entries: Iterator[tuple[str, Any]], id_key: str, value_key: str) -> dict[str, str]:
    """`id_key` to `value_key` of every entry, both text."""
    found: dict[str, str] = {}
    for where, entry in entries:
        add(found, take(entry, id_key, str, path, where), take(entry, value_key, str, path, where), path)
    return found


def add(found: dict[Any, Any], id_: Any, value: Any, path: Path) -> None:
    """`found[id_] = value`; refuses a second one."""
    if id_ in found:
        raise InputError("an id comes twice", file=path, key=id_)
    found[id_] = value


def truth_value(path: Path, where: str, answer: str) -> str:
    """The answer in small letters, which must be true or false."""
    if answer.lower() not in ("true", "false"):
        raise bad_field(path, where, answer, "True or False")
    return answer.lower()


def read_vcr(path: Path) -> dict[str, np.ndarray]:
    """annot_id to its 20 scores, of a results JSON or a submission's csv."""
    if path.name.removesuffix(".gz").endswith(".json"):
        content = read_json(path)
        rows = list(content.items()) if isinstance(content, dict) else []
    else:
        header, *body = list(csv.reader(io.StringIO(read_bytes(path).decode()))) or [[]]
        if header != ["annot_id", *VCR_COLUMNS]:
            raise bad_field(path, "line 1", ",".join(header), f"annot_id,{VCR_COLUMNS[0]}, …, {VCR_COLUMNS[-1]}")
        rows = [(id_, scores) for id_, *scores in body]
    found: dict[str, np.ndarray] = {}
    for id_, scores in rows:
        try:
            numbers = np.array(scores, np.float64)
        except (ValueError, TypeError):
            numbers = np.empty(0)
        if numbers.shape != (len(VCR_COLUMNS),) or not np.isfinite(numbers).all():
            raise bad_field(path, id_, scores, "20 numbers")
        add(found, id_, numbers, path)
    return found


def re_targets(refs: Path, instances: Path, split: str | None) -> dict[int, list[float]]:
    """sent_id to the box of its object."""
    listed = read_json(instances)
    listed = take(listed, "annotations", list, instances) if isinstance(listed, dict) else listed
    boxes: dict[int, list[float]] = {}
    for where, entry in objects(instances, listed):
        id_ = take(entry, "id", int, instances, where)
        boxes[id_] = box(instances, f"annotation {id_}", entry.get("bbox"))
    targets: dict[int, list[float]] = {}
    for index, (_, ref) in enumerate(objects(refs, unpickle.load(refs) if refs.suffix == ".p" else read_json(refs))):
        if split is not None and ref.get("split") != split:
            continue
        ann_id = take(ref, "ann_id", int, refs, "", index)
        if ann_id not in boxes:
            raise bad_field(refs, f"[{index}].ann_id", ann_id, f"an annotation of {instances.name}")
        for rank, sentence in enumerate(take(ref, "sentences", list, refs, "", index)):
            add(targets, take(sentence, "sent_id", int, refs, f"[{index}].sentences", rank), boxes[ann_id], refs)
    return targets


def box(path: Path, where: str, found: Any) -> list[float]:
    """Four finite numbers."""
    if not isinstance(found, list) or len(found) != 4 or not all(isinstance(x, int | float) for x in found):
        raise bad_field(path, where, found, "x, y, w, h")
    return found


def txt2img(path: Path, img_ids: Sequence[str], split: str | None) -> dict[str, str]:
    """Text id to its picture's name in `img_ids`, of any of the three kinds of file."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise bad_field(path, "the whole file", content, "txt2img.json, img2txts.json or a Karpathy dataset JSON")
    if "images" not in content:
        if all(isinstance(value, str) for value in content.values()):
            return content
        return {id_: name for name in content for id_ in take(content, name, list, path)}
    if split is None:
        raise InputError("which part of the dataset was scored?", file=path, key="--split", expected="val or test")
    named: dict[str, str] = {}
    for name in img_ids:
        add(named, picture_number(name), name, path)
    truth: dict[str, str] = {}
    for text in karpathy_captions(path, [split]):
        assert text.file_name is not None
        add(truth, text.id, named.get(picture_number(text.file_name), text.file_name), path)
    return truth


def picture_number(name: str) -> str:
    """The number that ends a picture's name, without leading zeros; else its stem."""
    stem = Path(name).stem.lower()
    number = re.search(r"\d+$", stem)
    return str(int(number[0])) if number else stem
