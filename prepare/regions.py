"""Region features without a detector: a fixed descriptor of a crop, projected to 2048 numbers by a fixed matrix.

The descriptor holds what a crop looks like (colours, texture, the outline of the figure), not what it shows. That is
enough to run, test and train on any image, but much weaker than the features of a detector.

Legend: n boxes, F descriptor length.
"""

from functools import cache

import numpy as np
from PIL import Image

from data.rng import generator
from utils.formats import IMG_DIM, IMG_LABEL_DIM

VERSION = 2  # of the descriptor: another number for other features. 1 weighted parts by how many numbers they have
CROP = 32  # side of a resized crop in pixels; the box fills the middle 24
INNER = slice(4, 28)
GRID_SIDES = (1, 2, 3, 4)  # cells per side: 1 + 4 + 9 + 16 boxes, and 6 halves and middle bands


def crops(image: Image.Image, boxes: np.ndarray) -> np.ndarray:
    """Cut out boxes: (n, 4) x1, y1, x2, y2 in pixels → (n, CROP, CROP, 3) in 0..1.

    A crop includes a margin of a sixth of the box's size on each side.
    """
    pad = (boxes[:, 2:] - boxes[:, :2]) / 6
    wide = np.concatenate([boxes[:, :2] - pad, boxes[:, 2:] + pad], 1)
    limit = np.array([image.width, image.height] * 2, float)
    wide = np.clip(wide, 0, limit)
    wide[:, :2] = np.minimum(wide[:, :2], limit[2:] - 1)
    wide[:, 2:] = np.maximum(wide[:, 2:], wide[:, :2] + 1)
    patches = [image.resize((CROP, CROP), Image.Resampling.BILINEAR, tuple(box), reducing_gap=2.0) for box in wide]
    return np.stack([np.asarray(patch, np.float32) for patch in patches]) / 255


def describe(patches: np.ndarray) -> np.ndarray:
    """Describe crops: (n, CROP, CROP, 3) → (n, F).

    The parts: thumbnail, outline of the figure, mean colours of figure and ground, colour histogram, texture, profile.
    """
    return np.concatenate(_parts(patches), 1).astype(np.float32)


def _parts(patches: np.ndarray) -> list[np.ndarray]:
    """The parts of the descriptors, each (n, length of the part)."""
    n = len(patches)
    rim = np.concatenate([patches[:, :2].reshape(n, -1, 3), patches[:, -2:].reshape(n, -1, 3)], 1)
    ground = np.median(rim, axis=1)  # (n, 3)
    inner = patches[:, INNER, INNER]
    figure = 1 - np.exp(
        -((inner - ground[:, None, None]) ** 2).sum(-1) / 0.03
    )  # (n, 24, 24), 1 where it differs from the ground
    weight = figure + 1e-3
    total = weight.sum((1, 2))[:, None]
    color = np.einsum("nhw,nhwc->nc", weight, inner) / total
    gray = inner.mean(-1)
    return [
        (_pool(inner, 3) - 0.5).reshape(n, -1),  # thumbnail, 8 × 8 × 3
        2 * (_pool(figure[..., None], 2) - 0.5).reshape(n, -1),  # outline, 12 × 12
        6 * (color - 0.5),
        3 * (ground - 0.5),
        4 * _color_histogram(inner, weight, total),
        3 * _texture(gray, weight, total),
        3 * _profile(figure),
    ]


def _pool(x: np.ndarray, k: int) -> np.ndarray:
    """(n, 24, 24, c) → means over cells of k × k pixels."""
    side = x.shape[1] // k
    return x.reshape(len(x), side, k, side, k, -1).mean((2, 4))


