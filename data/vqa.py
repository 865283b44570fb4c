"""Data of visual question answering (VQA) and visual entailment (paper sections 4.1 and A.2)."""

from collections.abc import Sequence

import numpy as np

from data.batch import Example, Seq
from data.img_store import ImageStore
from data.text_image import TextImage
from data.txt_store import TextStore
from utils.errors import InputError


class Vqa(TextImage):
    """Questions about images, with soft scores of the answers. Visual entailment is the same, with three answers.

    Targets, by example: `answer_scores` (1, num_answers) float32, zeros where the record has no answers (a test split).
    """

    task = "vqa"
    labels_in_records = True

    def __init__(self, texts: TextStore, images: ImageStore | None, num_answers: int, *, require_labels: bool = False):
        """`num_answers`: the size of the answer vocabulary. See `TextImage` for the others."""
        super().__init__(texts, images, require_labels=require_labels)
        self.num_answers = num_answers

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build one sequence of the question and its image, with the scores of the answers."""
        text, picture = row
        record = self.texts.read(text)
        seq = Seq(input_ids=self.add_special_tokens(self.tokens(record)), images=self.images_of(picture))
        return Example(self.id(text), [seq], {"answer_scores": self._answer_scores(record, text)[None]})

    def _answer_scores(self, record: dict, text: int) -> np.ndarray:
        """(num_answers,) float32 soft scores of a record; `InputError` for a label outside the answer vocabulary."""
        scores = np.zeros(self.num_answers, np.float32)
        target = self.target(text, record) or {"labels": [], "scores": []}
        labels = np.asarray(target["labels"], np.int64)
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.num_answers):
            raise InputError(
                "an answer label lies outside the answer vocabulary",
                file=self.texts.path,
                key=self.id(text),
                found=labels.tolist(),
                expected=f"0..{self.num_answers - 1}",
                remedy="use the ans2label.json that the text store was made with",
            )
        scores[labels] = target["scores"]
        return scores
