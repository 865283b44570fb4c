"""Data of visual question answering (VQA) and visual entailment (paper sections 4.1 and A.2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.batch import Example, Seq
from data.img_store import ImageStore
from data.record_checks import Field, Kind, answers_field, looks_like_entailment
from data.text_image import TextImage
from data.txt_store import TextStore
from utils.errors import InputError
from utils.formats import VE_LABELS


class Vqa(TextImage):
    """Questions about images, with soft scores of the answers. Visual entailment is the same, with three answers.

    Targets, by example: `answer_scores` (1, num_answers) float32, zeros where the record has no answers (a test split).
    """

    task = "vqa"
    kinds: tuple[Kind, ...] = ("answers", "text")
    labels_in_records = True

    def __init__(
        self,
        texts: TextStore,
        images: ImageStore | None,
        num_answers: int,
        *,
        require_labels: bool = False,
        one_label: bool = False,
    ):
        """`num_answers`: the size of the answer vocabulary. `one_label`: every text has exactly one label, as in visual
        entailment; else one may have none, when its answers are not in the vocabulary. See `TextImage` for the others.

        `InputError` also when the labels are those of the other of both tasks.
        """
        self.num_answers, self.one_label = num_answers, one_label
        self.title = "visual entailment" if one_label else "VQA"
        super().__init__(texts, images, require_labels=require_labels)
        self._check_other_task()

    def _check_other_task(self) -> None:
        """`InputError` for a store of visual entailment in VQA, and the reverse, whose records have the same format."""
        if self.one_label and (self.texts.path / "ans2label.json").exists():
            sign, expected = "ans2label.json: a store of VQA", "a store of visual entailment, which has no such file"
        elif not self.one_label and self.num_answers > len(VE_LABELS) and looks_like_entailment(self.texts):
            sign, expected = "one sure label of 0, 1, 2 for each text: visual entailment", "answers to questions"
        else:
            return
        raise InputError(
            f"the store is not a text store of {self.title}",
            file=self.texts.path,
            key="target",
            found=sign,
            expected=expected,
            remedy="give the text store of this task; a VQA store of your own says so by its ans2label.json",
        )

    def wrong_field(self, record: dict[str, Any]) -> Field | None:
        """The wrong part of a record's `target`; labels lie in the answer vocabulary, scores in 0..1."""
        return answers_field(record, self.num_answers, self.one_label)

    def has_label(self, record: dict[str, Any]) -> bool:
        """Whether a record has scores of answers. In VQA they may be empty, in visual entailment not."""
        target = record.get("target")
        return bool(target and target["labels"]) if self.one_label else target is not None

    def has_empty_label(self, record: dict[str, Any]) -> bool:
        """Whether a record's target is empty, as all are in a test split, and some in training."""
        return not (record["target"] and record["target"]["labels"])

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build one sequence of the question and its image, with the scores of the answers."""
        text, picture = row
        record = self.record(text)
        seq = Seq(input_ids=self.add_special_tokens(self.tokens(record)), images=self.images_of(picture))
        return Example(self.id(text), [seq], {"answer_scores": self._answer_scores(record)[None]})

    def _answer_scores(self, record: dict[str, Any]) -> np.ndarray:
        """(num_answers,) float32 soft scores of a record."""
        scores = np.zeros(self.num_answers, np.float32)
        target = record.get("target") or {"labels": [], "scores": []}
        scores[target["labels"]] = target["scores"]
        return scores
