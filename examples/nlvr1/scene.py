"""What statements are judged against: many pictures at once, as arrays over pictures, panels and objects.

Legend: P pictures, 3 panels, S slots, one an object, those of a panel from the floor up.
A set of objects is a mask (P, 3, S), a set of panels (P, 3), a truth (P,).
"""

import numpy as np

from examples.nlvr1.panels import PANELS, SIDE, WHERE, Y
from examples.nlvr1.pixels import PANEL

SLOTS = 8  # objects of a panel, at most
CORNER, NEAR = 2, 6  # pixels: what is in a corner, and what nearly touches, is at most that far off


class Scene:
    """P pictures. Whatever has no object has no place in any mask."""

    def __init__(self, pictures: list[np.ndarray]):
        """`pictures`: objects (n, 6) of each (panels.py)."""
        table = np.full((len(pictures), PANELS, SLOTS, 6), -1)
        for place, picture in zip(table, pictures):
            for panel in range(PANELS):
                here = picture[picture[:, WHERE] == panel]
                place[panel, : len(here)] = here[np.argsort(-(here[:, Y] + here[:, SIDE]), kind="stable")]
        _, self.paint, self.outline, self.side, x, y = np.moveaxis(table, -1, 0)
        self.there = self.paint >= 0
        self.gaps = {"left": x, "right": PANEL - x - self.side, "roof": y, "floor": PANEL - y - self.side}
        self.touches = {name: self.there & (gap <= 0) for name, gap in self.gaps.items()}
        self.height = self.there.sum(2)  # (P, 3) objects of each panel

    def wall(self) -> np.ndarray:
        """Objects that touch a wall."""
        return np.any(list(self.touches.values()), 0)

    def corner(self) -> np.ndarray:
        """Objects in a corner, or so near to one that nobody saw between."""
        t = {name: self.there & (gap <= CORNER) for name, gap in self.gaps.items()}
        return (t["left"] | t["right"]) & (t["roof"] | t["floor"])

    def near(self) -> np.ndarray:
        """Objects near a wall that do not touch it."""
        return self.there & np.any([(gap > 0) & (gap <= NEAR) for gap in self.gaps.values()], 0)

    def top(self) -> np.ndarray:
        """The uppermost object of each tower."""
        return self.there & (np.arange(SLOTS) == self.height[:, :, None] - 1)

    def storey(self, k: int) -> np.ndarray:
        return self.there & (np.arange(SLOTS) == k)

    def middle(self) -> np.ndarray:
        return self.there & ~self.top() & ~self.storey(0)

    def over(self, mask: np.ndarray) -> np.ndarray:
        """Blocks with one of `mask` right under them."""
        return self.there & np.concatenate([np.zeros_like(mask[..., :1]), mask[..., :-1]], -1)

    def under(self, mask: np.ndarray) -> np.ndarray:
        """Blocks with one of `mask` right over them."""
        return self.there & np.concatenate([mask[..., 1:], np.zeros_like(mask[..., :1])], -1)

    def run(self, mask: np.ndarray) -> np.ndarray:
        """(P, 3) the most blocks of `mask` in a row."""
        most = current = np.zeros(mask.shape[:2], int)
        for k in range(SLOTS):
            current = (current + 1) * mask[..., k]
            most = np.maximum(most, current)
        return most

    def kinds(self, mask: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(P, 3) how many different `values`, 0 to 2, the objects of `mask` have."""
        return np.sum([(mask & (values == k)).any(2) for k in range(3)], 0)

    def most_alike(self, mask: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(P, 3) the most objects of `mask` that agree in `values`."""
        return np.max([(mask & (values == k)).sum(2) for k in range(3)], 0)

    def at(self, where: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(P, 3) the value of the one object a panel has in `where`; -1 without one."""
        return np.where(where, values, -1).max(2)
