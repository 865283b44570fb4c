"""What statements are judged against: many pictures at once, as arrays over pictures, panels and objects.

Legend: P pictures, 3 panels, S slots, one an object, those of a panel from the floor up.
A set of objects is a mask (P, 3, S), a set of panels (P, 3), a truth (P,).
"""

import numpy as np

from examples.nlvr1.panels import PANEL_INDEX, PANELS, SIDE, Y
from examples.nlvr1.pixels import PANEL

SLOTS = 8  # objects of a panel, at most
CORNER, NEAR = 2, 6  # pixels: what is in a corner, and what nearly touches, is at most that far off


class Scene:
    """P pictures. Whatever has no object has no place in any mask."""

    def __init__(self, pictures: list[np.ndarray]):
        """`pictures`: objects (n, 6) of each (panels.py)."""
        table = np.full((len(pictures), PANELS, SLOTS, 6), -1)
        for slots, picture in zip(table, pictures):
            for panel in range(PANELS):
                objects = picture[picture[:, PANEL_INDEX] == panel]
                order = np.argsort(-(objects[:, Y] + objects[:, SIDE]), kind="stable")
                slots[panel, : len(objects)] = objects[order]
        _, self.paint, self.outline, self.side, x, y = np.moveaxis(table, -1, 0)
        self.all_objects = self.paint >= 0  # (P, 3, S) the slots with an object
        self.gaps = {"left": x, "right": PANEL - x - self.side, "roof": y, "floor": PANEL - y - self.side}
        self.touches = {name: self.all_objects & (gap <= 0) for name, gap in self.gaps.items()}
        self.height = self.all_objects.sum(2)  # (P, 3) objects of each panel

    def wall(self) -> np.ndarray:
        """Objects that touch a wall."""
        return np.any(list(self.touches.values()), 0)

    def corner(self) -> np.ndarray:
        """Objects in a corner, or so near to one that nobody saw between."""
        close = {name: self.all_objects & (gap <= CORNER) for name, gap in self.gaps.items()}
        return (close["left"] | close["right"]) & (close["roof"] | close["floor"])

    def near_wall(self) -> np.ndarray:
        """Objects near a wall that do not touch it."""
        return self.all_objects & np.any([(gap > 0) & (gap <= NEAR) for gap in self.gaps.values()], 0)

    def top(self) -> np.ndarray:
        """The uppermost object of each tower."""
        return self.all_objects & (np.arange(SLOTS) == self.height[:, :, None] - 1)

    def storey(self, k: int) -> np.ndarray:
        """The objects at height `k` of their towers, 0 being the lowest."""
        return self.all_objects & (np.arange(SLOTS) == k)

    def middle(self) -> np.ndarray:
        """The objects that are neither the lowest nor the uppermost of their tower."""
        return self.all_objects & ~self.top() & ~self.storey(0)

    def over(self, mask: np.ndarray) -> np.ndarray:
        """Blocks with one of `mask` right under them."""
        return self.all_objects & np.concatenate([np.zeros_like(mask[..., :1]), mask[..., :-1]], -1)

    def under(self, mask: np.ndarray) -> np.ndarray:
        """Blocks with one of `mask` right over them."""
        return self.all_objects & np.concatenate([mask[..., 1:], np.zeros_like(mask[..., :1])], -1)

    def longest_run(self, mask: np.ndarray) -> np.ndarray:
        """(P, 3) the most blocks of `mask` in a row."""
        most = current = np.zeros(mask.shape[:2], int)
        for k in range(SLOTS):
            current = (current + 1) * mask[..., k]
            most = np.maximum(most, current)
        return most

    def value_count(self, mask: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(P, 3) how many different `values`, 0 to 2, the objects of `mask` have."""
        return np.sum([(mask & (values == k)).any(2) for k in range(3)], 0)

    def commonest_count(self, mask: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(P, 3) the most objects of `mask` that agree in `values`."""
        return np.max([(mask & (values == k)).sum(2) for k in range(3)], 0)

    def value_in(self, mask: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(P, 3) the value of the one object of `mask` in each panel; -1 without one."""
        return np.where(mask, values, -1).max(2)
