"""Which words and regions are masked (paper section 3.2: 15 %, words 80/10/10, at least one)."""

import numpy as np

PROBABILITY = 0.15


def mask_words(
    tokens: np.ndarray, mask_id: int, v_range: tuple[int, int], rng: np.random.Generator, p: float = PROBABILITY
) -> tuple[np.ndarray, np.ndarray]:
    """Mask word pieces: `tokens` (n,) without [CLS] and [SEP] → masked copy (n,), places (m,) of the masked ones.

    Each is chosen with probability `p`; of the chosen, 80 % become [MASK], 10 % a random word piece of `v_range`, 10 %
    stay. Where none is chosen the first becomes [MASK]: every example has something to predict. An empty text stays
    empty.
    """
    chosen = np.flatnonzero(rng.random(len(tokens)) < p)
    masked = tokens.copy()
    if len(chosen) == 0:
        masked[:1] = mask_id
        return masked, np.arange(min(1, len(tokens)))
    kind = rng.random(len(chosen))
    words = rng.integers(*v_range, size=len(chosen))
    masked[chosen] = np.where(kind < 0.8, mask_id, np.where(kind < 0.9, words, tokens[chosen]))
    return masked, chosen


def mask_regions(n: int, rng: np.random.Generator, p: float = PROBABILITY) -> np.ndarray:
    """(n,) bool, True where a region is masked: each with probability `p`, one at random where that gave none."""
    masked = rng.random(n) < p
    if n and not masked.any():
        masked[rng.integers(n)] = True
    return masked
