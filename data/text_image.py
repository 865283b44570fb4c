"""The base class of most datasets: texts of a text store joined with the images of an image store."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from data.batch import Example, Image
from data.dataset import BatchUnit, Column, Draw
from data.img_store import ImageStore
from data.record_checks import (
    ONE_TEXT,
    Field,
    all_labelled,
    bad_field,
    check_kind,
    sample_records,
    say_other_kind,
)
from data.txt_store import TextStore
from utils.errors import InputError

Masking = Literal["conditional", "joint"]  # mask one modality of a pair, or both (paper section 3.1, A.3)


class TextImage:
    """Texts with the image that each is about. It implements `data.dataset.Dataset`; subclasses add `example`.

    In arguments and attributes, `text` is the number of a text in the text store, `picture` a row of the image store.
    Example `i` is about text `i`. Targets are those of the subclass.
    """

    task = ""
    title = ""  # the name of the task in messages; empty: `task`
    batch_unit: BatchUnit = "units"
    needs_pictures = True  # False: the task can also run on text without images
    picture_kinds: tuple[str, ...] = ("its image",)  # a name for each image of a text, for messages
    kinds = ONE_TEXT  # the kinds of records that the task can use
    labels_in_records = False  # True: labels are the field `target` of records; False: the task makes its labels

    def __init__(
        self, texts: TextStore, images: ImageStore | None, *, wrong_picture: bool = False, require_labels: bool = False
    ):
        """`images`: None for text without images. `wrong_picture`: pair every text with the image of another text (a
        control). `require_labels`: refuse records without `target`, as training does.

        `InputError` when the task needs images and there are none, an image is missing, `wrong_picture` is set and all
        texts are about one image, or a record in a sample is one of another task or lacks its label where labels are
        required."""
        if images is None and (self.needs_pictures or wrong_picture):
            raise InputError(
                f"the task {self.task} needs images",
                file=texts.path,
                key="img",
                found="no image store",
                expected="an image store",
                remedy="name the image store of these texts",
            )
        self.texts, self.images = texts, images
        self.wrong_picture, self.require_labels = wrong_picture, require_labels
        self.check_sample()
        self.pictures = np.full(len(texts), -1, np.int32)  # (n,) the image of each text; -1 without an image store
        if images is not None:
            check_pictures(texts, self.title or self.task, self.picture_kinds)
            self.pictures = self.picture_rows(texts, images)
        self._picture_pool = np.unique(self.pictures)  # (m,) the distinct images, from which other images are drawn
        if wrong_picture:
            self.check_other_pictures()
        if self.kinds == ONE_TEXT and not self.labels_in_records and len(texts):
            say_other_kind(texts, self.task)

    def __len__(self) -> int:
        """n, the number of texts."""
        return len(self.texts)

    def id(self, i: int) -> str:
        """The id of example `i`."""
        return self.texts.id(i)

    def picture_rows(self, texts: TextStore, images: ImageStore) -> np.ndarray:
        """(n,) int32: the row of each text's own image in the image store."""
        return rows_of_pictures(texts, images)

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """(n, 2) int32: every text with its own image or, with `wrong_picture`, an image of another text.

        `draws`: (n, len(Draw)) uniform random numbers, used with `wrong_picture` only.
        """
        texts = np.arange(len(self), dtype=np.int32)
        pictures = self.other_pictures(draws[:, Draw.OTHER]) if self.wrong_picture else self.pictures
        return np.stack([texts, pictures], axis=1)

    def other_pictures(self, uniform: np.ndarray) -> np.ndarray:
        """(n,) for every text an image that is not its own, chosen by `uniform` (n,) random numbers in [0, 1)."""
        own_index = np.searchsorted(self._picture_pool, self.pictures)
        other_index = (uniform * (len(self._picture_pool) - 1)).astype(np.int64)
        return self._picture_pool[other_index + (other_index >= own_index)]  # skips the text's own image

    def check_other_pictures(self) -> None:
        """`InputError` when all texts are about one image, so that no text can be paired with another image."""
        if len(self._picture_pool) < 2:
            raise InputError(
                "all texts are about one image, so there is no other image to pair them with",
                file=self.texts.path,
                found="1 image",
                expected="2 or more",
                remedy="use a store with more images",
            )

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units of every example without [CLS] and [SEP], as the release counts them."""
        regions = 0 if self.images is None else self.images.n_announced[pairs[:, Column.PICTURE]]
        return self.n_words(pairs) + regions

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units of every example, [CLS] and [SEP] included: an upper bound. Default: of one sequence."""
        regions = 0 if self.images is None else self.images.n_stored[pairs[:, Column.PICTURE]]
        return self.n_words(pairs) + regions + 2

    def n_words(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 word pieces of every example's text, without [CLS] and [SEP]."""
        return self.texts.lens[pairs[:, Column.TEXT]].astype(np.int64)

    @property
    def img_dim(self) -> int:
        """Width of the region features; 1 without an image store."""
        return 1 if self.images is None else self.images.img_dim

    def images_of(self, picture: int, soft_labels: bool = False) -> list[Image]:
        """Read the regions of the image in row `picture`: a list of one, or an empty list without an image store."""
        return [] if self.images is None else [read_image(self.images, picture, soft_labels)]

    def tokens(self, record: dict) -> np.ndarray:
        """The word pieces of a record, (t,) int64, without [CLS] and [SEP]."""
        return np.asarray(record["input_ids"], np.int64)

    def check_sample(self) -> None:
        """Check the records of a sample of texts; `InputError` when one is not a record of this task.

        Also where labels are required and all of the sample say nothing, as in a test split.
        """
        records = [self.record(text) for text in sample_records(self.texts)]
        self.texts.close()  # must not be open when loader processes fork
        if self.require_labels and records and all(map(self.has_empty_label, records)):
            raise self._no_label(f"the first of {len(records)}", "an empty label, as in all others")

    def record(self, text: int) -> dict[str, Any]:
        """Read the record of a text; `InputError` when it is not one of this task, or lacks a required label."""
        record = self.texts.read(text)
        check_kind(self.texts, text, record, self.title or self.task, self.kinds)
        field = self.wrong_field(record)
        if field is not None:
            raise bad_field(self.texts, text, record, field)
        self.target(text, record)
        return record

    def wrong_field(self, record: dict[str, Any]) -> Field | None:
        """The field of a record that is not what the task needs. Default: none is."""
        return None

    def has_label(self, record: dict[str, Any]) -> bool:
        """Whether a record has its label."""
        return record.get("target") is not None

    def has_empty_label(self, record: dict[str, Any]) -> bool:
        """Whether the label of a record says nothing. A split with only such labels has none. Default: it does not."""
        return False

    @property
    def has_labels(self) -> bool:
        """Whether predictions can be scored: True where all texts have labels, False where none has.

        `InputError` where only some have. All records are read, once.
        """
        return not self.labels_in_records or self._labelled

    @cached_property
    def _labelled(self) -> bool:
        return all_labelled(self.texts, self.has_label, self.has_empty_label)

    def target(self, text: int, record: dict) -> Any:
        """The field `target` of a record, its label; None when it has none, as in a test split.

        `InputError` when it has none and labels are required.
        """
        target = record.get("target")
        if self.require_labels and not self.has_label(record):
            raise self._no_label(self.id(text), "no such field")
        return target

    def _no_label(self, key: str, value: str) -> InputError:
        return InputError(
            "a text has no label, so it cannot be used for training",
            file=self.texts.path,
            key=f"{key}: target",
            found=value,
            expected="the label, which a test split does not have",
            remedy="train on a store that prepro.py made from annotations with labels",
        )

    def add_special_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """[CLS], the tokens (t,), [SEP]: (t + 2,) int64."""
        meta = self.texts.meta
        return np.concatenate([[meta.cls], tokens, [meta.sep]]).astype(np.int64)

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build the example of one row of `pairs`. Every random choice in it comes from `rng`."""
        raise NotImplementedError


def read_image(images: ImageStore, picture: int, soft_labels: bool = False) -> Image:
    """Read the regions of the image in row `picture` of a store; `InputError` when the record cannot be used."""
    regions = images.read(picture, soft_labels)
    key = str(images.folder), picture
    return Image(key=key, feat=regions.features, pos=regions.pos, soft_labels=regions.soft_labels)


def check_pictures(texts: TextStore, title: str, picture_kinds: Sequence[str]) -> None:
    """`InputError` unless every text names one image for each of `picture_kinds`."""
    n_pictures = texts.img_index.shape[1]
    if n_pictures != len(picture_kinds):
        raise InputError(
            f"the store is not a text store of {title}",
            file=texts.path / "txt2img.json",
            key=f"{texts.id(0)}: img_fname",
            found=f"images of each text: {n_pictures}",
            expected=f"{len(picture_kinds)}: {', '.join(picture_kinds)}",
            remedy="prepare it with the prepro.py command for this task",
        )


def rows_of_pictures(
    texts: TextStore, images: ImageStore, nth: int = 0, rename: Callable[[str], str] | None = None
) -> np.ndarray:
    """(n,) int32: the row in the image store of each text's `nth` image, counted from 0.

    `rename`: turns an image name of the text store into a key of the image store. `InputError` when the image store
    lacks an image.
    """
    names = texts.img_names
    if rename is not None:
        names = np.array([rename(name.decode()).encode() for name in names])
    rows = images.rows(names)[texts.img_index[:, nth]]
    absent = np.flatnonzero(rows < 0)
    if len(absent):
        missing = np.unique(names[texts.img_index[absent, nth]])
        raise InputError(
            f"{len(missing)} images that the texts name are not in the image store",
            file=images.path,
            key=", ".join(name.decode() for name in missing[:3]),
            found=f"named in {texts.path}",
            expected="every image of the text store",
            remedy="pair the text store with its own image store, or prepare the missing images",
        )
    return rows.astype(np.int32)
