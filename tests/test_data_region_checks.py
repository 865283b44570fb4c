"""What region arrays must mean: right ones of every source pass, wrong ones are named with the numbers found."""

import numpy as np
import pytest

from data.region_checks import label_problem, odd_boxes, order_problem, region_problem
from tests.golden_data import GOLDEN


def regions(n: int = 6, classes: int = 1601, dtype: str = "float16") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    corner, size = rng.random((n, 2)) * 0.5, 0.1 + rng.random((n, 2)) * 0.4
    labels = np.exp(3 * rng.normal(size=(n, classes)))
    arrays = {
        "features": rng.normal(size=(n, 8)),
        "norm_bb": np.concatenate([corner, corner + size, size], 1),
        "conf": np.sort(rng.random(n))[::-1],
        "soft_labels": labels / labels.sum(1, keepdims=True),
    }
    return {name: array.astype(dtype) for name, array in arrays.items()}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_regions_that_are_right(dtype):
    arrays = regions(60, dtype=dtype)
    assert region_problem(arrays, classes=1601) is None
    assert region_problem(arrays | {"norm_bb": arrays["norm_bb"][:, :4], "conf": arrays["conf"][:, None]}) is None
    shuffled = arrays | {"conf": arrays["conf"][::-1]}
    assert region_problem(shuffled) is None and order_problem(shuffled["conf"], 60) is None  # all are read: any order
    assert order_problem(arrays["conf"], 10) is None and order_problem(arrays["conf"][:, None], 10) is None
    edge = np.array([[-0.01, 0, 1, 1.01, 1.01, 1.01], [0.5, 0.5, 0.5, 0.7, 0, 0.2]] * 30, dtype)
    assert region_problem(arrays | {"norm_bb": edge}) is None
    uniform = np.full((60, 1601), 1 / 1601, dtype)
    assert region_problem(arrays | {"soft_labels": uniform}, classes=1601) is None
    assert region_problem(arrays | {"soft_labels": -np.zeros_like(uniform) + uniform}) is None


def test_the_release_files_are_right():
    files = sorted((GOLDEN / "data_formats" / "raw_npz").rglob("*.npz"))
    assert len(files) >= 12
    for file in files:
        with np.load(file) as stored:
            assert region_problem(dict(stored), classes=13) is None


def box(*numbers: float) -> np.ndarray:
    arrays = regions()["norm_bb"]
    arrays[2] = numbers
    return arrays


SIZED = regions()["norm_bb"][:, [0, 1, 4, 5, 4, 5]]
LABELS = regions()["soft_labels"]


@pytest.mark.parametrize(
    "name, array, named",
    [
        ("features", np.full((6, 8), np.nan), "48 of 48"),
        ("features", np.full((6, 8), 1e6), "too large for float16"),
        ("norm_bb", box(0.5, 0.1, 0.2, 0.4, -0.3, 0.3), "wrong order|region 2: 0.5"),
        ("norm_bb", box(0.5, 0.1, 0.2, 0.4, 0.3, 0.3), "wrong order"),
        ("norm_bb", box(0.1, 0.1, 0.5, 0.5, 0.2, 0.4), "contradict its corners|region 2"),
        ("norm_bb", box(0.1, 0.1, 0.5, 0.5, 0.4, 0.41), "contradict its corners"),
        ("norm_bb", SIZED, "as if norm_bb held x, y, w, h"),
        ("norm_bb", SIZED[:, :4][:, [2, 3, 0, 1]] * [0.1, 0.1, 1, 0.01], "wrong order"),
        ("norm_bb", box(0, 0, 1.2, 0.5, 1.2, 0.5), "not relative"),
        ("norm_bb", box(0, 0, 320, 200, 320, 200), "in pixels"),
        ("norm_bb", box(0, 0, 0.1, 0.1, np.nan, 0.1), "contradict its corners"),
        ("norm_bb", box(0, 0, 0.1, 0.1, 64, 20), "contradict its corners"),
        ("norm_bb", box(0, 0, np.nan, 0.5, 0.1, 0.1), "not relative"),
        ("norm_bb", np.zeros((6, 7)), "the area is computed"),
        ("norm_bb", np.zeros((6, 8)), "norm_bb (6, 8)"),
        ("conf", np.linspace(99, 10, 6), "from 10 to 99"),
        ("conf", np.full(6, np.nan), "not probabilities"),
        ("conf", np.full(6, -1.0), "not probabilities"),
        ("conf", np.zeros((6, 2)), "(6, 2)"),
        ("soft_labels", LABELS[:, 1:], "as if background were missing"),
        ("soft_labels", LABELS[:, :400], "another number of classes"),
        ("soft_labels", np.log(LABELS.astype(float) + 1e-6), "not probabilities|6 such regions"),
        ("soft_labels", LABELS * 0, "sum 0;"),
        ("soft_labels", LABELS * np.float16(0.5), "sum 0.5"),
        ("soft_labels", LABELS + np.eye(6, 1601) - np.eye(6, 1601, 1), "not probabilities"),
        ("soft_labels", LABELS * np.nan, "not finite"),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_problem_is_named(name, array, named, dtype):
    if dtype == "float16" and "too large" in named:
        pytest.skip("float16 cannot hold it")
    problem = region_problem(regions(dtype=dtype) | {name: array.astype(dtype)}, classes=1601)
    assert problem is not None
    for part in named.split("|"):
        assert part in " ".join(problem)


def test_regions_that_are_left_out_are_not_more_confident():
    problem = order_problem(np.linspace(0, 1, 6, dtype=np.float32), 3)
    assert problem is not None and "region 5 has confidence 1; of the first 3 one has 0" in problem.value
    near = np.array([0.5, 0.5, 0.5005], np.float16)  # equal before rounding
    assert order_problem(near, 2) is None


def test_sums_of_float16_are_exact():
    """Numbers below the smallest normal float16 count too: 1,601 of them, or one."""
    labels = np.full((2, 1601), np.float16(3e-5))
    assert label_problem(labels) is not None
    labels[:, 0] = 1 - labels[:, 1:].sum(1, dtype=np.float32)
    assert label_problem(labels) is None
    labels[1, 0] += np.float16(0.02)
    assert "region 1" in str(label_problem(labels))


def test_odd_boxes_are_counted():
    boxes = np.array(
        [[0, 0, 1, 1, 1, 1], [0.2, 0.2, 0.2, 0.5, 0, 0.3], [0, 0, 1, 1, 1, 1], [0.5, 0.5, 1.02, 1, 0.52, 0.5]]
    )
    assert odd_boxes(boxes) == (1, 1, 1)
