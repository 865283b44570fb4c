"""A picture as its three panels, the symmetries that keep a sentence true, and the features the model reads.

Legend: n objects of a picture, r = n + 3 regions: before the objects of each panel, the panel itself.
Objects are (n, 6) int: panel 0..2, paint 0..2, outline 0..2, side in pixels, x and y of the corner within the panel.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.batch import Image
from examples.nlvr1.pixels import CANVAS, OUTLINES, PAINTS, PANEL, PANEL_STEP

PANELS = 3
PANEL_INDEX, PAINT, OUTLINE, SIDE, X, Y = range(6)  # columns of the objects
FREQUENCIES = np.array([1, 2, 4, 8, 16])
RELATIONS = 20  # what an object touches, on which storey it is, what is under and over it
OBJECT_DIM = 10 + RELATIONS + 4 * (3 + 2 * len(FREQUENCIES))
CLASSES, EXTRAS = 162, 5  # of objects; what else is counted of a panel
PANEL_DIM = CLASSES + EXTRAS
IMG_DIM = OBJECT_DIM + PANEL_DIM
# Words with which a symmetry would change the truth, or the meaning: another outline, another direction.
OUTLINE_WORDS = {"block", "blocks", "corner", "corners", "top", "roof", "tip", "side", "tower", "towers"}
UPRIGHT_WORDS = {
    *("above", "base", "below", "beneath", "bottom", "left", "line", "middle", "on", "over", "right", "roof"),
    *("second", "side", "stacked", "third", "top", "under", "underneath"),
}


def objects(words: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Visual words (n, 6) and corners (n, 4) in 0..1 of the picture → objects (n, 6)."""
    x1, y1, x2, _ = np.rint(np.asarray(corners, float) * CANVAS).astype(int).T
    panel, paints = x1 // PANEL_STEP, len(PAINTS)
    paint, outline = words[:, :paints].argmax(1), words[:, paints:].argmax(1)
    return np.stack([panel, paint, outline, x2 - x1, x1 - PANEL_STEP * panel, y1], 1)


def shows_towers(objects: np.ndarray) -> bool:
    """Whether a picture (n, 6) shows towers: squares of one size, one over another."""
    return bool(((objects[:, OUTLINE] == 1) & (objects[:, X] == 40) & (objects[:, SIDE] == 20)).all())


