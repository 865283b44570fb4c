"""Visual words: what a box shows, read off its pixels: which paint, and which outline.

Legend: n boxes.
"""

import numpy as np

CANVAS = np.array([400, 100, 400, 100])  # pixels; three panels of 100 with 50 between them
PANEL_STEP, PANEL = 150, 100
PAINTS = {"black": (0, 0, 0), "blue": (0, 153, 255), "yellow": (255, 255, 0)}
OUTLINES = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5}  # the share of its box that each fills
VISUAL_WORDS = len(PAINTS) + len(OUTLINES)


class VisualWords:
    """Descriptors of crops. The descriptor of a crop is kept, so that the same crop is described once."""

    def __init__(self) -> None:
        self._descriptors: dict[bytes, np.ndarray] = {}

    def of(self, picture: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """(100, 400, 3) uint8 and (n, 4) int corners in pixels → (n, 6): shares of paints, nearness to outlines.

        Swapping two paints of the picture swaps two columns, so that a dataset may recolour without drawing again.
        """
        descriptors = []
        for x1, y1, x2, y2 in boxes:
            crop = picture[y1:y2, x1:x2].reshape(-1, 3)
            key = crop.tobytes()
            if key not in self._descriptors:
                self._descriptors[key] = _describe(crop.astype(float))
            descriptors.append(self._descriptors[key])
        return np.stack(descriptors)


def _describe(crop: np.ndarray) -> np.ndarray:
    """(pixels, 3) → (6,)."""
    figure = crop[(np.ptp(crop, axis=1) > 8) | (crop.mean(1) < 64)]  # the ground is a light grey
    paints, fills = np.array(list(PAINTS.values()), float), np.array(list(OUTLINES.values()))
    nearest = ((figure[:, None] - paints) ** 2).sum(-1).argmin(1)
    shares = np.bincount(nearest, minlength=len(paints)) / max(1, len(figure))
    outlines = np.exp(-(((len(figure) / len(crop) - fills) / 0.08) ** 2))
    return np.concatenate([shares, outlines]).astype(np.float32)
