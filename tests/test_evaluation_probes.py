"""Linear probes of a model's states."""

import numpy as np
import pytest

from evaluation.probes import accuracy, effective_rank, r_squared

RNG = np.random.default_rng(0)
STATES = RNG.standard_normal((2000, 16))
TEST = np.arange(2000) % 2 == 0


def test_a_probe_reads_what_the_states_hold_and_nothing_else():
    values = STATES @ RNG.standard_normal((16, 3)) + 5
    noise = RNG.standard_normal((2000, 3))
    assert r_squared(STATES, values, TEST) == pytest.approx([1, 1, 1], abs=1e-3)
    assert np.abs(r_squared(STATES, noise, TEST)).max() < 0.05
    half = r_squared(STATES, values / values.std(0) + noise, TEST)  # as much noise as signal
    assert half == pytest.approx([0.5, 0.5, 0.5], abs=0.07)


def test_a_constant_part_of_the_states_changes_nothing():
    values = STATES[:, :2]
    assert r_squared(STATES + 1000, values, TEST) == pytest.approx(r_squared(STATES, values, TEST), abs=1e-6)


def test_a_probe_of_classes():
    labels = STATES[:, :4].argmax(1)
    assert accuracy(STATES, labels, TEST) > 0.85
    assert accuracy(STATES[:, 4:], labels, TEST) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("directions", [1, 4, 16])
def test_the_effective_rank_counts_directions(directions):
    states = RNG.standard_normal((4000, directions)) @ np.linalg.qr(RNG.standard_normal((32, 32)))[0][:directions]
    assert effective_rank(states) == pytest.approx(directions, rel=0.02)
