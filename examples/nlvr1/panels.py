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
WHERE, PAINT, OUTLINE, SIDE, X, Y = range(6)  # columns; the first is the panel
FREQUENCIES = np.array([1, 2, 4, 8, 16])
OBJECT_DIM = 10 + 4 * (3 + 2 * len(FREQUENCIES))
COUNTS, MOST = 44, 6  # what is counted in a panel, and up to how many
PANEL_DIM = 96  # principal components of the counts
IMG_DIM = OBJECT_DIM + PANEL_DIM
# Words with which a symmetry would change the truth, or the meaning.
NO_OUTLINES = set("block blocks corner corners top roof tip side tower towers".split())
UPRIGHT = set(
    "top bottom base above below over on under underneath beneath roof left right side line second third middle "
    "stacked".split()
)


def objects(words: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Visual words (n, 6) and corners (n, 4) in 0..1 of the picture → objects (n, 6)."""
    x1, y1, x2, _ = np.rint(np.asarray(corners, float) * CANVAS).astype(int).T
    panel, paints = x1 // PANEL_STEP, len(PAINTS)
    paint, outline = words[:, :paints].argmax(1), words[:, paints:].argmax(1)
    return np.stack([panel, paint, outline, x2 - x1, x1 - PANEL_STEP * panel, y1], 1)


def transform(
    objects: np.ndarray, words: list[str], rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Another picture and sentence of the same truth: paints, outlines, sides and panels change places in both.

    The paints always; outlines where the sentence is about scattered objects and names nothing that an outline decides;
    left and right always, the other reflections where no word tells up from down.
    """
    objects, used = objects.copy(), set(words)
    swap: dict[str, str] = {}
    objects[:, PAINT] = _permute(objects[:, PAINT], list(PAINTS), swap, rng)
    stacked = bool(((objects[:, OUTLINE] == 1) & (objects[:, X] == 40) & (objects[:, SIDE] == 20)).all())
    if not stacked and not used & NO_OUTLINES:
        objects[:, OUTLINE] = _permute(objects[:, OUTLINE], list(OUTLINES), swap, rng)
    if rng.random() < 0.5:
        swap |= {"left": "right", "right": "left"}
        objects[:, X] = PANEL - objects[:, X] - objects[:, SIDE]
    if not stacked and not used & UPRIGHT:
        if rng.random() < 0.5:
            objects[:, Y] = PANEL - objects[:, Y] - objects[:, SIDE]
        if rng.random() < 0.5:
            objects[:, [X, Y]] = objects[:, [Y, X]]
    objects[:, WHERE] = rng.permutation(PANELS)[objects[:, WHERE]]
    return objects, [swap.get(word, word) for word in words]


def _permute(values: np.ndarray, names: list[str], swap: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """`values` under a random permutation of `names`, which goes into `swap`, plurals too."""
    order = rng.permutation(len(names))
    for name, other in zip(names, order):
        swap |= {name: names[other], f"{name}s": f"{names[other]}s"}
    return order[values]


def _places() -> np.ndarray:
    """(101, 13): a pixel coordinate as nearness to either wall, itself, and waves of five lengths."""
    v = np.arange(PANEL + 1.0)[:, None]
    phase = np.pi * v * FREQUENCIES / PANEL
    return np.concatenate([np.exp(-v / 3), np.exp(-(PANEL - v) / 3), v / 50 - 1, np.cos(phase), np.sin(phase)], 1)


PLACES = _places()


def describe(objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objects (n, 6) → their raw features (n, OBJECT_DIM), and what is counted of each (n, COUNTS)."""
    _, paint, outline, side, x, y = objects.T
    x2, y2, size, at = x + side, y + side, np.minimum(side // 10 - 1, 2), np.arange(len(objects))
    raw = np.zeros((len(objects), OBJECT_DIM))
    for first, value in ((0, paint), (3, outline), (6, size)):
        raw[at, first + value] = 1
    raw[:, 10:] = np.concatenate([PLACES[np.minimum(v, PANEL)] for v in (x, y, x2, y2)], 1)
    touching = np.minimum.reduce([x, y, PANEL - x2, PANEL - y2]) <= 0
    floor, storey = y2 >= PANEL, np.minimum((PANEL - y2) // 20, 4)
    counted = np.zeros((len(objects), COUNTS))
    for first, value, when in (
        *((0, paint, True), (3, outline, True), (6, size, True), (9, 3 * paint + outline, True), (18, 0 * paint, True)),
        *((19, paint, touching), (22, outline, touching), (25, 0 * paint, touching)),
        *((26, paint, floor), (29, 3 * storey + paint, True)),
    ):
        counted[at, first + value] += when
    return raw, counted


def count(counted: np.ndarray, panel: np.ndarray) -> np.ndarray:
    """(n, COUNTS) and panels (n,) → (3, COUNTS × MOST): of each panel, whether there are 1, 2 … of everything."""
    totals = np.zeros((PANELS, COUNTS))
    np.add.at(totals, panel, counted)
    return (totals[:, :, None] >= np.arange(1, MOST + 1)).reshape(PANELS, -1).astype(float)


@dataclass
class Scale:
    """What makes features comparable, learned from the training pictures; without it small differences drown."""

    object_mean: np.ndarray  # (OBJECT_DIM,)
    object_scale: np.ndarray  # (OBJECT_DIM,)
    panel_mean: np.ndarray  # (COUNTS × MOST,)
    panel_map: np.ndarray  # (COUNTS × MOST, PANEL_DIM), whitening

    @classmethod
    def fit(cls, pictures: list[np.ndarray]) -> "Scale":
        """From the objects of many pictures."""
        described = [describe(picture) for picture in pictures]
        raw = np.concatenate([features for features, _ in described])
        panels = np.concatenate([count(c, picture[:, WHERE]) for (_, c), picture in zip(described, pictures)])
        mean = panels.mean(0)
        values, vectors = np.linalg.eigh(np.cov((panels - mean).T))
        top = np.argsort(-values)[:PANEL_DIM]
        look = np.where(np.arange(OBJECT_DIM) < 9, 2.0, 1.0)  # what it is counts twice as much as where
        whitening = vectors[:, top] / np.sqrt(np.maximum(values[top], 0) + 0.02)
        return cls(raw.mean(0), look / (raw.std(0) + 0.05), mean, whitening)

    @classmethod
    def load(cls, path: str | Path) -> "Scale":
        with np.load(path, allow_pickle=False) as file:
            return cls(**{name: file[name] for name in file.files})

    def save(self, path: str | Path) -> None:
        np.savez(path, **vars(self))

    def images(self, objects: np.ndarray, key: object) -> list[Image]:
        """The three panels of a picture, each as the regions of an image with boxes relative to the panel."""
        raw, counted = describe(objects)
        looks = (raw - self.object_mean) * self.object_scale
        summary = (count(counted, objects[:, WHERE]) - self.panel_mean) @ self.panel_map
        x, y, side = (objects[:, column] / PANEL for column in (X, Y, SIDE))
        pos = np.stack([x, y, x + side, y + side, side, side, side * side], 1)
        found = []
        for panel in range(PANELS):
            here = objects[:, WHERE] == panel
            feat = np.zeros((1 + here.sum(), IMG_DIM), np.float16)
            feat[0, 9], feat[0, OBJECT_DIM:], feat[1:, :OBJECT_DIM] = 3, summary[panel], looks[here]
            boxes = np.concatenate([[[0, 0, 1, 1, 1, 1, 1]], pos[here]]).astype(np.float32)
            found.append(Image((key, panel), feat, boxes))
        return found
