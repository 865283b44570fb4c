"""Masking statistics against the reference's 20,000 trials, and its exact cases through our own counting."""

import json

import numpy as np
import pytest

from data.mask import mask_regions, mask_words
from tests.golden_data import GOLDEN, MASK, TINY

GOLDEN_MASKING = json.loads((GOLDEN / "masking/masking.json").read_text())
TRIALS = 4000


@pytest.mark.parametrize("n", [1, 2, 5, 12, 40])
def test_words_against_reference_statistics(n):
    golden = GOLDEN_MASKING["random_word"][str(n)]
    rng = np.random.default_rng(n)
    tokens = np.arange(20, 20 + n)
    counts = np.zeros(4)  # labelled, to [MASK], to another word, kept
    for _ in range(TRIALS):
        masked, places = mask_words(tokens, MASK, tuple(TINY["_v_range"]), rng)
        assert len(places) >= 1
        untouched = np.setdiff1d(np.arange(n), places)
        assert np.array_equal(masked[untouched], tokens[untouched])
        new = masked[places]
        kept, to_mask = new == tokens[places], new == MASK
        counts += len(places), to_mask.sum(), (~kept & ~to_mask).sum(), kept.sum()
    reference = np.array([golden[key] for key in ("labelled", "to_mask", "to_random", "kept")]) / golden["tokens"]
    ours = counts / (TRIALS * n)
    # Difference of two proportions from independent samples: five standard errors.
    error = 5 * np.sqrt(reference * (1 - reference) * (1 / (TRIALS * n) + 1 / golden["tokens"]))
    assert (np.abs(ours - reference) <= error + 1e-9).all(), (ours, reference)
    assert abs(ours[0] - golden["expected_labelled_rate"]) <= error[0] + 1e-9


def test_random_words_come_from_the_vocabulary_range():
    rng = np.random.default_rng(0)
    masked, places = mask_words(np.full(50_000, 5), MASK, (10, 200), rng)
    drawn = masked[places][(masked[places] != MASK) & (masked[places] != 5)]
    assert drawn.min() == 10 and drawn.max() == 199
    assert len(places) / 50_000 == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("n", [1, 5, 36, 100])
def test_regions_against_reference_statistics(n):
    golden = GOLDEN_MASKING["img_mask"][str(n)]
    rng = np.random.default_rng(n)
    masked = np.array([mask_regions(n, rng).sum() for _ in range(TRIALS)])
    assert masked.min() >= 1
    spread = np.sqrt(max(n * 0.15 * 0.85, 1e-9) / TRIALS)
    assert masked.mean() == pytest.approx(golden["expected_mean"], abs=5 * spread)
    one = golden["p_exactly_one"]
    assert np.mean(masked == 1) == pytest.approx(one, abs=5 * np.sqrt(max(one * (1 - one), 1e-4) / TRIALS))


def test_an_empty_text_has_nothing_to_mask():
    masked, places = mask_words(np.zeros(0, np.int64), MASK, (10, 200), np.random.default_rng(0))
    assert len(masked) == len(places) == 0
