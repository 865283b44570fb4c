"""Data of visual commonsense reasoning (VCR): four answers and four rationales to a question (paper 4.1, A.2)."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.batch import Example, Image, Seq
from data.dataset import BatchUnit, Column, Draw
from data.img_store import ImageStore
from data.record_checks import all_labelled, bad_field, check_kind, choices_field, sample_records
from data.stores import GT_VARIANT, Stores
from data.text_image import check_pictures, read_image, rows_of_pictures
from data.txt_store import Meta, TextStore
from utils.errors import InputError
from utils.formats import CHOICES, UNLABELLED

Part = Literal["qa", "qar"]  # question and answer; question, answer and rationale
Choices = Literal["answers", "rationales", "both", "all"]  # which sequences a question has, see `Vcr`
RegionSource = Literal["both", "gt", "detected"]  # ground-truth boxes, detected boxes
REGIONS_HELP = 'regions to read from "GT_DIR;DET_DIR"; if not set, gt in a folder\'s name means ground truth'

SEQUENCES: dict[Choices, int] = {"answers": 4, "rationales": 4, "both": 8, "all": 20}  # sequences of an example
TYPES = (0, 2, 3)  # token types of question, answer, rationale; regions have 1
N_SPECIAL = {"qa": 3, "qar": 4}  # special tokens in a sequence: [CLS], and [SEP] after every part
PART_LENGTH_FILE = {"qa": "id2len_qa.json", "qar": "id2len_qar.json"}  # files of text lengths


def region_folders(img_db: str | None, regions: RegionSource | None) -> tuple[str | None, str | None]:
    """Split `img_db` into the image store of ground-truth boxes and that of detected boxes; None: not read.

    `img_db` is "GT_DIR;DET_DIR", of which `regions` says what to read, or one folder, of which it says what that holds.
    When `regions` is None, all folders are read, and one with `gt` in its name has the ground-truth boxes, as in
    commands of the release. `InputError` when the number of folders does not fit.
    """
    folders = (img_db or "").split(";")
    if len(folders) > 2 or not all(folders) or (regions == "both" and len(folders) < 2):
        raise InputError(
            "the image stores of VCR are not named as they must be",
            key="img_db, regions",
            found=f"{img_db}, {regions}",
            expected='"GT_DIR;DET_DIR", or one of the two folders when regions is not "both"',
            remedy="name the folder of ground-truth boxes, a semicolon, and the folder of detected boxes",
        )
    named_gt = ["gt" in Path(folder).name for folder in folders]
    if len(folders) == 1:
        holds_gt = regions == "gt" if regions else named_gt[0]
        return (folders[0], None) if holds_gt else (None, folders[0])
    gt, detected = folders if regions or named_gt != [False, True] else folders[::-1]
    return (None if regions == "detected" else gt), (None if regions == "gt" else detected)


def open_vcr(
    stores: Stores, txt_db: str, img_db: str | None, *, part: Part, regions: RegionSource | None, train: bool
) -> tuple[TextStore, ImageStore | None, ImageStore | None]:
    """Open the stores that `VcrData` reads: texts with the lengths of `part`, ground-truth boxes, detected boxes.

    `img_db` and `regions`: see `region_folders`. `train`: leave out texts that are too long. Raises `InputError`.
    """
    gt, detected = region_folders(img_db, regions)
    texts = stores.texts(txt_db, train, lengths=PART_LENGTH_FILE[part], n_special=N_SPECIAL[part])
    return texts, stores.images(gt, **GT_VARIANT), stores.images(detected)


class VcrData:
    """Base class of both VCR datasets: questions with two sets of regions of their image.

    The ground-truth boxes and the detected boxes are in two image stores, and count as two images here. It implements
    `data.dataset.Dataset`; subclasses add `example`, and their targets.
    """

    task = "vcr"
    batch_unit: BatchUnit = "units"

    def __init__(
        self,
        texts: TextStore,
        gt: ImageStore | None,
        detected: ImageStore | None,
        *,
        part: Part,
        sequences: int = 1,
        wrong_picture: bool = False,
        require_labels: bool = False,
    ):
        """`gt`, `detected`: None where these boxes are not read. `part`: the text of a sequence. `sequences`: how many
        an example has. `wrong_picture`: pair a question with the images of another (a control). `require_labels`:
        refuse texts without labels, as training does. `InputError` when a record in a sample is not one of VCR."""
        self.texts, self.image_stores, self.part = texts, (gt, detected), part
        self.sequences, self.wrong_picture = sequences, wrong_picture
        for text in sample_records(texts):
            self.record(text, require_labels)
        texts.close()  # must not be open when loader processes fork
        check_pictures(texts, "VCR", ("ground-truth", "detected"))
        self.pictures = np.full((len(texts), 2), -1, np.int32)  # (n, 2) rows of both image stores; -1: not read
        for column, images in enumerate(self.image_stores):
            if images is not None:
                self.pictures[:, column] = rows_of_pictures(texts, images, column)

    def __len__(self) -> int:
        """n, the number of questions."""
        return len(self.texts)

    def id(self, i: int) -> str:
        """The id of example `i`."""
        return self.texts.id(i)

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """(n, 3) int32: the text and both images of every example. `draws` (n, 3) are for `wrong_picture` only."""
        pictures = self._other_pictures(draws[:, Draw.OTHER]) if self.wrong_picture else self.pictures
        return np.column_stack([np.arange(len(self), dtype=np.int32), pictures])

    def _other_pictures(self, uniform: np.ndarray) -> np.ndarray:
        """(n, 2) for every question both images of another one, chosen by (n,) uniform numbers, never its own."""
        distinct, own_place = np.unique(self.pictures, axis=0, return_inverse=True)
        if len(distinct) < 2:
            raise InputError(
                "all texts are about one image, so there is no other image to pair them with",
                file=self.texts.path,
                found="1 image",
                expected="2 or more",
                remedy="use a store with more images",
            )
        other_place = (uniform * (len(distinct) - 1)).astype(np.int64)
        return distinct[other_place + (other_place >= own_place.reshape(-1))]

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units of one sequence of every example, without [CLS] and [SEP], as the release counts them."""
        return self._length(pairs, [None if images is None else images.n_announced for images in self.image_stores])

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units of all sequences of every example, [CLS] and [SEP] included: an upper bound."""
        stored = [None if images is None else images.n_stored for images in self.image_stores]
        return self.sequences * (self._length(pairs, stored) + N_SPECIAL[self.part])

    def _length(self, pairs: np.ndarray, counts: Sequence[np.ndarray | None]) -> np.ndarray:
        """(n,) int64 word pieces and regions of one sequence. `counts`: for each store, the regions of each row."""
        lens = self.texts.lens[pairs[:, Column.TEXT]].astype(np.int64)
        for regions, rows in zip(counts, pairs[:, Column.PICTURE :].T):
            if regions is not None:
                lens += regions[rows]
        return lens

    @property
    def img_dim(self) -> int:
        """Width of the region features."""
        return next(images.img_dim for images in self.image_stores if images is not None)

    def images(self, rows: Sequence[int], soft_labels: bool = False) -> list[Image]:
        """Read the regions of both images, ground-truth boxes first, without the store that is not read."""
        pairs = zip(self.image_stores, rows)
        return [read_image(images, row, soft_labels) for images, row in pairs if images is not None]

    @property
    def has_labels(self) -> bool:
        """Whether predictions can be scored, see `TextImage.has_labels`."""
        return self._labelled

    @cached_property
    def _labelled(self) -> bool:
        names = ("qa_target", "qar_target")
        return all_labelled(self.texts, lambda record: all(record.get(name, -1) != UNLABELLED for name in names))

    def record(self, text: int, require_labels: bool) -> dict[str, Any]:
        """Read the record of a text: four answers, four rationales, and the numbers of the right ones.

        `InputError` when these are malformed, or when `require_labels` is set and there are no labels.
        """
        record = self.texts.read(text)
        check_kind(self.texts, text, record, "VCR", ("vcr",))
        for name in ("qa_target", "qar_target"):
            record.setdefault(name, UNLABELLED)
        field = choices_field(record, require_labels)
        if field is not None:
            raise bad_field(self.texts, text, record, field)
        return record


class Vcr(VcrData):
    """Questions with one sequence for each choice of an answer, or of an answer and a rationale (paper A.2).

    Training: `choices` "answers" makes 4 sequences, one for each answer; "rationales" makes 4, the right answer with
    each rationale. Targets, by sequence: `labels` (1,) int64, 1 where the choice is right, else 0. Batch sizes count
    units.

    Evaluation: "both" makes the 8 sequences above; "all" makes 20, the 4 answers, then each answer with each rationale.
    Targets, by example: `qa_target` and `qar_target` (1,) int64, with "all" -1 without labels. Batch sizes count
    examples.
    """

    def __init__(self, texts: TextStore, gt: ImageStore | None, detected: ImageStore | None, choices: Choices):
        """`texts`: opened with the lengths of "qa" for "answers", else of "qar". See `VcrData` for the others."""
        part: Part = "qa" if choices == "answers" else "qar"
        self.choices = choices
        self.training = choices in ("answers", "rationales")
        sequences = SEQUENCES[choices]
        super().__init__(texts, gt, detected, part=part, sequences=sequences, require_labels=self.training)
        self.batch_unit = "units" if self.training else "examples"

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build one sequence for each choice, each with the regions of both images."""
        text, *pictures = row
        record = self.record(text, require_labels=self.choices != "all")
        images, right = self.images(pictures), (record["qa_target"], record["qar_target"])
        seqs = []
        for answer, rationale in self._pairs_of_choices(right[0]):
            parts = [record["input_ids"], record["input_ids_as"][answer]]
            if rationale is not None:
                parts.append(record["input_ids_rs"][rationale])
            input_ids, types = vcr_text(self.texts.meta, parts, "next")
            seq = Seq(input_ids=input_ids, images=images, txt_type_ids=types)
            if self.training:
                is_right = answer == right[0] if rationale is None else (answer, rationale) == right
                seq.targets["labels"] = np.array([is_right], np.int64)
            seqs.append(seq)
        names = () if self.training else ("qa_target", "qar_target")
        return Example(self.id(text), seqs, {name: np.array([record[name]], np.int64) for name in names})

    def _pairs_of_choices(self, right_answer: int) -> list[tuple[int, int | None]]:
        """The numbers of the answer and of the rationale (or None) of each sequence."""
        four = range(CHOICES)
        answers: list[tuple[int, int | None]] = [] if self.choices == "rationales" else [(a, None) for a in four]
        with_rationales = {"answers": [], "all": four}.get(self.choices, [right_answer])
        return answers + [(a, r) for a in with_rationales for r in four]


def vcr_text(
    meta: Meta, parts: Sequence[Sequence[int] | np.ndarray], sep_type: Literal["next", "own"]
) -> tuple[np.ndarray, np.ndarray]:
    """Input ids [CLS] question [SEP] answer [SEP] (rationale [SEP]) and their token types, both (t,) int64.

    `parts`: the word pieces of question, answer and, for "qar", rationale. `sep_type`: whether a [SEP] has the type of
    the next part ("next", in finetuning) or of the part that it ends ("own", in second-stage pre-training).
    """
    part_types = TYPES[: len(parts)]
    sep_types = part_types if sep_type == "own" else (*part_types[1:], part_types[-1])
    ids, types = [meta.cls], [TYPES[0]]
    for tokens, part_type, sep in zip(parts, part_types, sep_types):
        ids += [*tokens, meta.sep]
        types += [part_type] * len(tokens) + [sep]
    return np.array(ids, np.int64), np.array(types, np.int64)
