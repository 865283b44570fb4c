"""Retrieval's evaluation: pairs of a text and a picture to be scored, cut into tiles that each fill a batch.

A tile is an example, and a batch of its own. Its pairs share pictures, so that each is read, held and sent once for
many texts; a picture that the next tile shows again stays in memory.

Legend: T texts, P pictures, k candidates of a text; columns as in `data.retrieval`.
"""

from collections.abc import Sequence

import numpy as np

from data.batch import Example, Image
from data.dataset import BatchUnit, Column
from data.retrieval import Retrieval
from data.sampler import cut
from utils.errors import InputError


class RetrievalTiles:
    """What the two evaluation sets share: a `data.dataset.Dataset` whose examples are tiles."""

    task = "retrieval"
    batch_unit: BatchUnit = "units"
    has_labels = True  # a text's own picture is known

    def __init__(self, captions: Retrieval, budget: int):
        """`budget`: units of a batch, the one they are evaluated with."""
        assert captions.images is not None
        self.captions, self.budget, self.img_dim = captions, budget, captions.img_dim
        self.txt_lens = captions.texts.lens.astype(np.int64) + 2  # (T,) [CLS] and [SEP] included
        self.img_lens = captions.images.n_announced[captions.columns].astype(np.int64)  # (P,)
        self._images: dict[int, Image] = {}  # of the last tile made
        self.bounds = np.empty((0, 2), np.int64)  # (tiles, 2) where each tile starts and stops; a subclass says in what
        longest = int(self.txt_lens.max() + self.img_lens.max())
        if longest > budget:
            raise InputError(
                "a pair of a text and a picture is larger than a batch",
                file=captions.texts.path,
                found=f"up to {longest} units in a pair, {budget} in a batch",
                remedy="raise the batch size (val_batch_size, --batch_units), or lower max_bb",
            )

    def __len__(self) -> int:
        return len(self.bounds)

    def id(self, i: int) -> str:
        """Tiles go by their number."""
        return str(i)

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """(n, 1): the number of every tile; nothing is drawn."""
        return np.arange(len(draws), dtype=np.int32)[:, None]

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """As `units`."""
        return self.units(pairs)

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """A batch's whole budget for every tile: so batches are tiles, and come in their order."""
        return np.full(len(pairs), self.budget, np.int64)

    def tile(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(n,) texts and (n,) columns of the pairs of tile `i`."""
        raise NotImplementedError

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """The pairs of a tile, a sequence each."""
        tile = row[Column.TEXT]
        texts, columns = self.tile(tile)
        pictures = self.captions.columns[columns]
        self._images = {p: self._images.get(p) or self._read(p) for p in np.unique(pictures).tolist()}
        return Example(self.id(tile), self.captions.sequences(texts, pictures, self._images))

    def _read(self, picture: int) -> Image:
        (image,) = self.captions.images_of(picture)
        # A copy, because a view into the LMDB would not outlive its closing.
        return Image(key=image.key, feat=image.feat.copy(), pos=image.pos)

    def pair_scores(self, predictions: dict[str, np.ndarray]) -> np.ndarray:
        """The scores of all tiles' pairs, in order, fp32."""
        assert predictions["ids"].tolist() == [self.id(i) for i in range(len(self))]
        return predictions["scores"]


class RetrievalMatrix(RetrievalTiles):
    """All texts, or those in `texts`, with all pictures: the whole matrix.

    Pictures go in blocks of at most `minibatch`, those of few regions first; a tile is a block with as many texts as
    the budget allows. Blocks are smaller where one would leave no room for about as many texts as it has pictures.
    """

    def __init__(self, captions: Retrieval, budget: int, minibatch: int, texts: range | None = None):
        super().__init__(captions, budget)
        self.texts = texts or range(len(captions))
        lens = self.txt_lens[self.texts.start : self.texts.stop]
        square = int(np.sqrt(budget / (lens.mean() + self.img_lens.mean())))
        size = max(1, min(minibatch, square, budget // int(lens.max() + self.img_lens.max())))
        order = np.argsort(self.img_lens, kind="stable")
        self.blocks = [order[start : start + size] for start in range(0, len(order), size)]
        cuts = [cut(len(block) * lens + self.img_lens[block].sum(), budget) for block in self.blocks]
        self.bounds = np.concatenate(cuts)
        self._block = np.repeat(np.arange(len(cuts)), [len(part) for part in cuts])  # (tiles,)

    def tile(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        block, (start, stop) = self.blocks[self._block[i]], self.bounds[i]
        texts = np.arange(start, stop) + self.texts.start
        return np.repeat(texts, len(block)), np.tile(block, len(texts))

    def table(self, predictions: dict[str, np.ndarray]) -> np.ndarray:
        """(texts, P) scores, fp32."""
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
    """Every text with k pictures of its own list, (T, k) columns; tiles go picture by picture."""

    def __init__(self, captions: Retrieval, columns: np.ndarray, budget: int):
        super().__init__(captions, budget)
        self.columns = columns
        self._order = np.argsort(columns.ravel(), kind="stable")
        units = self.txt_lens[self._order // columns.shape[1]] + self.img_lens[columns.ravel()[self._order]]
        self.bounds = cut(units, budget)

    def tile(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        start, stop = self.bounds[i]
        pairs = self._order[start:stop]
        return pairs // self.columns.shape[1], self.columns.ravel()[pairs]

    def table(self, predictions: dict[str, np.ndarray]) -> np.ndarray:
        """(T, k) scores, fp32."""
        table = np.empty(self.columns.size, np.float32)
        table[self._order] = self.pair_scores(predictions)
        return table.reshape(self.columns.shape)


def validation_candidates(captions: Retrieval, budget: int, minibatch: int) -> RetrievalCandidates:
    """Each text's own picture, in column 0 of the table, and the `minibatch` - 1 that follow it, as the release."""
    pictures = len(captions.columns)
    following = captions.own_columns[:, None] + np.arange(min(minibatch, pictures), dtype=np.int32)
    return RetrievalCandidates(captions, following % pictures, budget)
