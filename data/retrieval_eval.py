"""Evaluation data of retrieval: all pairs of a text and an image that must be scored, cut into tiles.

A tile is a block of pairs that fills one batch; it is one example of the dataset. Its pairs share images, so that each
image is read and sent once for many texts. Images that the next tile needs again stay in memory.

Legend: T texts, P images, k candidates for each text; columns as in `data.retrieval`.
"""

from collections.abc import Sequence

import numpy as np

from data.batch import Example, Image
from data.batching import cut
from data.dataset import BatchUnit, Column
from data.retrieval import Retrieval
from utils.errors import InputError


class RetrievalTiles:
    """Base class of the two evaluation sets: a `data.dataset.Dataset` whose examples are tiles. It has no targets."""

    task = "retrieval"
    batch_unit: BatchUnit = "units"
    has_labels = True  # the own image of each text is known

    def __init__(self, captions: Retrieval, budget: int):
        """`budget`: units in a batch, the same as in `data.sampler.eval_plans`.

        `InputError` when the longest text and image do not fit in one batch.
        """
        assert captions.images is not None
        self.captions, self.budget, self.img_dim = captions, budget, captions.img_dim
        self.txt_lens = captions.texts.lens.astype(np.int64) + 2  # (T,) [CLS] and [SEP] included
        self.img_lens = captions.images.n_announced[captions.columns].astype(np.int64)  # (P,)
        self._images: dict[int, Image] = {}  # the images of the last tile, by row of the image store
        self.bounds = np.empty((0, 2), np.int64)  # (tiles, 2) where each tile starts and stops; subclasses set it
        longest = int(self.txt_lens.max() + self.img_lens.max())
        if longest > budget:
            raise InputError(
                "a pair of a text and an image is larger than a batch",
                file=captions.texts.path,
                found=f"up to {longest} units in a pair",
                expected=f"at most {budget}, the units in a batch",
                remedy="raise the batch size (val_batch_size, --batch_units), or lower max_bb",
            )

    def __len__(self) -> int:
        """The number of tiles."""
        return len(self.bounds)

    def id(self, i: int) -> str:
        """The id of tile `i`, which is its number."""
        return str(i)

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """(n, 1) int32: the number of every tile; nothing is drawn."""
        return np.arange(len(draws), dtype=np.int32)[:, None]

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64, the same as `units`."""
        return self.units(pairs)

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64: the whole budget of a batch for every tile, so that each batch is one tile, in order."""
        return np.full(len(pairs), self.budget, np.int64)

    def tile(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The (n,) texts and (n,) columns of the pairs in tile `i`."""
        raise NotImplementedError

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build a sequence for each pair of a tile."""
        tile = row[Column.TEXT]
        texts, columns = self.tile(tile)
        pictures = self.captions.columns[columns]
        self._images = {p: self._images.get(p) or self._read(p) for p in np.unique(pictures).tolist()}
        return Example(self.id(tile), self.captions.sequences(texts, pictures, self._images))

    def _read(self, picture: int) -> Image:
        (image,) = self.captions.images_of(picture)
        # A copy, because a view into the LMDB becomes invalid when the LMDB is closed.
        return Image(key=image.key, feat=image.feat.copy(), pos=image.pos)

    def pair_scores(self, predictions: dict[str, np.ndarray]) -> np.ndarray:
        """The scores of the pairs of all tiles, in order, fp32."""
        assert predictions["ids"].tolist() == [self.id(i) for i in range(len(self))]
        return predictions["scores"]


class RetrievalMatrix(RetrievalTiles):
    """The whole matrix of scores: all texts with all images.

    Images are sorted by their number of regions and cut into blocks of at most `minibatch`. A tile is a block with as
    many texts as fit in the budget. Blocks are smaller where a tile would otherwise have fewer texts than images.
    """

    def __init__(self, captions: Retrieval, budget: int, minibatch: int, texts: range | None = None):
        """`captions`, `budget`: see `RetrievalTiles`. `minibatch`: the largest number of images in a block.

        `texts`: only these rows of the matrix; None: all.
        """
        super().__init__(captions, budget)
        self.texts = texts or range(len(captions))
        lens = self.txt_lens[self.texts.start : self.texts.stop]
        square = int(np.sqrt(budget / (lens.mean() + self.img_lens.mean())))
        size = max(1, min(minibatch, square, budget // int(lens.max() + self.img_lens.max())))
        order = np.argsort(self.img_lens, kind="stable")
        self.blocks = [order[start : start + size] for start in range(0, len(order), size)]
        cuts = [cut(len(block) * lens + self.img_lens[block].sum(), budget) for block in self.blocks]
        self.bounds = np.concatenate(cuts)
        self._block = np.repeat(np.arange(len(cuts)), [len(part) for part in cuts])  # (tiles,) the block of each tile

    def tile(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The (n,) texts and (n,) columns of the pairs in tile `i`."""
        block, (start, stop) = self.blocks[self._block[i]], self.bounds[i]
        texts = np.arange(start, stop) + self.texts.start
        return np.repeat(texts, len(block)), np.tile(block, len(texts))

    def table(self, predictions: dict[str, np.ndarray]) -> np.ndarray:
        """The matrix of scores (texts, P), fp32, from the predictions for all tiles."""
        scores, first = self.pair_scores(predictions), 0
        table = np.empty((len(self.texts), len(self.captions.columns)), np.float32)
        for number, (start, stop) in zip(self._block, self.bounds):
            block = self.blocks[number]
            size = (stop - start) * len(block)
            table[start:stop, block] = scores[first : first + size].reshape(stop - start, len(block))
            first += size
        assert first == len(scores)
        return table


class RetrievalCandidates(RetrievalTiles):
    """Every text with k candidate images. Pairs are sorted by image before they are cut into tiles."""

    def __init__(self, captions: Retrieval, columns: np.ndarray, budget: int):
        """`columns`: (T, k), the candidates of each text."""
        super().__init__(captions, budget)
        self.columns = columns
        self._order = np.argsort(columns.ravel(), kind="stable")
        units = self.txt_lens[self._order // columns.shape[1]] + self.img_lens[columns.ravel()[self._order]]
        self.bounds = cut(units, budget)

    def tile(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The (n,) texts and (n,) columns of the pairs in tile `i`."""
        start, stop = self.bounds[i]
        pairs = self._order[start:stop]
        return pairs // self.columns.shape[1], self.columns.ravel()[pairs]

    def table(self, predictions: dict[str, np.ndarray]) -> np.ndarray:
        """The scores (T, k) of all candidates, fp32, from the predictions for all tiles."""
        table = np.empty(self.columns.size, np.float32)
        table[self._order] = self.pair_scores(predictions)
        return table.reshape(self.columns.shape)


def validation_candidates(captions: Retrieval, budget: int, minibatch: int) -> RetrievalCandidates:
    """The validation set of the release: each text with its own image and the `minibatch` - 1 columns after it.

    In the table of scores the own image is column 0. There are fewer candidates where the store has fewer images.
    """
    pictures = len(captions.columns)
    following = captions.own_columns[:, None] + np.arange(min(minibatch, pictures), dtype=np.int32)
    return RetrievalCandidates(captions, following % pictures, budget)
