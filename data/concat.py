"""Several datasets of one task as one, for entries with more than one store."""

from collections.abc import Iterator, Sequence

import numpy as np

from data.batch import Example
from data.dataset import Column, Dataset


class Concat:
    """Datasets laid end to end; negatives stay inside each of them, as in the release."""

    def __init__(self, parts: Sequence[Dataset]):
        self.parts = list(parts)
        self.task, self.batch_unit = parts[0].task, parts[0].batch_unit
        self.ends = np.cumsum([0] + [len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def img_dim(self) -> int:
        """Feature width of the pictures; parts of text alone say 1."""
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
        """As each part's own; texts are numbered from the first part's first."""
        return np.concatenate([_renumbered(part.pairs(draws[rows]), rows.start) for part, rows in self._slices()])

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """What the release counts of every example, in the order of `pairs`: whole parts, end to end."""
        return np.concatenate([part.lens(_renumbered(pairs[rows], -rows.start)) for part, rows in self._slices()])

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """Units of every example, in the same order."""
        return np.concatenate([part.units(_renumbered(pairs[rows], -rows.start)) for part, rows in self._slices()])

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """The example of its part."""
        part, start = self._part(row[Column.TEXT])
        return part.example([row[Column.TEXT] - start, *row[1:]], rng)

    def _part(self, i: int) -> tuple[Dataset, int]:
        """The part of example `i`, and the number of its first example."""
        k = int(np.searchsorted(self.ends, i, "right")) - 1
        return self.parts[k], int(self.ends[k])

    def _slices(self) -> Iterator[tuple[Dataset, slice]]:
        """Every part with its rows."""
        for part, start, stop in zip(self.parts, self.ends.tolist(), self.ends[1:].tolist()):
            yield part, slice(start, stop)


def _renumbered(pairs: np.ndarray, by: int) -> np.ndarray:
    """`pairs` (n, 1 + k) with `by` added to the number of every text."""
    moved = pairs.copy()
    moved[:, Column.TEXT] += by
    return moved
