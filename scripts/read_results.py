"""Readers of results files and of the annotations that they are scored by; every entry is checked."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data.side_files import TEXTS, check_values
from evaluation.metrics import NLVR2_ID
from evaluation.submission import VCR_COLUMNS
from prepare.annotations_tasks import karpathy_captions
from prepare.entries import Location, bad_field, contradiction, described, json_lines, take
from utils import unpickle
from utils.errors import InputError
from utils.files import read_json, read_text
from utils.formats import CHOICES

MOST_PIXELS = 1e6  # of a number of a box
ROUNDING = 1.0  # pixels by which two copies of one box may differ
Key = TypeVar("Key")
Value = TypeVar("Value")


def read_entries(path: Path) -> Iterator[tuple[Location, dict[str, Any]]]:
    """Read a JSON list of objects: location ("[0]") and value of every entry."""
    yield from check_entries(path, read_json(path))


def check_entries(path: Path, content: Any) -> Iterator[tuple[Location, dict[str, Any]]]:
    """Check that `content`, from the file `path`, is a list of objects: location ("[0]") and value of every entry."""
    if not isinstance(content, list):
        raise bad_field(Location(path, "the whole file"), content, "a list")
    for index, entry in enumerate(content):
        location = Location(path, "", index)
        if not isinstance(entry, dict):
            raise bad_field(location, entry, "an object")
        yield location, entry


def text_by_id(entries: Iterable[tuple[Location, Any]], id_key: str, text_key: str) -> dict[str, str]:
    """A dict from the field `id_key` to the field `text_key` of every entry; both must be text."""
    texts: dict[str, str] = {}
    for location, entry in entries:
        id_ = take(entry, id_key, str, location)
        add_new(texts, id_, take(entry, text_key, str, location), location.path)
    return texts


def add_new(values: dict[Key, Value], id_: Key, value: Value, path: Path) -> None:
    """Set `values[id_] = value`. `InputError` if the id is in `values` already; `path`: the file, for the error."""
    if id_ in values:
        raise InputError(
            "an id occurs twice",
            file=path,
            key=id_,
            found=f"a second entry, after {described(values[id_])}",
            expected="one entry for each id",
            remedy="remove one of them, or write the file again",
        )
    values[id_] = value


def truth_value(answer: str, location: Location) -> str:
    """The answer in lower case; `InputError` unless it is true or false."""
    if answer.lower() not in ("true", "false"):
        raise bad_field(location, answer, "True or False")
    return answer.lower()


def read_nlvr2_labels(path: Path) -> dict[str, str]:
    """Read NLVR2's annotations: identifier to "true" or "false". Labels may be JSON's truth values too."""
    labels: dict[str, str] = {}
    for location, entry in json_lines(path):
        id_ = take(entry, "identifier", str, location)
        if not NLVR2_ID.fullmatch(id_):
            raise bad_field(location.child("identifier"), id_, "an NLVR2 identifier, such as dev-896-0-1")
        value = entry.get("label")
        label = str(value) if isinstance(value, bool) else take(entry, "label", str, location)
        add_new(labels, id_, truth_value(label, location.child("label")), path)
    return labels


def refuse_repeated_pair_ids(paths: Sequence[Path]) -> None:
    """`InputError` for the first pairID that visual entailment's annotations have twice."""
    places: dict[str, Location] = {}
    for path in paths:
        for location, entry in json_lines(path):
            pair_id = entry.get("pairID")
            if isinstance(pair_id, str) and pair_id in places:
                statement = f"{pair_id}, which {places[pair_id]} of {places[pair_id].path} has too"
                raise contradiction(location.child("pairID"), statement, "one example for each pairID")
            places[pair_id] = location


def read_vcr(path: Path) -> dict[str, np.ndarray]:
    """Read VCR results, a JSON or a submission's csv: annot_id to its 20 scores."""
    if path.name.removesuffix(".gz").endswith(".json"):
        content = read_json(path)
        if not isinstance(content, dict):
            raise bad_field(Location(path, "the whole file"), content, "an object: annot_id to its 20 numbers")
        rows = list(content.items())
    else:
        try:
            header, *body = list(csv.reader(io.StringIO(read_text(path)))) or [[]]
        except csv.Error as error:
            raise InputError("not a csv", file=path, found=error, expected="annot_id and 20 numbers") from None
        if header != ["annot_id", *VCR_COLUMNS]:
            expected = f"annot_id,{VCR_COLUMNS[0]}, …, {VCR_COLUMNS[-1]}"
            raise bad_field(Location(path, "line 1"), ",".join(header), expected)
        rows = [(id_, scores) for id_, *scores in body]
    scores_by_id: dict[str, np.ndarray] = {}
    for id_, scores in rows:
        try:
            numbers = np.array(list(map(float, scores)), np.float64)
            is_bool = any(isinstance(score, bool) for score in scores)
        except (ValueError, TypeError, OverflowError):
            numbers, is_bool = np.empty(0), False
        if numbers.shape != (len(VCR_COLUMNS),) or is_bool or not np.isfinite(numbers).all():
            raise bad_field(Location(path, f"annot_id {id_}"), scores, "20 numbers")
        add_new(scores_by_id, id_, numbers, path)
    return scores_by_id


def read_vcr_labels(path: Path) -> dict[str, tuple[int, int]]:
    """Read the right choices of VCR's annotations: annot_id to answer and rationale, each 0 to 3."""
    labels: dict[str, tuple[int, int]] = {}
    for location, entry in json_lines(path):
        right = (choice_label(entry, "answer_label", location), choice_label(entry, "rationale_label", location))
        add_new(labels, take(entry, "annot_id", str, location), right, path)
    return labels


