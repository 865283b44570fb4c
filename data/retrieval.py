"""Image-text retrieval: captions ranked against pictures, their own and others (paper section 4.2 and A.2).

Legend: T texts, P pictures that a text of the store is about, in the order in which the texts name them: a picture's
place there is its column in every matrix of scores.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from data.batch import Example, Image, Seq
from data.img_store import ImageStore
from data.text_image import TextImage
from data.txt_store import TextStore
from utils.errors import InputError

HardNegatives = Literal["none", "online", "mined"]


class Retrieval(TextImage):
    """A text and its picture, then pairs in which one of the two is another's.

    `none`: `negative_size` other pictures for the text, then as many other texts for the picture. `mined`: beside
    these, `mined_negatives` of the hardest, half of them pictures, once `mined` holds some. `online`: candidates for
    the task to choose from, sequence target `anchor`: for the text (0) `negative_size` other pictures; for a picture
    drawn for itself (1) as many other texts. Negatives come from the whole store, never twice; where it has fewer, all.
    """

    task = "itm_rank"
    batch_unit = "examples"

    def __init__(
        self,
        texts: TextStore,
        images: ImageStore | None,
        hard_negatives: HardNegatives = "none",
        negative_size: int = 1,
        mined_negatives: int = 2,
    ):
        super().__init__(texts, images)
        self.hard_negatives, self.negative_size, self.mined_negatives = hard_negatives, negative_size, mined_negatives
        pictures, first, place = np.unique(self.pictures, return_index=True, return_inverse=True)
        order = np.argsort(first)
        self.columns = pictures[order]  # (P,) rows of the image store
        self.own = np.argsort(order)[place].astype(np.int32)  # (T,) the column of each text's picture
        self._by_column = np.argsort(self.own, kind="stable").astype(np.int32)  # texts, picture by picture
        self._ends = np.concatenate([[0], np.cumsum(np.bincount(self.own))])  # (P + 1,) where a picture's texts begin
        self.mined: tuple[np.ndarray, np.ndarray] | None = None  # see `mine_hardest`
        if len(self.columns) < 2:
            raise InputError(
                "no other picture to rank a text's own against",
                file=texts.path,
                found="1 picture",
                expected="2 or more",
            )

    def column_names(self) -> list[str]:
        """(P,) names of the pictures."""
        assert self.images is not None
        return [self.images.name(row) for row in self.columns.tolist()]

    def other_columns(self, text: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """`size` columns of pictures that are not the text's own, each once."""
        drawn = _distinct(len(self.columns) - 1, size, rng)
        return drawn + (drawn >= self.own[text])

    def other_texts(self, text: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """`size` texts about other pictures than this text's, each once."""
        start, stop = self._ends[self.own[text] : self.own[text] + 2]
        drawn = _distinct(len(self) - (stop - start), size, rng)
        return self._by_column[drawn + np.where(drawn >= start, stop - start, 0)]

    def example(self, text: int, picture: int, rng: np.random.Generator) -> Example:
        if self.hard_negatives == "online":
            return Example(self.id(text), self._candidates(text, rng))
        own, size, half = self.own[text], self.negative_size, self.mined_negatives // 2
        hard_columns = hard_texts = np.empty(0, np.int32)
        if self.mined is not None:
            hard_columns = _some(self.mined[0][text], self.mined_negatives - half, rng)
            hard_texts = _some(self.mined[1][own], half, rng)
        columns = _beside(hard_columns, self.other_columns(text, size + len(hard_columns), rng), size)
        texts = _beside(hard_texts, self.other_texts(text, size + len(hard_texts), rng), size)
        pairs = [(text, own), *((text, column) for column in columns), *((t, own) for t in texts)]
        return Example(self.id(text), self._sequences(pairs))

    def _candidates(self, text: int, rng: np.random.Generator) -> list[Seq]:
        """Pairs of a text, then of the picture of another text, which is drawn, each beginning with the right one."""
        other = int(rng.integers(len(self)))
        columns = self.other_columns(text, self.negative_size, rng)
        texts = self.other_texts(other, self.negative_size, rng)
        pairs = [(text, self.own[text]), *((text, column) for column in columns)]
        pairs += [(other, self.own[other]), *((t, self.own[other]) for t in texts)]
        seqs = self._sequences(pairs)
        for at, seq in enumerate(seqs):
            seq.targets["anchor"] = np.array([int(at > len(columns))], np.int64)
        return seqs

    def _sequences(self, pairs: list[tuple[int, int]]) -> list[Seq]:
        """The sequences of (text, column) pairs, every text and picture read once."""
        texts, columns = np.array(pairs, np.int64).T
        images = {p: self.image(p)[0] for p in np.unique(self.columns[columns]).tolist()}
        return self.sequences(texts, self.columns[columns], images)

    def sequences(self, texts: np.ndarray, pictures: np.ndarray, images: Mapping[int, Image]) -> list[Seq]:
        """(n,) texts and (n,) rows of the image store → n sequences; `images` holds the pictures, by row."""
        framed = {t: self.framed(self.tokens(self.texts.read(t))) for t in np.unique(texts).tolist()}
        return [Seq(framed[t], [images[p]]) for t, p in zip(texts.tolist(), pictures.tolist())]


def _distinct(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """`size` different numbers below `n`, or all of them where there are fewer."""
    return rng.choice(n, min(size, n), replace=False)


def _some(row: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """`size` different entries of a row of `mine_hardest`, or all that it has."""
    there = row[row >= 0]
    return there[_distinct(len(there), size, rng)]


def _beside(hard: np.ndarray, drawn: np.ndarray, size: int) -> np.ndarray:
    """The first `size` of `drawn` that are not among `hard`, then `hard`."""
    return np.concatenate([drawn[~np.isin(drawn, hard)][:size], hard])


def draw_candidates(data: Retrieval, size: int, rng: np.random.Generator) -> np.ndarray:
    """(T, k) columns: for every text `size` random pictures that are not its own, or all others if fewer."""
    return np.stack([data.other_columns(text, size, rng) for text in range(len(data))]).astype(np.int32)


def mine_hardest(scores: np.ndarray, columns: np.ndarray, pictures: int, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """What the model takes for right and is not: of scored pairs that do not match, the `keep` best for each side.

    `scores` (T, k) of every text with the pictures in `columns` (T, k), of `pictures` = P in all → (T, keep) columns
    for each text, (P, keep) texts for each picture, both int32, highest score first, -1 where there are no more.
    """
    texts, size = columns.shape
    best = np.argsort(-scores, axis=1, kind="stable")[:, :keep]
    for_texts = np.full((texts, keep), -1, np.int32)
    for_texts[:, : best.shape[1]] = np.take_along_axis(columns, best, axis=1)
    order = np.lexsort((-scores.ravel(), columns.ravel()))  # by picture, highest first; ties in the texts' order
    of = columns.ravel()[order]
    rank = np.arange(len(of)) - np.searchsorted(of, np.arange(pictures), "left")[of]
    for_pictures = np.full((pictures, keep), -1, np.int32)
    kept = rank < keep
    for_pictures[of[kept], rank[kept]] = order[kept] // size
    return for_texts, for_pictures
