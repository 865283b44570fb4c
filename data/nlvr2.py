"""NLVR2: a sentence about two pictures, true of them or not (paper section 4.2)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from data.batch import IMG_TYPE, Example, Image, Seq
from data.dataset import Column
from data.img_store import ImageStore
from data.text_image import TextImage, rows_of_pictures
from data.txt_store import TextStore
from utils.formats import UNLABELLED

Layout = Literal["triplet", "paired", "paired-attn"]


class Nlvr2(TextImage):
    """Sentences about two pictures. `triplet`: one sequence, the sentence and both pictures; else two, the sentence
    with either picture.

    Targets, by example: `labels` (1,) int64, 1 true, 0 false, `UNLABELLED` where the store has none.
    """

    task = "nlvr2"
    picture_kinds = ("left", "right")
    labels_in_records = True

    def __init__(
        self,
        texts: TextStore,
        images: ImageStore,
        *,
        layout: Layout,
        use_img_type: bool,
        require_labels: bool = False,
    ):
        super().__init__(texts, images, require_labels=require_labels)
        self._store = images
        self.right_pictures = rows_of_pictures(texts, images, nth=1)
        self.paired = layout != "triplet"
        self.img_types = [IMG_TYPE, IMG_TYPE + 1] if use_img_type else [IMG_TYPE, IMG_TYPE]

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """(n, 3) int32: text, left picture, right picture."""
        return np.stack([np.arange(len(self), dtype=np.int32), self.pictures, self.right_pictures], axis=1)

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) units without [CLS] and [SEP]; the sentence counts once a sequence."""
        return self.n_words(pairs) * (1 + self.paired) + self._store.n_announced[pairs[:, Column.PICTURE :]].sum(1)

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) units of every example, both of its sequences where there are two."""
        return (self.n_words(pairs) + 2) * (1 + self.paired) + self._store.n_stored[pairs[:, Column.PICTURE :]].sum(1)

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """One sequence or two: the sentence with its pictures."""
        text, left, right = row
        record = self.texts.read(text)
        words, both = self.add_special_tokens(self.tokens(record)), [*self.images_of(left), *self.images_of(right)]
        label = self.target(text, record)
        labels = np.array([UNLABELLED if label is None else label], np.int64)
        return Example(self.id(text), self._sequences(words, both), {"labels": labels})

    def _sequences(self, words: np.ndarray, both: list[Image]) -> list[Seq]:
        if not self.paired:
            return [Seq(input_ids=words, images=both, img_types=self.img_types)]
        return [
            Seq(input_ids=words, images=[image], img_types=[img_type]) for image, img_type in zip(both, self.img_types)
        ]
