"""NLVR: a sentence about a picture of three panels, true of it or not."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from data.batch import Example, Image, Seq
from data.dataset import BatchUnit
from data.img_store import ImageStore
from data.rng import generator
from data.text_image import TextImage
from data.txt_store import TextStore
from examples.nlvr1.panels import IMG_DIM, PANELS, Scale, objects, transform
from examples.nlvr1.words import Vocabulary, rewrite

PANEL_TYPES = list(range(1, PANELS + 1))  # the token types of the panels; 0 is text


def sentence_of(id_: str) -> str:
    """The sentence of "split-n-m-k": its number n."""
    return id_.split("-")[1]


class Judge(TextImage):
    """Sentences with their picture. `augment`: another example of the same truth in its place.

    Targets: `labels` (1,) int64 of every sequence, 1 true, 0 false.
    """

    task = "judge"
    batch_unit: BatchUnit = "examples"
    labels_in_records = True
    img_dim = IMG_DIM

    def __init__(
        self,
        texts: TextStore,
        images: ImageStore,
        scale: Scale,
        *,
        augment: bool,
        rewrite_share: float = 0.0,
        copies: int = 1,
    ):
        """`rewrite_share`: of the sentences, where `augment`, those put in other words; `copies`: sequences of an
        example."""
        super().__init__(texts, images)
        self.store, self.scale, self.augment, self.rewrite_share = images, scale, augment, rewrite_share
        self.copies = copies
        self.vocabulary = Vocabulary()
        # Small enough to keep in memory, each read once.
        self._texts_by_row: dict[int, tuple[list[int], int]] = {}  # words and truth
        self._objects: dict[int, np.ndarray] = {}  # of pictures
        self._images: dict[int, list[Image]] = {}  # of pictures as they are

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) units of every example, all of its copies."""
        spare = self.rewrite_share > 0  # "at least" in place of "exactly" is a word more
        return self.copies * (super().units(pairs) + PANELS) + spare

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """A sequence for every copy."""
        text, picture = row
        return Example(self.id(text), [self.sequence(text, picture, rng, copy) for copy in range(self.copies)])

    def sequence(self, text: int, picture: int, rng: np.random.Generator, copy: int = 0) -> Seq:
        """The sentence and the panels of its picture."""
        if text not in self._texts_by_row:
            record = self.texts.read(text)
            self._texts_by_row[text] = record["input_ids"], record["target"]
        if picture not in self._objects:
            regions = self.store.read(picture)
            self._objects[picture] = objects(regions.features, regions.pos[:, :4])
        (ids, label), things = self._texts_by_row[text], self._objects[picture]
        if not self.augment:
            if picture not in self._images:
                self._images[picture] = self.scale.images(things, picture)
            images = self._images[picture]
        else:
            things, words = transform(things, self.vocabulary.decode(ids), rng)
            if rng.random() < self.rewrite_share:
                words, label = rewrite(words, label, rng)
            ids = self.vocabulary.encode(words)
            images = self.scale.images(things, (text, copy))  # a picture has other features in another example
        targets = {"labels": np.array([label], np.int64)}
        return Seq(
            input_ids=self.add_special_tokens(np.array(ids)), images=images, img_types=PANEL_TYPES, targets=targets
        )


class Contrast(Judge):
    """Sentences with two of their pictures, one they are true of and one they are not, changed alike.

    The words alone say nothing of which is which. Targets as of `Judge`, for two sequences.
    """

    task = "contrast"

    def __init__(self, texts: TextStore, images: ImageStore, scale: Scale, *, augment: bool):
        super().__init__(texts, images, scale, augment=augment)
        by_truth: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for i in range(len(texts)):
            by_truth[sentence_of(texts.id(i))][texts.read(i)["target"]].append(i)
        texts.close()  # not open when workers fork
        self.sentences = [lists for lists in by_truth.values() if all(lists)]

    def __len__(self) -> int:
        return len(self.sentences)

    def id(self, i: int) -> str:
        """The id of the first text that is true."""
        return self.texts.id(self.sentences[i][1][0])

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """(n, 2): a text that is true of its picture, and a text of the same words that is not of its own."""
        rows = [
            (true[int(u * len(true))], false[int(v * len(false))])
            for (false, true), (u, v) in zip(self.sentences, draws[:, :2])
        ]
        return np.array(rows, np.int32).reshape(-1, 2)

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) units of every example, both sequences."""
        return 2 * (self.n_words(pairs) + 2 + PANELS) + self.store.n_stored[self.pictures[pairs]].sum(1)

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Two sequences: the true picture, then the false one."""
        key = int(rng.integers(2**62))  # the same changes to both
        both = [self.sequence(i, int(self.pictures[i]), generator(key)) for i in row]
        return Example(self.texts.id(row[0]), both)
