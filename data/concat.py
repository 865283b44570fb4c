"""Several datasets of one task as one, for entries with more than one store."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.batch import Example


class Concat:
    """Datasets laid end to end; negatives stay inside each of them, as in the release."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = list(parts)
        self.task, self.batch_unit = parts[0].task, parts[0].batch_unit
        self.ends = np.cumsum([0] + [len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def img_dim(self) -> int:
        """Feature width of the pictures; parts of text alone say 1."""
        return max(part.img_dim for part in self.parts)

    def _part(self, i: int) -> tuple[Any, int]:
        k = int(np.searchsorted(self.ends, i, "right")) - 1
        return self.parts[k], int(self.ends[k])

    def id(self, i: int) -> str:
        """The id of example `i`."""
        part, start = self._part(i)
        return part.id(i - start)

    def pairs(self, uniform: np.ndarray) -> np.ndarray:
        """As each part's own; texts are numbered from the first part's first."""
        parts = zip(self.parts, self.ends, self.ends[1:])
        return np.concatenate([_renumbered(part.pairs(uniform[start:stop]), start) for part, start, stop in parts])

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """What the release counts of every example, in the order of `pairs`: whole parts, end to end."""
        parts = zip(self.parts, self.ends, self.ends[1:])
        return np.concatenate([part.lens(_renumbered(pairs[start:stop], -start)) for part, start, stop in parts])

    def units(self, pairs: np.ndarray) -> np.ndarray:
        """Units of every example, in the same order."""
        parts = zip(self.parts, self.ends, self.ends[1:])
        return np.concatenate([part.units(_renumbered(pairs[start:stop], -start)) for part, start, stop in parts])

    def example(self, text: int, *pictures_and_rng: Any) -> Example:
        """The example of its part."""
        part, start = self._part(text)
        return part.example(text - start, *pictures_and_rng)


def _renumbered(pairs: np.ndarray, by: int) -> np.ndarray:
    """`pairs` (n, 1 + k) with other numbers for the texts."""
    moved = pairs.copy()
    moved[:, 0] += by
    return moved
