"""Data of image-text retrieval: captions with their own and with other images (paper sections 4.1 and A.2).

Legend: T texts, P distinct images of these texts, in the order in which the texts name them. An image's position in
that order is its *column* in every matrix of scores.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from data.batch import Example, Image, Seq
from data.dataset import Column
from data.img_store import ImageStore
from data.text_image import TextImage
from data.txt_store import TextStore
from utils.errors import InputError

HardNegatives = Literal["none", "online", "mined"]


class Retrieval(TextImage):
    """Groups of pairs: a text with its own image, then negatives, in which the image or the text is replaced.

    `hard_negatives` "none": `negative_size` other images for the text, then as many other texts for the image (paper
    section 4.1). "mined": the same, and `mined_negatives` hard ones, half of them images, once `mined` is set (A.2).
    "online": candidates from which the task selects: `negative_size` other images for the text, and as many other texts
    for the image of a second, random text. Negatives are distinct, from the whole store; a small store may have fewer.

    Targets: none are needed, because the first sequence of a group is the positive pair. "online", by sequence:
    `anchor` (1,) int64, 0 for the pairs of the text, 1 for those of the second text's image.
    """

    task = "retrieval"
    batch_unit = "examples"

    def __init__(
        self,
        texts: TextStore,
        images: ImageStore | None,
        *,
        hard_negatives: HardNegatives = "none",
        negative_size: int = 1,
        mined_negatives: int = 2,
    ):
        """The arguments are explained above. `InputError` when all texts are about one image."""
        super().__init__(texts, images)
        self.hard_negatives, self.negative_size, self.mined_negatives = hard_negatives, negative_size, mined_negatives
        pictures, first, place = np.unique(self.pictures, return_index=True, return_inverse=True)
        order = np.argsort(first)
        self.columns = pictures[order]  # (P,) the row in the image store of each column
        self.own_columns = np.argsort(order)[place].astype(np.int32)  # (T,) the column of each text's own image
        self._texts_by_column = np.argsort(self.own_columns, kind="stable").astype(np.int32)
        # (P + 1,) where the texts of each column start in `_texts_by_column`
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(self.own_columns))])
        self.mined: tuple[np.ndarray, np.ndarray] | None = None  # the result of `data.retrieval_mining.mine_hardest`
        if len(self.columns) < 2:
            raise InputError(
                "all texts are about one image, so there is no other image to rank against",
                file=texts.path,
                found="1 image",
                expected="2 or more",
                remedy="use a store with more images",
            )

    def column_names(self) -> list[str]:
        """(P,) the keys of the images, by column."""
        assert self.images is not None
        return [self.images.name(row) for row in self.columns.tolist()]

    def other_columns(self, text: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """`size` distinct random columns of images that are not the text's own; all others where there are fewer."""
        columns = _distinct_numbers(len(self.columns) - 1, size, rng)
        return columns + (columns >= self.own_columns[text])

    def other_texts(self, text: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """`size` distinct random texts about other images than this text's; all such texts where there are fewer."""
        start, stop = self._starts[self.own_columns[text] : self.own_columns[text] + 2]
        places = _distinct_numbers(len(self) - (stop - start), size, rng)
        return self._texts_by_column[places + np.where(places >= start, stop - start, 0)]

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build a sequence of the text with its image, then one for each negative."""
        text = row[Column.TEXT]
        if self.hard_negatives == "online":
            return Example(self.id(text), self._online_candidates(text, rng))
        column, size, half = self.own_columns[text], self.negative_size, self.mined_negatives // 2
        hard_columns = hard_texts = np.empty(0, np.int32)
        if self.mined is not None:
            hard_columns = _draw_mined(self.mined[0][text], self.mined_negatives - half, rng)
            hard_texts = _draw_mined(self.mined[1][column], half, rng)
        random_columns = self.other_columns(text, size + len(hard_columns), rng)
        random_texts = self.other_texts(text, size + len(hard_texts), rng)
        matches = [(text, column)]
        matches += [(text, other) for other in _random_then_hard(random_columns, hard_columns, size)]
        matches += [(other, column) for other in _random_then_hard(random_texts, hard_texts, size)]
        return Example(self.id(text), self._sequences(matches))

    def _online_candidates(self, text: int, rng: np.random.Generator) -> list[Seq]:
        """The pairs of the text, then the pairs of the image of a random text; each begins with the positive pair."""
        anchor = int(rng.integers(len(self)))  # the image of this text is the second anchor
        columns = self.other_columns(text, self.negative_size, rng)
        texts = self.other_texts(anchor, self.negative_size, rng)
        matches = [(text, self.own_columns[text]), *((text, column) for column in columns)]
        matches += [(anchor, self.own_columns[anchor]), *((other, self.own_columns[anchor]) for other in texts)]
        seqs = self._sequences(matches)
        for number, seq in enumerate(seqs):
            seq.targets["anchor"] = np.array([int(number > len(columns))], np.int64)
        return seqs

    def _sequences(self, matches: list[tuple[int, int]]) -> list[Seq]:
        """The sequences of (text, column) pairs; each text and image is read once."""
        texts, columns = np.array(matches, np.int64).T
        images = {p: self.images_of(p)[0] for p in np.unique(self.columns[columns]).tolist()}
        return self.sequences(texts, self.columns[columns], images)

    def sequences(self, texts: np.ndarray, pictures: np.ndarray, images: Mapping[int, Image]) -> list[Seq]:
        """Build n sequences from (n,) texts and (n,) rows of the image store; `images` has the regions by row."""
        input_ids = {t: self.add_special_tokens(self.tokens(self.texts.read(t))) for t in np.unique(texts).tolist()}
        pairs = zip(texts.tolist(), pictures.tolist())
        return [Seq(input_ids=input_ids[text], images=[images[picture]]) for text, picture in pairs]


def _distinct_numbers(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """`size` distinct random numbers below `n`, or all of them where there are fewer."""
    return rng.choice(n, min(size, n), replace=False)


def _draw_mined(row: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """`size` distinct random entries of a row of `mine_hardest`, or all where there are fewer; -1 is not an entry."""
    entries = row[row >= 0]
    return entries[_distinct_numbers(len(entries), size, rng)]


def _random_then_hard(random: np.ndarray, hard: np.ndarray, size: int) -> np.ndarray:
    """The first `size` of `random` that are not among `hard`, then `hard`."""
    return np.concatenate([random[~np.isin(random, hard)][:size], hard])