def transform(objects: np.ndarray, words: list[str], rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Another picture and sentence of the same truth: paints, outlines, sides and panels change places in both.

    The paints always; outlines where the sentence is about scattered objects and names nothing that an outline decides;
    left and right always, the other reflections where no word tells up from down.
    """
    objects, distinct_words = objects.copy(), set(words)
    swap: dict[str, str] = {}
    objects[:, PAINT] = _permute(objects[:, PAINT], list(PAINTS), swap, rng)
    towers = shows_towers(objects)
    if not towers and not distinct_words & OUTLINE_WORDS:
        objects[:, OUTLINE] = _permute(objects[:, OUTLINE], list(OUTLINES), swap, rng)
    if rng.random() < 0.5:
        swap |= {"left": "right", "right": "left"}
        objects[:, X] = PANEL - objects[:, X] - objects[:, SIDE]
    if not towers and not distinct_words & UPRIGHT_WORDS:
        if rng.random() < 0.5:
            objects[:, Y] = PANEL - objects[:, Y] - objects[:, SIDE]
        if rng.random() < 0.5:
            objects[:, [X, Y]] = objects[:, [Y, X]]
    objects[:, PANEL_INDEX] = rng.permutation(PANELS)[objects[:, PANEL_INDEX]]
    return objects, [swap.get(word, word) for word in words]


def _permute(values: np.ndarray, names: list[str], swap: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """`values` under a random permutation of `names`, which goes into `swap`, plurals too."""
    order = rng.permutation(len(names))
    for name, other in zip(names, order):
        swap |= {name: names[other], f"{name}s": f"{names[other]}s"}
    return order[values]


def _position_features() -> np.ndarray:
    """(101, 13): a pixel coordinate as nearness to either wall, itself, and waves of five lengths."""
    v = np.arange(PANEL + 1.0)[:, None]
    phase = np.pi * v * FREQUENCIES / PANEL
    return np.concatenate([np.exp(-v / 3), np.exp(-(PANEL - v) / 3), v / 50 - 1, np.cos(phase), np.sin(phase)], 1)


POSITION_FEATURES = _position_features()


def describe(objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objects (n, 6) → their raw features (n, OBJECT_DIM), and what is counted of each (n, CLASSES)."""
    _, paint, outline, side, x, y = objects.T
    x2, y2, size, rows = x + side, y + side, np.minimum(side // 10 - 1, 2), np.arange(len(objects))
    raw = np.zeros((len(objects), OBJECT_DIM))
    for first, value in ((0, paint), (3, outline), (6, size)):
        raw[rows, first + value] = 1
    raw[:, 10 : 10 + RELATIONS] = _relations(objects)
    raw[:, 10 + RELATIONS :] = np.concatenate([POSITION_FEATURES[np.minimum(v, PANEL)] for v in (x, y, x2, y2)], 1)
    return raw, _class_memberships(objects)


def _relations(objects: np.ndarray) -> np.ndarray:
    """(n, RELATIONS): walls touched, any of them, a corner, uppermost; storey (4); paint under it, over it; none."""
    _, paint, _, side, x, y = objects.T
    left, right, roof, floor = x <= 0, x + side >= PANEL, y <= 0, y + side >= PANEL
    storey, below = np.minimum((PANEL - y - side) // 20, 3), _below(objects)
    relations, rows = np.zeros((len(objects), RELATIONS)), np.arange(len(objects))
    corner = (left | right) & (roof | floor)
    relations[:, :7] = np.stack([left, right, roof, floor, left | right | roof | floor, corner, _top(objects)], 1)
    relations[rows, 7 + storey] = 1
    has_support = below >= 0
    relations[rows[has_support], 11 + paint[below[has_support]]] = 1
    relations[below[has_support], 14 + paint[has_support]] = 1
    relations[:, 17], relations[:, 18] = ~has_support, relations[:, 14:17].sum(1) == 0
    relations[:, 19] = relations[:, 17] + relations[:, 18] == 0
    return relations


def _class_memberships(objects: np.ndarray) -> np.ndarray:
    """(n, CLASSES): the classes each object belongs to, by what it is, where it is and what it stands on."""
    _, paint, outline, side, x, y = objects.T
    size, figure = np.minimum(side // 10 - 1, 2), 3 * paint + outline
    any_object = np.zeros(len(objects), int)
    walls = left, right, roof, floor = x <= 0, x + side >= PANEL, y <= 0, y + side >= PANEL
    touches_wall, storey, below = np.any(walls, 0), np.minimum((PANEL - y - side) // 20, 3), _below(objects)
    corner = (left | right) & (roof | floor)
    # Of each block of classes: how many there are, which of them an object belongs to, and on which condition.
    blocks: list[tuple[int, np.ndarray, np.ndarray | bool]] = [
        (3, size, True),
        (12, 3 * storey + paint, True),
        (3, paint, _top(objects)),
        (9, 3 * paint + paint[below], below >= 0),
        (1, any_object, storey > 2),
    ]
    for k in range(3):
        blocks += [(1, any_object, paint != k), (1, any_object, outline != k)]
    for condition in (any_object == 0, touches_wall, ~touches_wall, corner, *walls):
        blocks += [(9, figure, condition), (3, paint, condition), (3, outline, condition), (1, any_object, condition)]
    memberships, first = np.zeros((len(objects), CLASSES)), 0
    for count_, index, condition_ in blocks:
        memberships[np.arange(len(objects)), first + index] += condition_
        first += count_
    assert first == CLASSES, first
    return memberships


def _top(objects: np.ndarray) -> np.ndarray:
    """(n,) bool: the highest object of its panel."""
    highest = np.full(PANELS, 2 * PANEL)
    np.minimum.at(highest, objects[:, PANEL_INDEX], objects[:, Y])
    return objects[:, Y] == highest[objects[:, PANEL_INDEX]]


def _below(objects: np.ndarray) -> np.ndarray:
    """(n,) the object that each stands on, a pixel or two under it; -1 where it stands on none."""
    x, y, side = objects[:, X], objects[:, Y], objects[:, SIDE]
    gap = y[None] - (y + side)[:, None]  # from the foot of the row's object to the head of the column's
    no_overlap = (x[None] >= (x + side)[:, None]) | (x[:, None] >= (x + side)[None])
    same_panel = objects[:, PANEL_INDEX, None] == objects[None, :, PANEL_INDEX]
    stands_on = same_panel & ~no_overlap & (gap >= 0) & (gap <= 2)
    return np.where(stands_on.any(1), stands_on.argmax(1), -1)


def count(objects: np.ndarray, memberships: np.ndarray) -> np.ndarray:
    """Objects (n, 6) and their classes (n, CLASSES) → (3, PANEL_DIM): how many of each class a panel has.

    Last how many paints, outlines and sizes there are, and how many objects share the commonest paint and outline.
    """
    in_panel = (objects[:, PANEL_INDEX] == np.arange(PANELS)[:, None]).astype(float)
    values = np.stack([objects[:, PAINT], objects[:, OUTLINE], np.minimum(objects[:, SIDE] // 10 - 1, 2)])
    of_each = np.einsum("pn,vnk->pvk", in_panel, (values[:, :, None] == np.arange(3)).astype(float))
    return np.concatenate([in_panel @ memberships, (of_each > 0).sum(2), of_each[:, :2].max(2)], 1)


@dataclass
class Scale:
    """What makes features comparable, learned from the training pictures; without it small differences drown."""

    object_mean: np.ndarray  # (OBJECT_DIM,)
    object_scale: np.ndarray  # (OBJECT_DIM,)

    @classmethod
    def fit(cls, pictures: list[np.ndarray]) -> "Scale":
        """From the objects of many pictures."""
        raw = np.concatenate([describe(picture)[0] for picture in pictures])
        weights = np.where(np.arange(OBJECT_DIM) < 9, 2.0, 1.0)  # what it is counts twice as much as where
        return cls(raw.mean(0), weights / (raw.std(0) + 0.05))

    @classmethod
    def load(cls, path: str | Path) -> "Scale":
        """Read the arrays that `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(**{name: file[name] for name in file.files})

    def save(self, path: str | Path) -> None:
        """Write all arrays to an .npz file."""
        np.savez(path, **vars(self))

    def images(self, objects: np.ndarray, key: object) -> list[Image]:
        """The three panels of a picture, each as an `Image`: region 0 is the whole panel, the others are its objects.

        Boxes are relative to the panel. `objects`: the picture's objects, one a row; `key`: identifies the picture.
        """
        raw, memberships = describe(objects)
        features = (raw - self.object_mean) * self.object_scale
        counts = count(objects, memberships)
        x, y, side = (objects[:, column] / PANEL for column in (X, Y, SIDE))
        pos = np.stack([x, y, x + side, y + side, side, side, side * side], 1)
        images = []
        for panel in range(PANELS):
            in_panel = objects[:, PANEL_INDEX] == panel
            feat = np.zeros((1 + in_panel.sum(), IMG_DIM), np.float16)
            feat[0, 9], feat[0, OBJECT_DIM:], feat[1:, :OBJECT_DIM] = 3, counts[panel], features[in_panel]
            boxes = np.concatenate([[[0, 0, 1, 1, 1, 1, 1]], pos[in_panel]]).astype(np.float32)
            images.append(Image(key=(key, panel), feat=feat, pos=boxes))
        return images
