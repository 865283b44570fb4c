"""Randomness as an argument: every random choice is a function of a key (DESIGN section 5)."""

import zlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """A generator that depends on `key` alone: seeds, epochs, batch numbers, ids and purposes as words."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part & (2**63 - 1) for part in key]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def torch_seed(*key: int | str) -> int:
    """A seed for `torch.manual_seed`, from the same kind of key."""
    return int(generator(*key).integers(2**62))
