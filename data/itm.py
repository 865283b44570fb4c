"""Data of image-text matching (ITM; paper section 3.2, equation 2) and word-region alignment (WRA; equation 3)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from data.batch import Example, Seq
from data.dataset import Draw
from data.img_store import ImageStore
from data.text_image import TextImage
from data.txt_store import TextStore

Negative = Literal["image", "text", "both"]
TEXT_SHARE = {"image": 0.0, "text": 1.0, "both": 0.5}  # the share of negatives in which the text is replaced


class Itm(TextImage):
    """Matching pairs of a text and its image, and, with probability `neg_prob`, pairs with one side replaced.

    Pairs are drawn before batches are planned, so batch sizes count the units of the drawn pairs.
    Targets, by sequence: `itm_labels` (1,) int64, 1 for a text with its own image, 0 for a negative.
    """

    task = "itm"

    def __init__(
        self,
        texts: TextStore,
        images: ImageStore | None,
        *,
        wrong_picture: bool = False,
        negative: Negative = "image",
        neg_prob: float = 0.5,
    ):
        """`negative`: which side of a negative is replaced. `neg_prob`: the share of negatives. See `TextImage`.

        `InputError` when there are negatives, and all texts are about one image."""
        super().__init__(texts, images, wrong_picture=wrong_picture)
        if neg_prob > 0:
            self.check_other_pictures()
        self.negative, self.neg_prob = negative, neg_prob
        self._texts_by_picture = np.argsort(self.pictures, kind="stable").astype(np.int32)
        self._sorted_pictures = self.pictures[self._texts_by_picture]

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """(n, 2) int32 texts and images, negatives included, from uniform `draws` (n, 3).

        With `wrong_picture` the image of every pair is replaced: the share predicted as a match is the false-positive
        rate.
        """
        negative = (draws[:, Draw.NEGATIVE] < self.neg_prob) | self.wrong_picture
        by_text = negative & (draws[:, Draw.SIDE] < TEXT_SHARE[self.negative]) & (not self.wrong_picture)
        texts, pictures = np.arange(len(self), dtype=np.int32), self.pictures
        if (negative & ~by_text).any():
            pictures = np.where(negative & ~by_text, self.other_pictures(draws[:, Draw.OTHER]), pictures)
        if by_text.any():
            texts = np.where(by_text, self._other_texts(draws[:, Draw.OTHER]), texts)
        return np.stack([texts, pictures], axis=1).astype(np.int32)

    def _other_texts(self, uniform: np.ndarray) -> np.ndarray:
        """(n,) for every text a text about another image, drawn from all texts but those about the same image."""
        start = np.searchsorted(self._sorted_pictures, self.pictures, "left")
        size = np.searchsorted(self._sorted_pictures, self.pictures, "right") - start
        place = (uniform * (len(self) - size)).astype(np.int64)
        return self._texts_by_picture[place + np.where(place >= start, size, 0)]

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build one sequence of the row's text and image, with its label."""
        text, picture = row
        tokens = self.tokens(self.texts.read(text))
        label = np.array([int(self.pictures[text] == picture)], np.int64)
        seq = Seq(
            input_ids=self.add_special_tokens(tokens), images=self.images_of(picture), targets={"itm_labels": label}
        )
        return Example(self.id(text), [seq])
