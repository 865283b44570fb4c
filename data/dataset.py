"""The contract of a dataset: how to plan batches of it, and how to build one example (DESIGN section 3).

    draws (n, 3) → pairs (n, 1 + k) → lens, units (n,) → batches of rows → example(row) → collate

`draws` are uniform random numbers; `Draw` names their columns. Once an epoch, `pairs` decides which text is paired with
which images. `lens` and `units` give the length of each example, so that batches are planned before any record is read.
`example` reads the records of one row of `pairs`.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal, Protocol

import numpy as np

from data.batch import Example

BatchUnit = Literal["units", "examples"]  # what a batch size counts


class Draw(IntEnum):
    """Columns of the uniform random numbers in [0, 1) that `pairs` may use: (n, len(Draw)), a row for each example."""

    NEGATIVE = 0  # the pair becomes a negative when this is below the share of negatives
    SIDE = 1  # in a negative the text is replaced when this is below the share of replaced texts, else the image
    OTHER = 2  # chooses which of the other texts or images replaces it: this number times how many there are


class Column(IntEnum):
    """Columns of `pairs`: the number of a text in its store, then rows of image stores; -1 means no image."""

    TEXT = 0
    PICTURE = 1  # NLVR2: the left image; VCR: the ground-truth boxes
    SECOND_PICTURE = 2  # NLVR2: the right image; VCR: the detected boxes


class Dataset(Protocol):
    """The examples of one task. Below, n is the number of examples, and k the number of images of each."""

    @property
    def task(self) -> str:
        """The name of the task, which batches carry as `PackedBatch.task`."""

    @property
    def batch_unit(self) -> BatchUnit:
        """Whether a batch size counts units (text tokens and image regions) or examples."""

    @property
    def img_dim(self) -> int:
        """Width of the region features; 1 where there are no images."""

    @property
    def has_labels(self) -> bool:
        """Whether predictions can be scored: False for a test split whose labels are not public."""

    def __len__(self) -> int:
        """n, the number of examples in an epoch."""

    def id(self, i: int) -> str:
        """The id of example `i`, as in the annotations. Predictions are stored under it."""

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """The text and images of every example of an epoch, (n, 1 + k) int32, with the columns of `Column`.

        `draws`: (n, len(Draw)) uniform random numbers, for datasets with random pairs.
        """

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units of every example as the 2020 release counts them, for `batching: "release"`."""

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units of every example, all of its sequences, [CLS] and [SEP] included: an upper bound.

        A record may hold fewer regions than its store announces (`data.img_store.ImageStore.n_stored`).
        """

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build the example of one row of `pairs`. Every random choice in it, such as masks, comes from `rng`.

        `InputError` when a record that it reads cannot be used.
        """
