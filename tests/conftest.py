"""One thread for every test, and for the scripts and ranks that it starts.

Two threads round a sum differently from one, and some tests compare the files of one rank and of two byte for byte.
torchrun gives each rank one thread only while OMP_NUM_THREADS is not set.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # torch and numpy read it when they are imported, which is later

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def half_precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """Autocast around a test with the mark `device` when UNITER_TEST_PRECISION is bf16 or fp16."""
    if os.environ.get("UNITER_TEST_PRECISION", "fp32") == "fp32" or request.node.get_closest_marker("device") is None:
        yield
        return
    from optim.precision import Precision
    from tests.golden_data import DEVICE, PRECISION

    with Precision(PRECISION, False, DEVICE).autocast():
        yield
