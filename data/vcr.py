"""Visual commonsense reasoning: a question, four answers, and four rationales of the right one (paper 4.1, A.2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.batch import Example, Image, Seq
from data.img_store import ImageStore
from data.stores import GT_VARIANT, Stores
from data.text_image import BatchUnit, check_pictures, join, read_image
from data.txt_store import Meta, TextStore
from utils.errors import InputError

Part = Literal["qa", "qar"]  # question and answer; question, answer and rationale
Choices = Literal["qa", "qar", "true", "all"]
RegionSource = Literal["both", "gt", "detected"]
REGIONS_HELP = 'which folders of "GT_DIR;DET_DIR" are read; none: those given, where `gt` in a folder\'s name tells'

CHOICES = 4
UNLABELLED = -1
TYPES = (0, 2, 3)  # token types of question, answer, rationale; regions have 1
MARKS = {"qa": 3, "qar": 4}  # [CLS], and [SEP] after every part
LENGTHS = {"qa": "id2len_qa.json", "qar": "id2len_qar.json"}


def region_folders(img_db: str | None, regions: RegionSource | None) -> tuple[str | None, str | None]:
    """The image stores of ground-truth and of detected boxes that the entry `img_db` means; None: not read.

    `regions` decides. Without it both folders of "GT_DIR;DET_DIR" are read, and, as in old commands, `gt` in a folder's
    name tells which is which, or what one folder alone holds.
    """
    folders = (img_db or "").split(";")
    if len(folders) > 2 or not all(folders) or (regions == "both" and len(folders) < 2):
        raise InputError(
            "not the image stores of VCR",
            key="img_db, regions",
            found=f"{img_db}, {regions}",
            expected='"GT_DIR;DET_DIR", or one folder of them where regions is not "both"',
            remedy="name the folder of ground-truth boxes, a semicolon, and that of detected boxes",
        )
    named_gt = ["gt" in Path(folder).name for folder in folders]
    if len(folders) == 1:
        holds_gt = regions == "gt" if regions else named_gt[0]
        return (folders[0], None) if holds_gt else (None, folders[0])
    gt, detected = folders if regions or named_gt != [False, True] else folders[::-1]
    return (None if regions == "detected" else gt), (None if regions == "gt" else detected)


def open_vcr(
    stores: Stores, txt_db: str, img_db: str | None, part: Part, regions: RegionSource | None, train: bool
) -> tuple[TextStore, ImageStore | None, ImageStore | None]:
    """Texts with the lengths of `part`, ground-truth boxes, detected boxes: what `VcrData` starts with."""
    gt, detected = region_folders(img_db, regions)
    texts = stores.texts(txt_db, train, lengths=LENGTHS[part], marks=MARKS[part])
    return texts, stores.images(gt, **GT_VARIANT), stores.images(detected)


class VcrData:
    """Question `i` and its two pictures, of ground-truth and of detected boxes; the start of VCR's datasets."""

    task = "vcr"
    batch_unit: BatchUnit = "units"  # what a batch size counts

    def __init__(
        self,
        texts: TextStore,
        gt: ImageStore | None,
        detected: ImageStore | None,
        part: Part,
        sequences: int = 1,
        wrong_picture: bool = False,
    ):
        """`sequences` of every example; `wrong_picture`: a question meets another's pictures (a control)."""
        check_pictures(texts, "vcr", ("ground-truth", "detected"))
        self.texts, self.sources, self.part = texts, (gt, detected), part
        self.sequences, self.wrong_picture = sequences, wrong_picture
        self.pictures = np.full((len(texts), 2), -1, np.int32)  # rows of both image stores, -1: not read
        for column, images in enumerate(self.sources):
            if images is not None:
                self.pictures[:, column] = join(texts, images, column)

    def __len__(self) -> int:
        return len(self.texts)

    def id(self, i: int) -> str:
        """The id of example `i`."""
        return self.texts.id(i)

    def pairs(self, uniform: np.ndarray) -> np.ndarray:
        """(n, 3) uniform numbers → (n, 3) int32: the text and both pictures of every example."""
        pictures = self._other_pictures(uniform[:, 2]) if self.wrong_picture else self.pictures
        return np.column_stack([np.arange(len(self), dtype=np.int32), pictures])

    def _other_pictures(self, uniform: np.ndarray) -> np.ndarray:
        """(n,) uniform numbers → (n, 2) the pictures of a question about others."""
        distinct, own = np.unique(self.pictures, axis=0, return_inverse=True)
        if len(distinct) < 2:
            raise InputError(
                "no other picture to pair a text with", file=self.texts.path, found="1 picture", expected="2 or more"
            )
        drawn = (uniform * (len(distinct) - 1)).astype(np.int64)
        return distinct[drawn + (drawn >= own.reshape(-1))]

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) units of one sequence of every example, without [CLS] and [SEP]: all that the release counts."""
        return self._length(pairs, "nbb")

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) units of every example, all of its sequences counted; at least what is there."""
        return self.sequences * (self._length(pairs, "held") + MARKS[self.part])

    def _length(self, pairs: np.ndarray, counts: str) -> np.ndarray:
        """(n,) word pieces and regions of one sequence of every example, by the stores' `counts`."""
        lens = self.texts.lens[pairs[:, 0]].astype(np.int64)
        for images, rows in zip(self.sources, pairs[:, 1:].T):
            if images is not None:
                lens += getattr(images, counts)[rows]
        return lens

    @property
    def img_dim(self) -> int:
        """Feature width."""
        return next(images.img_dim for images in self.sources if images is not None)

    def images(self, rows: Sequence[int], soft_labels: bool = False) -> list[Image]:
        """The regions of both pictures, ground truth first."""
        pairs = zip(self.sources, rows)
        return [read_image(images, row, soft_labels) for images, row in pairs if images is not None]

    @property
    def has_labels(self) -> bool:
        """Whether there are labels to score by."""
        found = self.record(0, labelled=False)["qa_target"] != UNLABELLED
        self.texts.close()  # not open when workers fork
        return found

    def record(self, text: int, labelled: bool) -> dict[str, Any]:
        """The record of a text: four answers, four rationales, and, where `labelled`, the right ones."""
        record = self.texts.read(text)
        lists = [record.get(name) for name in ("input_ids_as", "input_ids_rs")]
        if not all(isinstance(choices, list) and len(choices) == CHOICES for choices in lists):
            raise self._bad(text, "not a record of VCR", record, "input_ids_as and input_ids_rs of four lists each")
        targets = [record.setdefault(name, UNLABELLED) for name in ("qa_target", "qar_target")]
        if not all(target in range(0 if labelled else UNLABELLED, CHOICES) for target in targets):
            expected = "qa_target and qar_target in 0..3" + ("" if labelled else ", or -1 for both in a test split")
            raise self._bad(text, "no right answer and rationale among the four", targets, expected)
        return record

    def _bad(self, text: int, what: str, found: Any, expected: str) -> InputError:
        return InputError(
            what,
            file=self.texts.path / "data.mdb",
            key=self.id(text),
            found=str(found)[:200],
            expected=expected,
            remedy="use a labelled split, prepared with prepro.py vcr",
        )


