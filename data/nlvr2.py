"""NLVR2: a sentence about two pictures, true of them or not (paper section 4.2)."""

from typing import Literal

import numpy as np

from data.batch import IMG_TYPE, Example, Image, Seq
from data.img_store import ImageStore
from data.text_image import TextImage, join
from data.txt_store import TextStore

UNLABELLED = -1
Layout = Literal["triplet", "paired", "paired-attn"]


class Nlvr2(TextImage):
    """Sentences with `labels` (1,) as target: 1 true, 0 false, `UNLABELLED` where the store has none.

    `triplet`: one sequence, the sentence and both pictures. Else two, the sentence with either picture.
    """

    task = "nlvr2"
    shown = ("left", "right")

    def __init__(
        self, texts: TextStore, images: ImageStore, layout: Layout, use_img_type: bool, labelled: bool = False
    ):
        super().__init__(texts, images, labelled=labelled)
        self._images = images
        self.right = join(texts, images, column=1)
        self.paired = layout != "triplet"
        self.img_types = [IMG_TYPE, IMG_TYPE + 1] if use_img_type else [IMG_TYPE, IMG_TYPE]

    def pairs(self, uniform: np.ndarray) -> np.ndarray:
        """(n, 3) int32: text, left picture, right picture."""
        return np.stack([np.arange(len(self), dtype=np.int32), self.pictures, self.right], axis=1)

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """Units without [CLS] and [SEP]; the sentence counts once a sequence."""
        return self.words(pairs) * (1 + self.paired) + self._images.n_announced[pairs[:, 1:]].sum(1)

    def units(self, pairs: np.ndarray) -> np.ndarray:
        return (self.words(pairs) + 2) * (1 + self.paired) + self._images.n_stored[pairs[:, 1:]].sum(1)

    def example(self, text: int, left: int, right: int, rng: np.random.Generator) -> Example:  # type: ignore[override]
        record = self.texts.read(text)
        words, both = self.framed(self.tokens(record)), [*self.image(left), *self.image(right)]
        label = self.target(text, record)
        labels = np.array([UNLABELLED if label is None else label], np.int64)
        return Example(self.id(text), self._sequences(words, both), {"labels": labels})

    def _sequences(self, words: np.ndarray, both: list[Image]) -> list[Seq]:
        if not self.paired:
            return [Seq(words, both, img_types=self.img_types)]
        return [Seq(words, [image], img_types=[kind]) for image, kind in zip(both, self.img_types)]
