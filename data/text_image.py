"""Texts of one store joined with their pictures of another: what every dataset of text and picture starts from."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from data.batch import Example, Image
from data.dataset import BatchUnit, Column, Draw
from data.img_store import ImageStore
from data.txt_store import TextStore
from utils.errors import InputError

Masking = Literal["conditional", "joint"]


class TextImage:
    """Text `i` and the picture it is about. A `data.dataset.Dataset` without `example`, which subclasses write.

    Texts and pictures go by their numbers: `text` is a number of the text store, `picture` a row of the image store.
    """

    task = ""
    batch_unit: BatchUnit = "units"
    needs_pictures = True  # False: the task also runs on text alone
    picture_kinds: tuple[str, ...] = ("its picture",)  # a name for each picture of a text, for messages
    labels_in_records = False  # whether labels are the records' `target`; else the task makes them itself

    def __init__(
        self, texts: TextStore, images: ImageStore | None, *, wrong_picture: bool = False, require_labels: bool = False
    ):
        """`images` None: text alone. `wrong_picture`: every text meets another text's picture (a control).
        `require_labels`: a record without `target` is an error, as in training."""
        if images is None and (self.needs_pictures or wrong_picture):
            raise InputError(
                f"the task {self.task} needs pictures",
                file=texts.path,
                key="img",
                found=None,
                expected="an image store",
            )
        self.texts, self.images = texts, images
        self.wrong_picture, self.require_labels = wrong_picture, require_labels
        self.pictures = np.full(len(texts), -1, np.int32)  # (n,) row of the image store, -1 for text alone
        if images is not None:
            check_pictures(texts, self.task, self.picture_kinds)
            self.pictures = self.picture_rows(texts, images)
        self._picture_pool = np.unique(self.pictures)  # (m,) distinct, from which other pictures are drawn
        if require_labels and len(texts):
            self.target(0, texts.read(0))
            texts.close()  # not open when workers fork

    def __len__(self) -> int:
        return len(self.texts)

    def id(self, i: int) -> str:
        """The id of example `i`."""
        return self.texts.id(i)

    def picture_rows(self, texts: TextStore, images: ImageStore) -> np.ndarray:
        """(n,) int32: the row of the image store of every text's own picture."""
        return rows_of_pictures(texts, images)

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """Uniform `draws` (n, 3) → (n, 2) int32: every text with its own picture, or, by `wrong_picture`, another's."""
        texts = np.arange(len(self), dtype=np.int32)
        pictures = self.other_pictures(draws[:, Draw.OTHER]) if self.wrong_picture else self.pictures
        return np.stack([texts, pictures], axis=1)

    def other_pictures(self, uniform: np.ndarray) -> np.ndarray:
        """(n,) uniform numbers → for every text a picture of another text, never its own."""
        if len(self._picture_pool) < 2:
            raise InputError(
                "no other picture to pair a text with", file=self.texts.path, found="1 picture", expected="2 or more"
            )
        own_index = np.searchsorted(self._picture_pool, self.pictures)
        other_index = (uniform * (len(self._picture_pool) - 1)).astype(np.int64)
        return self._picture_pool[other_index + (other_index >= own_index)]  # the text's own picture is stepped over

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) units of every example without [CLS] and [SEP], which is how the release counts."""
        regions = 0 if self.images is None else self.images.n_announced[pairs[:, Column.PICTURE]]
        return self.n_words(pairs) + regions

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) units of every example, all of its sequences, [CLS] and [SEP] included: an upper bound."""
        regions = 0 if self.images is None else self.images.n_stored[pairs[:, Column.PICTURE]]
        return self.n_words(pairs) + regions + 2

    def n_words(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) number of word pieces of every example's text."""
        return self.texts.lens[pairs[:, Column.TEXT]].astype(np.int64)

    @property
    def img_dim(self) -> int:
        """Feature width; 1 where there are no pictures."""
        return 1 if self.images is None else self.images.img_dim

    def images_of(self, picture: int, soft_labels: bool = False) -> list[Image]:
        """The regions of the picture in row `picture` of the image store; an empty list for text alone."""
        return [] if self.images is None else [read_image(self.images, picture, soft_labels)]

    def tokens(self, record: dict) -> np.ndarray:
        """The word pieces of a record, (t,) int64, without [CLS] and [SEP]."""
        return np.asarray(record["input_ids"], np.int64)

    @property
    def has_labels(self) -> bool:
        """Whether there are labels to score by: a store has them in all records or, a test split's, in none."""
        if not self.labels_in_records:
            return True
        target = self.texts.read(0).get("target")
        self.texts.close()  # not open when workers fork
        return target is not None

    def target(self, text: int, record: dict) -> Any:
        """`target` of a record: the right answer, None where a test split's store has none."""
        target = record.get("target")
        if target is None and self.require_labels:
            raise InputError(
                "a text without label, such as a test split's, cannot be trained on",
                file=self.texts.path,
                key=f"{self.id(text)}: target",
                found="no such field",
                expected="the right answer",
                remedy="train on a store that prepro.py made of annotations with labels",
            )
        return target

    def add_special_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """[CLS] tokens [SEP]."""
        meta = self.texts.meta
        return np.concatenate([[meta.cls], tokens, [meta.sep]]).astype(np.int64)

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """The example of one row of `pairs`; every random choice in it comes from `rng`."""
        raise NotImplementedError


def read_image(images: ImageStore, picture: int, soft_labels: bool = False) -> Image:
    """The regions of the picture in row `picture` of a store."""
    regions = images.read(picture, soft_labels)
    key = str(images.folder), picture
    return Image(key=key, feat=regions.features, pos=regions.pos, soft_labels=regions.soft_labels)


def check_pictures(texts: TextStore, task: str, picture_kinds: Sequence[str]) -> None:
    """`InputError` unless every text names as many pictures as a task's texts are about."""
    n_pictures = texts.img_index.shape[1]
    if n_pictures != len(picture_kinds):
        raise InputError(
            f"not a text store of {task}",
            file=texts.path / "txt2img.json",
            found=f"{n_pictures} pictures a text",
            expected=f"{len(picture_kinds)}: {', '.join(picture_kinds)}",
            remedy="prepare it with prepro.py's own command for this task",
        )


def rows_of_pictures(
    texts: TextStore, images: ImageStore, nth: int = 0, rename: Callable[[str], str] | None = None
) -> np.ndarray:
    """(n,) int32: the row of the image store of every text's `nth` picture (of k, from 0), by name.

    `rename`: from the name that the text store has to the image store's. Texts without picture there are an error.
    """
    names = texts.img_names
    if rename is not None:
        names = np.array([rename(name.decode()).encode() for name in names])
    rows = images.rows(names)[texts.img_index[:, nth]]
    absent = np.flatnonzero(rows < 0)
    if len(absent):
        missing = np.unique(names[texts.img_index[absent, nth]])
        raise InputError(
            f"{len(missing)} pictures that the texts name are not in the image store",
            file=images.path,
            key=", ".join(name.decode() for name in missing[:3]),
            found=f"named in {texts.path}",
            expected="every picture of the text store",
            remedy="pair the text store with its own image store, or prepare the missing pictures",
        )
    return rows.astype(np.int32)
