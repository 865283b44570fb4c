"""Random masks of words and regions: 15 % of each, and of the chosen words 80/10/10 % (paper section 3.2, footnote 7).

Beyond the paper, and as in the release, at least one word or region of an example is masked.
"""

import numpy as np

PROBABILITY = 0.15  # paper section 3.2


def mask_words(
    tokens: np.ndarray, mask_id: int, v_range: tuple[int, int], rng: np.random.Generator, p: float = PROBABILITY
) -> tuple[np.ndarray, np.ndarray]:
    """Mask word pieces: returns a masked copy (n,) of `tokens` and the positions (m,) of the chosen ones.

    `tokens` (n,) come without [CLS] and [SEP]. Each is chosen with probability `p`. Of the chosen ones 80 % become
    [MASK], 10 % a random word piece of `v_range`, and 10 % stay unchanged. When none is chosen, the first token becomes
    [MASK], so that every example has something to predict. An empty text stays empty.
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
    """(n,) bool, True where a region is masked: each with probability `p`, or one at random when none is chosen."""
    mask = rng.random(n) < p
    if n and not mask.any():
        mask[rng.integers(n)] = True
    return mask
