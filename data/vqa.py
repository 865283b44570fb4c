"""Visual question answering: a question, a picture, soft scores over the answers."""

from collections.abc import Sequence

import numpy as np

from data.batch import Example, Seq
from data.img_store import ImageStore
from data.text_image import TextImage
from data.txt_store import TextStore
from utils.errors import InputError


class Vqa(TextImage):
    """Questions about pictures; visual entailment too, with three answers.

    Targets, by example: `answer_scores` (1, num_answers) float32; zeros where the store has no answers (a test split).
    """

    task = "vqa"
    labels_in_records = True

    def __init__(self, texts: TextStore, images: ImageStore | None, num_answers: int, *, require_labels: bool = False):
        super().__init__(texts, images, require_labels=require_labels)
        self.num_answers = num_answers

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """One sequence: the question and its picture."""
        text, picture = row
        record = self.texts.read(text)
        seq = Seq(input_ids=self.add_special_tokens(self.tokens(record)), images=self.images_of(picture))
        return Example(self.id(text), [seq], {"answer_scores": self._answer_scores(record, text)[None]})

    def _answer_scores(self, record: dict, text: int) -> np.ndarray:
        """(num_answers,) float32 soft scores of a record."""
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
