"""Statements: sentences the grammar makes, each with a training picture it is true of and one it is not.

They are said as the training sentences are (parsing.Habits), of the same kind of picture: scattered things or towers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.rng import generator
from examples.nlvr1.panels import shows_towers
from examples.nlvr1.parsing import MAX_WORDS, Habits
from examples.nlvr1.scene import Scene
from utils.errors import InputError

POOL_SIZE, MAX_TRIES = 48, 50  # pictures a statement is tried on; sentences drawn for each that is kept, at most


class Statement(NamedTuple):
    """Words, and the rows of a picture they are true of and of one they are not."""

    words: list[str]
    true_picture: int
    false_picture: int


class Statements:
    """A source of statements about some pictures, in the manner of the sentences said of them."""

    def __init__(self, sentences: list[list[str]], pictures: list[np.ndarray]):
        """`sentences`: word by word, each of the picture in its row; `pictures`: objects (n, 6)."""
        towers = np.array([shows_towers(picture) for picture in pictures])
        # By kind of picture, scattered things or towers: its rows, and the habits of its sentences.
        self.kind_rows = [np.flatnonzero(towers == kind) for kind in (False, True) if (towers == kind).any()]
        self.habits = [Habits(sorted([sentences[i] for i in rows])) for rows in self.kind_rows]
        self.pictures = pictures

    def draw(self, count: int, *seed: int | str) -> Iterator[Statement]:
        """`count` statements, the same from the same seed; both kinds of pictures as often as in training."""
        sizes = np.array([len(rows) for rows in self.kind_rows])
        for kind, rows in enumerate(self.kind_rows):
            rng, quota = generator("statements", kind, *seed), round(count * sizes[kind] / sizes.sum())
            while quota > 0:
                quota_before, order = quota, rng.permutation(rows)
                for first in range(0, max(1, len(rows) - POOL_SIZE + 1), POOL_SIZE):
                    pool = order[first : first + POOL_SIZE]
                    scene = Scene([self.pictures[i] for i in pool])
                    for statement in self._draw_about(scene, kind, rng, min(quota, 64)):
                        yield Statement(
                            statement.words, int(pool[statement.true_picture]), int(pool[statement.false_picture])
                        )
                        quota -= 1
                if quota == quota_before:
                    raise InputError(
                        "no statement is true of some pictures and false of others",
                        found=f"{len(rows)} pictures of a kind",
                        expected="two or more that differ",
                    )

    def _draw_about(self, scene: Scene, kind: int, rng: np.random.Generator, count: int) -> Iterator[Statement]:
        """Statements true of some of the scene's pictures and false of others."""
        for _ in range(MAX_TRIES * count):
            tree = self.habits[kind].draw(rng)
            words = tree.words()
            if len(words) > MAX_WORDS:
                continue
            truth = tree.meaning(scene)
            true, false = np.flatnonzero(truth), np.flatnonzero(~truth)
            if len(true) and len(false):
                yield Statement(words, int(rng.choice(true)), int(rng.choice(false)))
                count -= 1
                if count == 0:
                    return