def _color_histogram(inner: np.ndarray, weight: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(n, 27): share of the figure in each colour; a channel has three soft levels."""
    levels = np.exp(-((inner[..., None] - np.array([0.1, 0.5, 0.9])) ** 2) / 0.06)
    levels /= levels.sum(-1, keepdims=True)
    joint = np.einsum("nhwa,nhwb,nhwc,nhw->nabc", levels[..., 0, :], levels[..., 1, :], levels[..., 2, :], weight)
    return joint.reshape(len(inner), 27) / total


def _texture(gray: np.ndarray, weight: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(n, 12): edge orientations, edge strength and the spread of brightness at two scales, all inside the figure."""
    dy, dx = np.gradient(gray, axis=(1, 2))
    strength = np.hypot(dx, dy)
    interior = np.minimum.reduce([np.roll(weight, shift, axis) for axis in (1, 2) for shift in (-1, 1)])
    bins = ((np.arctan2(dy, dx) % np.pi) / np.pi * 8).astype(int) % 8
    orientations = np.stack([((bins == k) * strength * interior).sum((1, 2)) for k in range(8)], 1) / total
    mean = (gray * weight).sum((1, 2), keepdims=True) / total[:, :, None]
    spread = np.sqrt((weight * (gray - mean) ** 2).sum((1, 2)) / total[:, 0])
    smooth = (gray + sum(np.roll(gray, s, a) for a in (1, 2) for s in (-1, 1))) / 5
    fine = np.sqrt((interior * (gray - smooth) ** 2).sum((1, 2)) / total[:, 0])
    edges = (strength * interior).sum((1, 2)) / total[:, 0]
    return np.concatenate(
        [8 * orientations, np.stack([4 * spread, 10 * fine, 5 * edges, 4 * fine / (spread + 0.05)], 1)], 1
    )


def _profile(figure: np.ndarray) -> np.ndarray:
    """(n, 9): share of the figure in six rings around the centre, its area, and its balance left-right and up-down."""
    y, x = np.mgrid[:24, :24] - 11.5
    radius = np.hypot(x, y)
    rings = [(radius >= lo) & (radius < lo + 2.5) for lo in np.arange(0, 15, 2.5)]
    full = [figure[:, ring].mean(1) for ring in rings]
    area = figure.mean((1, 2)) + 1e-3
    return np.stack([*full, area, *((figure * v).mean((1, 2)) / (6 * area) for v in (x, y))], 1)


@cache
def _matrix(length: int) -> np.ndarray:
    """(F, IMG_DIM): a fixed random projection that approximately preserves distances."""
    return (generator("projection", length).standard_normal((length, IMG_DIM)) / np.sqrt(length)).astype(np.float32)


@cache
def _scale() -> tuple[np.ndarray, np.ndarray]:
    """(F,) means and standard deviations of the codebook's descriptors."""
    return codebook().mean(0), codebook().std(0) + 0.05


def project(descriptors: np.ndarray) -> np.ndarray:
    """Project descriptors to features: (n, F) → (n, IMG_DIM), normalised by the codebook, then by a fixed matrix."""
    mean, spread = _scale()
    return (descriptors - mean) / spread * _weights() @ _matrix(descriptors.shape[1])


@cache
def _weights() -> np.ndarray:
    """(F,) weights after which every part has the same share of the variance, however many numbers it has.

    Without them the thumbnail and the outline are 83 % of the features of the demo's images, texture and mean colour
    2 %, which a model then learns very late.
    """
    lengths = [part.shape[1] for part in _parts(np.zeros((1, CROP, CROP, 3), np.float32))]
    return np.concatenate([np.full(k, np.sqrt(sum(lengths) / len(lengths) / k), np.float32) for k in lengths])


def grid_boxes(width: float, height: float) -> np.ndarray:
    """(36, 4) boxes in pixels that cover an image: cells at four scales, halves and the two middle bands."""
    cells = [(c / k, r / k, (c + 1) / k, (r + 1) / k) for k in GRID_SIDES for r in range(k) for c in range(k)]
    bands = [(0, 0, 1, 0.5), (0, 0.5, 1, 1), (0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0.25, 1, 0.75), (0.25, 0, 0.75, 1)]
    return np.array(cells + bands) * np.array([width, height, width, height])


@cache
def codebook() -> np.ndarray:
    """(1600, F) centroids of pseudo-classes, for images without classes: descriptors of random crops from a fixed seed.

    A crop is a coloured blob, disc, bar or block, with or without stripes, on another colour. The centroids are not
    object classes, but they cover many looks of a crop.
    """
    rng = generator("codebook")
    n = IMG_LABEL_DIM - 1
    y, x = np.mgrid[:CROP, :CROP] / CROP - 0.5
    angle, scale = rng.uniform(0, np.pi, n)[:, None, None], rng.uniform(0.15, 0.5, (n, 2))[:, :, None, None]
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    power = rng.choice([1, 2, 6], n)[:, None, None]
    blob = np.abs(u / scale[:, 0]) ** power + np.abs(v / scale[:, 1]) ** power < 1
    stripes = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * u * rng.uniform(2, 9, n)[:, None, None]))
    shade = 1 - stripes * (rng.random(n) < 0.4)[:, None, None] * rng.uniform(0.2, 0.7, n)[:, None, None]
    front, back = rng.random((2, n, 1, 1, 3))
    patches = np.where(blob[..., None], front * shade[..., None], back)
    noise = rng.normal(0, 1, patches.shape) * rng.uniform(0, 0.1, n)[:, None, None, None]
    return describe(np.clip(patches + noise, 0, 1).astype(np.float32))


def pseudo_classes(descriptors: np.ndarray, temperature: float = 8.0) -> np.ndarray:
    """Soft labels over the codebook: (n, F) → (n, IMG_LABEL_DIM), the softmax of minus the squared distances.

    Background, the first label, gets zero.
    """
    centroids = codebook()
    squared = (descriptors**2).sum(1)[:, None] + (centroids**2).sum(1)[None] - 2 * descriptors @ centroids.T
    scores = np.exp(-(squared - squared.min(1, keepdims=True)) / temperature)
    return np.pad(scores / scores.sum(1, keepdims=True), ((0, 0), (1, 0)))


def soft_labels(classes: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Soft labels from classes 1.. (n,) and confidences (n,): (n, IMG_LABEL_DIM).

    The class gets its confidence; the rest is spread evenly over all labels.
    """
    labels = np.repeat(((1 - confidence) / IMG_LABEL_DIM)[:, None], IMG_LABEL_DIM, axis=1)
    labels[np.arange(len(classes)), classes] += confidence
    return labels
