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
    places = np.flatnonzero(rng.random(len(tokens)) < p)
    result = tokens.copy()
    if len(places) == 0:
        result[:1] = mask_id
        return result, np.arange(min(1, len(tokens)))
    uniform = rng.random(len(places))
    low, high = v_range
    words = rng.integers(low, high, size=len(places))
    result[places] = np.where(uniform < 0.8, mask_id, np.where(uniform < 0.9, words, tokens[places]))
    return result, places


def mask_regions(n: int, rng: np.random.Generator, p: float = PROBABILITY) -> np.ndarray:
    """(n,) bool, True where a region is masked: each with probability `p`, one at random where that gave none."""
    mask = rng.random(n) < p
    if n and not mask.any():
        mask[rng.integers(n)] = True
    return mask
