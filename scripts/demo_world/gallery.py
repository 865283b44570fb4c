"""The scenes of a split as arrays, to find the pictures in which a statement is true."""

from collections.abc import Callable

import numpy as np

from scripts.demo_world.captions import EXTREMES, MIN_GAP, RELATIONS
from scripts.demo_world.scene import COLORS, SHAPES, TEXTURES, Scene, Thing

VALUES = {"shape": SHAPES, "color": tuple(COLORS), "texture": TEXTURES, "size": ("small", "large")}


class Gallery:
    """n scenes. Arrays that it returns have one entry per scene, in the order of `ids`."""

    def __init__(self, scenes: dict[int, Scene]):
        self.ids = list(scenes)
        self.scenes = list(scenes.values())
        self._things = [thing for scene in self.scenes for thing in scene.things]
        self._scene_indices = np.repeat(np.arange(len(self.scenes)), [len(scene.things) for scene in self.scenes])
        self._masks = {
            (key, value): np.array([getattr(thing, key) == value for thing in self._things])
            for key, values in VALUES.items()
            for value in values
        }
        self._extremes: dict[str, list[Thing | None]] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def any_thing(self, rng: np.random.Generator) -> Thing:
        """A random object of all scenes."""
        return self._things[int(rng.integers(len(self._things)))]

    def count(self, **attributes: str) -> np.ndarray:
        """(n,) the number of objects with all of the attributes."""
        fits = np.ones(len(self._things), bool)
        for key, value in attributes.items():
            fits &= self._masks[key, value]
        return np.bincount(self._scene_indices[fits], minlength=len(self))

    def extreme(self, word: str, **attributes: str) -> np.ndarray:
        """(n,) whether the leftmost (…) object has the attributes: 1, 0, or -1 if two objects are about equally far."""
        if word not in self._extremes:
            self._extremes[word] = [_extreme_thing(scene, EXTREMES[word]) for scene in self.scenes]
        return np.array([-1 if thing is None else int(thing.has(**attributes)) for thing in self._extremes[word]])

    def relation(self, word: str, a: dict[str, str], b: dict[str, str]) -> np.ndarray:
        """(n,) whether some `a` is left of (above, …) some `b`: 1, 0, or -1 if only by a few pixels."""
        verdicts = np.zeros(len(self), int)
        for k in np.flatnonzero((self.count(**a) > 0) & (self.count(**b) > 0)):
            things = self.scenes[k].things
            pairs = [(s, t) for s in things if s.has(**a) for t in things if t.has(**b) and t is not s]
            widest = max((RELATIONS[word](s, t) for s, t in pairs), default=0.0)
            verdicts[k] = 1 if widest > MIN_GAP else (-1 if widest > 0 else 0)
        return verdicts


def _extreme_thing(scene: Scene, coordinate: Callable[[Thing], float]) -> Thing | None:
    """The object with the largest coordinate; None if a second one has almost the same."""
    first, second = sorted(scene.things, key=coordinate, reverse=True)[:2]
    return first if coordinate(first) - coordinate(second) > MIN_GAP / 3 else None
