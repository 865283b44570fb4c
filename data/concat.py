"""Several datasets of one task as one, for entries with more than one store."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.batch import Example


class Concat:
    """Datasets laid end to end; negatives stay inside each of them, as in the release."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = list(parts)
        self.task, self.specials = parts[0].task, parts[0].specials
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
        made = []
        for part, start, stop in zip(self.parts, self.ends, self.ends[1:]):
            made.append(part.pairs(uniform[start:stop]) + np.array([start, 0], np.int32))
        return np.concatenate(made)

    def lens(self, pairs: np.ndarray) -> np.ndarray:
        """Units of every example, in the order of `pairs`; rows must be whole parts, end to end."""
        made = []
        for part, start, stop in zip(self.parts, self.ends, self.ends[1:]):
            made.append(part.lens(pairs[start:stop] - np.array([start, 0], np.int32)))
        return np.concatenate(made)

    def example(self, text: int, picture: int, rng: np.random.Generator) -> Example:
        """The example of its part."""
        part, start = self._part(text)
        return part.example(text - start, picture, rng)
