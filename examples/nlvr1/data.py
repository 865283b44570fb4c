"""NLVR: a sentence about a picture of three panels, true of it or not."""

from collections import defaultdict

import numpy as np

from data.batch import Example, Image, Seq
from data.img_store import ImageStore
from data.rng import generator
from data.text_image import BatchUnit, TextImage
from data.txt_store import TextStore
from examples.nlvr1.panels import IMG_DIM, PANELS, Scale, objects, transform
from examples.nlvr1.words import Vocabulary, rewrite

PANEL_TYPES = list(range(1, PANELS + 1))  # the token types of the panels; 0 is text


def sentence_of(id_: str) -> str:
    """The sentence of "split-n-m-k": its number n."""
    return id_.split("-")[1]


class Judge(TextImage):
    """Sentences with their picture and `labels` (1,): 1 true, 0 false. `augment`: another example of the same truth."""

    task = "judge"
    batch_unit: BatchUnit = "examples"
    img_dim = IMG_DIM

    def __init__(
        self, texts: TextStore, images: ImageStore, scale: Scale, augment: bool, rewritten: float = 0.0, copies: int = 1
    ):
        """`rewritten`: the share of sentences put in other words where `augment`; `copies`: sequences of an example."""
        super().__init__(texts, images)
        self.pages, self.scale, self.augment, self.rewritten = images, scale, augment, rewritten
        self.copies = copies
        self.vocabulary = Vocabulary()
        # Small enough to keep: words and truth of texts, objects of pictures.
        self._read: dict[int, tuple[list[int], int]] = {}
        self._seen: dict[int, np.ndarray] = {}
        self._images: dict[int, list[Image]] = {}  # of pictures as they are

    def units(self, pairs: np.ndarray) -> np.ndarray:
        return self.copies * (super().units(pairs) + PANELS) + (self.rewritten > 0)  # "at least" for "exactly"

    def example(self, text: int, picture: int, rng: np.random.Generator) -> Example:
        return Example(self.id(text), [self.sequence(text, picture, rng, copy) for copy in range(self.copies)])

    def sequence(self, text: int, picture: int, rng: np.random.Generator, copy: int = 0) -> Seq:
        """The sentence and the panels of its picture."""
        if text not in self._read:
            record = self.texts.read(text)
            self._read[text] = record["input_ids"], record["target"]
        if picture not in self._seen:
            regions = self.pages.read(picture)
            self._seen[picture] = objects(regions.features, regions.pos[:, :4])
        (ids, label), seen = self._read[text], self._seen[picture]
        if not self.augment:
            if picture not in self._images:
                self._images[picture] = self.scale.images(seen, picture)
            images = self._images[picture]
        else:
            seen, words = transform(seen, self.vocabulary.decode(ids), rng)
            if rng.random() < self.rewritten:
                words, label = rewrite(words, label, rng)
            ids = self.vocabulary.encode(words)
            images = self.scale.images(seen, (text, copy))  # a picture has other features in another example
        targets = {"labels": np.array([label], np.int64)}
        return Seq(self.framed(np.array(ids)), images, img_types=PANEL_TYPES, targets=targets)


class Contrast(Judge):
    """Sentences with two of their pictures, one they are true of and one they are not, changed alike.

    The words alone say nothing of which is which.
    """

    task = "contrast"

    def __init__(self, texts: TextStore, images: ImageStore, scale: Scale, augment: bool):
        super().__init__(texts, images, scale, augment)
        by_truth: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for i in range(len(texts)):
            by_truth[sentence_of(texts.id(i))][texts.read(i)["target"]].append(i)
        texts.close()  # not open when workers fork
        self.sentences = [lists for lists in by_truth.values() if all(lists)]

    def __len__(self) -> int:
        return len(self.sentences)

    def id(self, i: int) -> str:
        return self.texts.id(self.sentences[i][1][0])

    def pairs(self, uniform: np.ndarray) -> np.ndarray:
        """(n, 2): a text that is true of its picture, and a text of the same words that is not of its own."""
        drawn = [
            (true[int(u * len(true))], false[int(v * len(false))])
            for (false, true), (u, v) in zip(self.sentences, uniform[:, :2])
        ]
        return np.array(drawn, np.int32).reshape(-1, 2)

    def units(self, pairs: np.ndarray) -> np.ndarray:
        return 2 * (self.words(pairs) + 2 + PANELS) + self.pages.n_stored[self.pictures[pairs]].sum(1)

    def example(self, text: int, false: int, rng: np.random.Generator) -> Example:
        key = int(rng.integers(2**62))  # the same changes to both
        both = [self.sequence(i, int(self.pictures[i]), generator(key)) for i in (text, false)]
        return Example(self.texts.id(text), both)
