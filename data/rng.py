"""Random generators from keys: every random choice is a function of its key (DESIGN section 5).

Two purposes need two keys: generators of equal keys give equal numbers, which would tie one choice to the other.
"""

import zlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """A generator that depends on `key` only. A key has seeds, epochs, numbers and ids, and a word for the purpose."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part & (2**63 - 1) for part in key]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def torch_seed(*key: int | str) -> int:
    """A seed for `torch.manual_seed` that depends on `key` only."""
    return int(generator(*key).integers(2**62))