class Vcr(VcrData):
    """Every choice of a question is a sequence of its own; `choices` says which.

    `qa`: 4 answers; `qar`: the right answer with 4 rationales; both for training, `labels` 1 = right, in each sequence.
    For evaluation, by example, with `qa_target` and `qar_target` (-1 where there are no labels): `true`: 8, the two
    above; `all`: 20, 4 answers, then each answer with 4 rationales.
    """

    def __init__(self, texts: TextStore, gt: ImageStore | None, detected: ImageStore | None, choices: Choices):
        sequences = {"qa": 4, "qar": 4, "true": 8, "all": 20}[choices]
        super().__init__(texts, gt, detected, "qa" if choices == "qa" else "qar", sequences)
        self.choices = choices
        self.batch_unit = "units" if choices in ("qa", "qar") else "examples"

    def example(self, text: int, gt: int, detected: int, rng: np.random.Generator) -> Example:
        record = self.record(text, labelled=self.choices != "all")
        images, true = self.images((gt, detected)), (record["qa_target"], record["qar_target"])
        seqs = []
        for answer, rationale in self._chosen(true[0]):
            parts = [record["input_ids"], record["input_ids_as"][answer]]
            if rationale is not None:
                parts.append(record["input_ids_rs"][rationale])
            input_ids, types = vcr_text(self.texts.meta, parts, "next")
            right = answer == true[0] if rationale is None else (answer, rationale) == true
            labels = {"labels": np.array([right], np.int64)} if self.batch_unit == "units" else {}
            seqs.append(Seq(input_ids, images, types, targets=labels))
        names = () if self.batch_unit == "units" else ("qa_target", "qar_target")
        return Example(self.id(text), seqs, {name: np.array([record[name]], np.int64) for name in names})

    def _chosen(self, true: int) -> list[tuple[int, int | None]]:
        """(answer, rationale or None) of each sequence."""
        four = range(CHOICES)
        answers: list[tuple[int, int | None]] = [] if self.choices == "qar" else [(a, None) for a in four]
        given = {"qa": [], "qar": [true], "true": [true], "all": four}[self.choices]
        return answers + [(a, r) for a in given for r in four]


def vcr_text(
    meta: Meta, parts: Sequence[Sequence[int] | np.ndarray], sep_type: Literal["next", "own"]
) -> tuple[np.ndarray, np.ndarray]:
    """[CLS] question [SEP] answer [SEP] (rationale [SEP]) and the token types, both (t,) int64.

    A [SEP] has the type of the part that follows (`next`: finetuning), or of its own (second-stage pre-training).
    """
    own = TYPES[: len(parts)]
    ends = own if sep_type == "own" else (*own[1:], own[-1])
    ids, types = [meta.cls], [TYPES[0]]
    for tokens, kind, end in zip(parts, own, ends):
        ids += [*tokens, meta.sep]
        types += [kind] * len(tokens) + [end]
    return np.array(ids, np.int64), np.array(types, np.int64)
