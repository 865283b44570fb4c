"""Data of NLVR2: is a sentence true of two images? (Paper sections 4.1, 4.3 and A.2.)"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from data.batch import IMG_TYPE, Example, Image, Seq
from data.dataset import Column
from data.img_store import ImageStore
from data.record_checks import Field, Kind, statement_field
from data.text_image import TextImage, rows_of_pictures
from data.txt_store import TextStore
from utils.formats import UNLABELLED

Layout = Literal["triplet", "paired", "paired-attn"]


class Nlvr2(TextImage):
    """Sentences about two images (paper A.2). The layout `triplet` makes one sequence of the sentence and both images;
    the others make two sequences, the sentence with the left image and the sentence with the right one.

    Targets, by example: `labels` (1,) int64, 1 true, 0 false, `UNLABELLED` (-1) where the store has no label.
    """

    task = "nlvr2"
    picture_kinds = ("left", "right")
    title = "NLVR2"
    kinds: tuple[Kind, ...] = ("statement", "text")
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
        """`use_img_type`: give the second image a token type of its own, 2. See `TextImage` for `require_labels`."""
        super().__init__(texts, images, require_labels=require_labels)
        self._store = images
        self.right_pictures = rows_of_pictures(texts, images, nth=1)
        self.paired = layout != "triplet"
        self.img_types = [IMG_TYPE, IMG_TYPE + 1] if use_img_type else [IMG_TYPE, IMG_TYPE]

    def wrong_field(self, record: dict[str, Any]) -> Field | None:
        """The field `target` when it is neither 1 (true) nor 0."""
        return statement_field(record)

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """(n, 3) int32: the text, left image and right image of every example; nothing is drawn."""
        return np.stack([np.arange(len(self), dtype=np.int32), self.pictures, self.right_pictures], axis=1)

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units without [CLS] and [SEP], as the release counts; the sentence counts in each sequence."""
        return self.n_words(pairs) * (1 + self.paired) + self._store.n_announced[pairs[:, Column.PICTURE :]].sum(1)

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units of all sequences of every example, [CLS] and [SEP] included: an upper bound."""
        return (self.n_words(pairs) + 2) * (1 + self.paired) + self._store.n_stored[pairs[:, Column.PICTURE :]].sum(1)

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build one sequence or two of the sentence and its images, and the label."""
        text, left, right = row
        record = self.record(text)
        words, both = self.add_special_tokens(self.tokens(record)), [*self.images_of(left), *self.images_of(right)]
        label = record.get("target")
        labels = np.array([UNLABELLED if label is None else label], np.int64)
        return Example(self.id(text), self._sequences(words, both), {"labels": labels})

    def _sequences(self, words: np.ndarray, both: list[Image]) -> list[Seq]:
        if not self.paired:
            return [Seq(input_ids=words, images=both, img_types=self.img_types)]
        return [
            Seq(input_ids=words, images=[image], img_types=[img_type]) for image, img_type in zip(both, self.img_types)
        ]