def choice_label(entry: Any, key: str, location: Location) -> int:
    """The number of the right choice; `InputError` where it is absent, as in the test split, or no choice."""
    label = take(entry, key, int, location)
    if not 0 <= label < CHOICES:
        raise bad_field(location.child(key), label, f"0 to {CHOICES - 1}; the labels of the test split are not public")
    return label


def read_re_targets(refs: Path, instances: Path, split: str | None) -> dict[int, list[float]]:
    """Read the true boxes of referring expressions: sent_id to x, y, w, h. `split`: None for all splits."""
    annotations = read_json(instances)
    if isinstance(annotations, dict):
        annotations = take(annotations, "annotations", list, Location(instances))
    boxes: dict[int, list[float]] = {}
    images: dict[int, Any] = {}
    for location, annotation in check_entries(instances, annotations):
        id_ = take(annotation, "id", int, location)
        box = check_box(annotation.get("bbox"), Location(instances, f"annotation {id_}"))
        images[id_] = annotation.get("image_id")
        if boxes.setdefault(id_, box) != box:
            raise contradiction(location.child("id"), f"{id_}, which another box has too", "one box an id")
    targets: dict[int, list[float]] = {}
    splits = set()
    for location, ref in check_entries(refs, unpickle.load(refs) if refs.suffix == ".p" else read_json(refs)):
        splits.add(str(ref.get("split")))
        if split is not None and ref.get("split") != split:
            continue
        ann_id = take(ref, "ann_id", int, location)
        if ann_id not in boxes:
            raise bad_field(location.child("ann_id"), ann_id, f"an annotation of {instances.name}")
        check_box(boxes[ann_id], Location(instances, f"annotation {ann_id}"), with_area=True)
        if None not in (image := ref.get("image_id"), own := images[ann_id]) and image != own:
            raise contradiction(location.child("image_id"), str(image), f"{own}, the image of annotation {ann_id}")
        for rank, sentence in enumerate(take(ref, "sentences", list, location)):
            sent_id = take(sentence, "sent_id", int, location.child("sentences", rank))
            add_new(targets, sent_id, boxes[ann_id], refs)
    if not targets:
        raise InputError(
            "the file has no expression of that split",
            file=refs,
            key=f"--split {split}",
            found="the splits " + ", ".join(sorted(splits)) if splits else "no references",
            remedy="name a split that the file has",
        )
    return targets


def check_box(value: Any, location: Location, with_area: bool = False) -> list[float]:
    """`value`; `InputError` unless it is a list of four numbers, x, y, w, h, in pixels, w and h not negative.

    `with_area`: w and h are not 0 either.
    """
    is_box = isinstance(value, list) and len(value) == 4 and all(type(x) in (int, float) for x in value)
    if not is_box or not all(abs(x) < MOST_PIXELS for x in value) or min(value[2:]) < 0:  # NaN is not below
        raise bad_field(location, value, "four numbers: x, y, w, h in pixels, w and h not negative")
    if with_area and min(value[2:]) == 0:
        raise bad_field(location, value, "a true box with an area")
    return list(value)


def check_same_box(box: Any, true_box: Any, location: Location, true_file: Path) -> None:
    """`InputError` where the target box at `location` differs from the one in `true_file` by more than rounding."""
    if np.shape(box) != (4,) or not np.allclose(box, true_box, rtol=0, atol=ROUNDING):
        found, expected = np.asarray(box).tolist(), f"{np.asarray(true_box).tolist()}, as in {true_file}"
        raise contradiction(location, str(found)[:80], expected)


def read_txt2img(path: Path, img_ids: Sequence[str], split: str | None) -> dict[str, str]:
    """Read the true image of each text: text id to a name in `img_ids`.

    `path`: txt2img.json, img2txts.json or a Karpathy dataset JSON; the last needs a `split`.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        expected = "txt2img.json, img2txts.json or a Karpathy dataset JSON"
        raise bad_field(Location(path, "the whole file"), content, expected)
    if "images" not in content and split is not None:
        raise InputError(
            "--split is for a Karpathy dataset JSON only",
            file=path,
            key=f"--split {split}",
            found="the side file of a text store, which is one split",
            remedy="leave out --split, or give dataset_coco.json or dataset_flickr30k.json",
        )
    if "images" not in content:
        if all(isinstance(value, str) for value in content.values()):
            return content
        check_values(path, content, TEXTS)
        names: dict[str, str] = {}
        for name, ids in content.items():
            for id_ in ids:
                add_new(names, id_, name, path)
        return names
    if split is None:
        raise InputError(
            "the option --split is missing",
            file=path,
            key="--split",
            expected="the split of the results: val or test",
            remedy="give --split, which selects the split in this Karpathy file",
        )
    name_by_number: dict[str, str] = {}
    for name in img_ids:
        add_new(name_by_number, picture_number(name), name, path)
    truth: dict[str, str] = {}
    for text in karpathy_captions(path, [split]):
        assert text.file_name is not None
        add_new(truth, text.id, name_by_number.get(picture_number(text.file_name), text.file_name), path)
    return truth


def picture_number(name: str) -> str:
    """The number at the end of an image name, without leading zeros; the stem if there is no number."""
    stem = Path(name).stem.lower()
    number = re.search(r"[0-9]{1,18}$", stem)
    return str(int(number[0])) if number else stem
