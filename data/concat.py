"""Several datasets of one task as one dataset, for training data in more than one store."""

from collections.abc import Iterator, Sequence

import numpy as np

from data.batch import Example
from data.dataset import Column, Dataset


class Concat:
    """Concatenate datasets of one task. Negatives come from the example's own part, as in the release.

    Implements `data.dataset.Dataset`. Targets are those of the parts.
    """

    def __init__(self, parts: Sequence[Dataset]):
        """`parts`: one or more datasets of the same task and batch unit."""
        self.parts = list(parts)
        self.task, self.batch_unit = parts[0].task, parts[0].batch_unit
        self.ends = np.cumsum([0] + [len(part) for part in parts])

    def __len__(self) -> int:
        """The number of examples in all parts."""
        return int(self.ends[-1])

    @property
    def img_dim(self) -> int:
        """Width of the region features. Parts without images give 1, so the largest is taken."""
        return max(part.img_dim for part in self.parts)

    @property
    def has_labels(self) -> bool:
        """Whether all parts have labels."""
        return all(part.has_labels for part in self.parts)

    def id(self, i: int) -> str:
        """The id of example `i`."""
        part, start = self._part(i)
        return part.id(i - start)

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        """The pairs of every part, (n, 1 + k) int32; texts are numbered through all parts."""
        return np.concatenate([_renumbered(part.pairs(draws[rows]), rows.start) for part, rows in self._slices()])

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units as the release counts them. `pairs` must be those of all parts, in order."""
        return np.concatenate([part.lens(_renumbered(pairs[rows], -rows.start)) for part, rows in self._slices()])

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """(n,) int64 units of every example, an upper bound. `pairs` must be those of all parts, in order."""
        return np.concatenate([part.units(_renumbered(pairs[rows], -rows.start)) for part, rows in self._slices()])

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """The example that the part of this row's text makes."""
        part, start = self._part(row[Column.TEXT])
        return part.example([row[Column.TEXT] - start, *row[1:]], rng)

    def _part(self, i: int) -> tuple[Dataset, int]:
        """The part that has example `i`, and the number of that part's first example."""
        k = int(np.searchsorted(self.ends, i, "right")) - 1
        return self.parts[k], int(self.ends[k])

    def _slices(self) -> Iterator[tuple[Dataset, slice]]:
        """Every part with the slice of its examples."""
        for part, start, stop in zip(self.parts, self.ends.tolist(), self.ends[1:].tolist()):
            yield part, slice(start, stop)


def _renumbered(pairs: np.ndarray, by: int) -> np.ndarray:
    """`pairs` (n, 1 + k) with `by` added to the number of every text."""
    moved = pairs.copy()
    moved[:, Column.TEXT] += by
    return moved
