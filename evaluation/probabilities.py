"""Probabilities of each task's outputs, from logits, as its training loss has them."""

from collections.abc import Callable

import numpy as np

from utils.formats import CHOICES, VE_LABELS


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The sigmoid of each element."""
    return np.exp(-np.logaddexp(0, -x))


def softmax(x: np.ndarray) -> np.ndarray:
    """The softmax over the last axis."""
    power = np.exp(x - x.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


def softmax_of_fours(x: np.ndarray) -> np.ndarray:
    """The softmax of each four consecutive elements: VCR's choices."""
    return softmax(x.reshape(-1, CHOICES)).reshape(-1)


# task → (function from logits to probabilities, number of logits per example); None: the number in the first file
PROBABILITIES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int | None]] = {
    "vqa": (sigmoid, None),
    "ve": (sigmoid, len(VE_LABELS)),
    "nlvr2": (softmax, 2),
    "vcr": (softmax_of_fours, CHOICES + CHOICES**2),
    "re": (softmax, None),
}
