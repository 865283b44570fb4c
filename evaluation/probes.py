"""Linear probes: what can be read from a model's states by one linear layer, and how many directions they use.

A probe is a ridge regression, fitted on one half of the rows and tested on the other. Legend: n rows, H width of a
state, k values to read.
"""

import numpy as np

RIDGE = 1e-3  # share of the states' mean variance that is added to every direction, so that no direction is amplified


def r_squared(states: np.ndarray, values: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(k,) R², the share of each value's variance that a probe explains: 1 is all; 0, and less, is nothing.

    `states` (n, H), `values` (n, k), `test` (n,) bool: the rows that the probe is tested on.
    """
    errors = ((_predictions(states, values, test) - values[test]) ** 2).mean(0)
    return 1 - errors / np.maximum(values[test].var(0), 1e-12)


def accuracy(states: np.ndarray, labels: np.ndarray, test: np.ndarray) -> float:
    """The share of labels (n,) int that a probe finds: the class of the highest of its values, one for each class."""
    predictions = _predictions(states, np.eye(labels.max() + 1)[labels], test)
    return float((predictions.argmax(1) == labels[test]).mean())


def effective_rank(states: np.ndarray) -> float:
    """The number of directions that states (n, H) use: exp of the entropy of their covariance's spectrum, 1 to H."""
    spectrum = np.linalg.eigvalsh(np.cov(states.astype(np.float64), rowvar=False)).clip(min=0)
    shares = spectrum[spectrum > 0] / spectrum.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _predictions(states: np.ndarray, values: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(m, k) what a probe that was fitted on the other rows predicts for the m test rows."""
    x, y = states.astype(np.float64), values.astype(np.float64)
    center, mean = x[~test].mean(0), y[~test].mean(0)
    x = x - center
    moments = x[~test].T @ x[~test]
    ridge = RIDGE * np.trace(moments) / len(moments) + 1e-12
    weights = np.linalg.solve(moments + ridge * np.eye(len(moments)), x[~test].T @ (y[~test] - mean))
    return x[test] @ weights + mean
