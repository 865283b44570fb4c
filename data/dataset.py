"""The contract of a dataset: how to plan batches of it, and how to build one example (DESIGN section 3).

    draws (n, 3) → pairs (n, 1 + k) → lens, units (n,) → batches of rows → example(row) → collate

Once an epoch, `pairs` decides which text meets which pictures. `lens` and `units` say how long every example then is,
so batches are cut before anything is read. `example` reads one row of `pairs` and makes what `data.batch` packs.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal, Protocol

import numpy as np

from data.batch import Example

BatchUnit = Literal["units", "examples"]  # what a batch size counts


class Draw(IntEnum):
    """Columns of the uniform numbers in [0, 1) that `pairs` may use: (n, len(Draw)), a row for each example."""

    NEGATIVE = 0  # below the share of negatives: the pair becomes a negative
    SIDE = 1  # below the share of replaced texts: the text is replaced, else the picture
    OTHER = 2  # times their number: which of the other texts or pictures replaces it


class Column(IntEnum):
    """Columns of `pairs`: the number of a text in its store, then rows of image stores; -1: no picture."""

    TEXT = 0
    PICTURE = 1  # NLVR2: the left one; VCR: the ground-truth boxes
    SECOND_PICTURE = 2  # NLVR2: the right one; VCR: the detected boxes


class Dataset(Protocol):
    """Examples of one task. All numbers below are of this dataset: n examples, k pictures each."""

    @property
    def task(self) -> str:
        """Which task the examples are of; a batch carries it as `PackedBatch.task`."""

    @property
    def batch_unit(self) -> BatchUnit:
        """Whether a batch size counts units (text tokens and image regions) or examples."""

    @property
    def img_dim(self) -> int:
        """Width of the region features; 1 where there are no pictures."""

    @property
    def has_labels(self) -> bool:
        """Whether its predictions can be scored: False for a test split whose labels are not public."""

    def __len__(self) -> int:
        """n, the number of examples in an epoch."""

    def id(self, i: int) -> str:
        """The id of example `i`, as in the annotations; predictions go by it."""

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """Uniform `draws` (n, len(Draw)) → (n, 1 + k) int32, see `Column`: what every example of an epoch shows."""

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units of every example as the 2020 release counts them, for `batching: "release"`."""

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units of every example, all of its sequences, [CLS] and [SEP] included: an upper bound.

        A record may hold fewer regions than its store announces (`data.img_store.ImageStore.n_stored`).
        """

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """The example of one row of `pairs`; every random choice in it, such as masks, comes from `rng`."""
