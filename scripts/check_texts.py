"""What `scripts/check.py` checks of a text store beyond each record alone: its task's fields and its side files."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.img_store import ImageStore
from data.lmdb_io import Reader
from data.record_checks import (
    KINDS,
    Field,
    Kind,
    answers_field,
    bad_field,
    choices_field,
    expression_field,
    kind_of,
    outside_field,
    statement_field,
)
from data.rng import generator
from data.side_files import FIELDS, TEXTS, check_values, read_entries
from data.txt_store import LENGTH_FILES, TextStore
from evaluation.vqa_answers import read_ans2label
from utils.errors import InputError
from utils.files import read_json

# Which field of which side file is an id of which other one.
REFERENCES = (
    ("annotations.json", "image_id", "images.json"),
    ("refs.json", "image_id", "images.json"),
    ("refs.json", "ann_id", "annotations.json"),
)


class RecordCheck:
    """A check of the records of a text store, called with the number of one text after the other."""

    def __init__(self, texts: TextStore):
        """Read the side files that records are compared with; `InputError` when one is malformed."""
        self.texts = texts
        self.kinds: Counter[Kind] = Counter()
        self.unlabelled: list[int] = []  # texts without a label
        self.signs = texts.signs()
        file = texts.path / "ans2label.json"
        self.answers = len(read_ans2label(file)) if file.exists() else 1 << 31
        self.boxes = {entry["id"]: entry["bbox"] for entry in self._entries("annotations.json")}
        self.images = {entry["id"]: entry for entry in self._entries("images.json")}

    def _entries(self, name: str) -> list[dict[str, Any]]:
        return read_entries(self.texts.path / name) if (self.texts.path / name).exists() else []

    def __call__(self, text: int) -> None:
        """Check a record; `InputError` when it is wrong or contradicts a side file."""
        record = self.texts.check_record(text)
        self.signs.add(record)
        kind, _ = kind_of(record)
        self.kinds[kind] += 1
        if kind == "text" or (kind == "vcr" and -1 in (record.get("qa_target", -1), record.get("qar_target", -1))):
            self.unlabelled.append(text)
        field = self._wrong_field(kind, record)
        if field is not None:
            raise bad_field(self.texts, text, record, field)

    def _wrong_field(self, kind: Kind, record: dict[str, Any]) -> Field | None:
        if kind == "vcr":
            return choices_field(record)
        if kind == "re":
            return expression_field(record) or self._contradiction(record)
        if kind == "answers":
            return answers_field(record, self.answers, one_label=False)
        return statement_field(record)

    def _contradiction(self, record: dict[str, Any]) -> Field | None:
        """The field of a referring expression that contradicts `images.json` or `annotations.json`, or None."""
        image, ann_id = self.images.get(int(record["image_id"])), int(record["ann_id"])
        if image is None:
            return Field("image_id", "an image in images.json")
        if ann_id not in image["ann_ids"]:
            return Field("ann_id", f"one of the image's ann_ids in images.json: {image['ann_ids']}"[:200])
        if self.boxes and not np.allclose(record["bbox"], self.boxes.get(ann_id, [-1] * 4), atol=0.01):
            return Field("bbox", f"that of annotation {ann_id} in annotations.json: {self.boxes.get(ann_id)}")
        return outside_field(record["bbox"], image["width"], image["height"])

    def finish(self) -> None:
        """`InputError` when the records are of several tasks, only some have labels, or nearly all hold [CLS]."""
        self.signs.check(self.texts.path / "data.mdb")
        labelled = [kind for kind in self.kinds if kind != "text"]
        mixed, partly = len(labelled) > 1, 0 < len(self.unlabelled) < len(self.texts)
        if mixed or partly:
            problem = "the records are of several tasks" if mixed else "some texts have labels and others have none"
            counts = ", ".join(f"{count:,} of {KINDS[kind]}" for kind, count in self.kinds.items())
            raise InputError(
                problem,
                file=self.texts.path / "data.mdb",
                key=", ".join(self.texts.id(text) for text in self.unlabelled[:3]) or None,
                found=counts if mixed else f"{len(self.unlabelled):,} of {len(self.texts):,} texts without a label",
                expected="records of one task, all with labels or none",
                remedy="prepare them as separate stores",
            )

    def summary(self) -> str:
        """What the records are, in one line."""
        kinds = ", ".join(KINDS[kind] for kind in self.kinds)
        unlisted = sum(1 for _ in Reader(self.texts.path).items()) - len(self.texts)
        labelled = len(self.texts) - len(self.unlabelled)
        return (
            f"records: {kinds}; {labelled:,} with labels; {unlisted:,} are not in {self.texts.lengths} and are not read"
        )


def check_side_files(texts: TextStore) -> None:
    """Check the values of the side files that no record is compared with; `InputError` when one is wrong."""
    entries = {name: read_entries(texts.path / name) for name in FIELDS if (texts.path / name).exists()}
    check_references(texts, entries)
    for name in LENGTH_FILES:
        if name != texts.lengths and (texts.path / name).exists():
            check_other_lengths(texts, TextStore(texts.path, lengths=name))
    if (texts.path / "img2txts.json").exists():
        check_texts_by_picture(texts)


def check_texts_by_picture(texts: TextStore) -> None:
    """`InputError` unless `img2txts.json` lists every text once under each of its images.

    Texts of the LMDB that the file of lengths leaves out may be listed too.
    """
    file = texts.path / "img2txts.json"
    content = read_json(file)
    check_values(file, content, TEXTS)
    pictures = {texts.id(text): texts.pictures(text) for text in range(len(texts))}
    others = pictures_of_others(texts) if any(id_ not in pictures for ids in content.values() for id_ in ids) else {}
    listed = Counter((name, id_) for name, ids in content.items() for id_ in ids)
    due = {(name, id_) for id_, names in pictures.items() for name in names}
    wrong = [pair for pair in listed if pair not in due and pair[0] not in others.get(pair[1], ())]
    repeated, absent = [pair for pair, count in listed.items() if count > 1], sorted(due - listed.keys())
    for pairs, problem in (
        (wrong, "under an image that is not theirs"),
        (repeated, "more than once under one image"),
        (absent, "not under their image"),
    ):
        if pairs:
            name, id_ = pairs[0]
            named = " and ".join(pictures.get(id_) or others.get(id_) or ["not in the store"])
            raise InputError(
                "img2txts.json and txt2img.json contradict each other",
                file=file,
                key=f"{name}: {id_}",
                found=f"{len(pairs):,} texts {problem}; the image of this one: {named}",
                expected="under each image the ids of its texts, once",
                remedy="copy the whole folder again, or prepare it again",
            )


def pictures_of_others(texts: TextStore) -> dict[str, list[str]]:
    """The images of each text of the LMDB, also of those that the file of lengths leaves out, by id."""
    file = texts.path / "txt2img.json"
    named = read_json(file) if file.exists() else {}
    images = {}
    for key, _ in Reader(texts.path).items():
        names = named.get(key.decode()) if named else texts.decode(key).get("img_fname", ())
        images[key.decode()] = [names] if isinstance(names, str) else list(names or ())
    return images


def check_references(texts: TextStore, entries: Mapping[str, list[dict[str, Any]]]) -> None:
    """`InputError` when an entry of a side file names an image or an annotation that another side file lacks.

    `entries`: those of each file that exists, by its name.
    """
    id_sets = {
        name: {entry["id"] for entry in entries[name]}
        for name in ("images.json", "annotations.json")
        if name in entries
    }
    for name, key, other in REFERENCES:
        wrong = [e[key] for e in entries.get(name, ()) if other in id_sets and e[key] not in id_sets[other]]
        if wrong:
            raise InputError(
                "two files beside the store contradict each other",
                file=texts.path / name,
                key=key,
                found=f"{len(wrong):,} entries with a {key} that {other} lacks, such as {wrong[0]}",
                expected=f"an id of {other}",
                remedy="copy the whole folder again, or prepare it again",
            )


def check_other_lengths(texts: TextStore, other: TextStore) -> None:
    """`InputError` unless two files of lengths of one store, as VCR has, list the same texts."""
    ids, other_ids = ({store.id(text) for text in range(len(store))} for store in (texts, other))
    if ids != other_ids:
        raise InputError(
            "two files of lengths list different texts",
            file=texts.path / other.lengths,
            key=", ".join(sorted(ids ^ other_ids)[:3]),
            found=f"{len(other_ids):,} texts",
            expected=f"the {len(ids):,} texts of {texts.lengths}",
            remedy="copy the whole folder again, or prepare it again",
        )


def check_expressions(texts: TextStore, images: ImageStore) -> None:
    """Check that the boxes of referring expressions are those of the image store; `InputError` otherwise."""
    from data.referring import ReferringExpressions, box_source  # it imports torch, for over a second

    source = box_source(str(images.path))
    data = ReferringExpressions(texts, images, source)
    for text in range(len(texts)):
        data.example([text, data.pictures[text]], generator(0))
    print(f"  the image store has the {source} boxes of all {len(texts):,} expressions")
