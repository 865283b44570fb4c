"""Visual question answering: a question, a picture, soft scores over the answers."""

import numpy as np

from data.batch import Example, Seq
from data.img_store import ImageStore
from data.text_image import TextImage
from data.txt_store import TextStore
from utils.errors import InputError


class Vqa(TextImage):
    """Questions with `answer_scores` (num_answers,) as target; zeros where the store has no answers (a test split)."""

    task = "vqa"

    def __init__(self, texts: TextStore, images: ImageStore | None, num_answers: int, labelled: bool = False):
        super().__init__(texts, images, labelled=labelled)
        self.num_answers = num_answers

    def example(self, text: int, picture: int, rng: np.random.Generator) -> Example:
        record = self.texts.read(text)
        seq = Seq(self.framed(self.tokens(record)), self.image(picture))
        return Example(self.id(text), [seq], {"answer_scores": self._target(record, text)[None]})

    def _target(self, record: dict, text: int) -> np.ndarray:
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
