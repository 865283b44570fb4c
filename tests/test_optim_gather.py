"""Predictions of several ranks joined on rank 0. The ranks are threads, which meet where processes would exchange."""

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from optim import gather
from optim.gather import Collector, from_main, pack, ragged, unpack
from utils.distributed import World
from utils.errors import InputError

TEXTS = ["a", "überall", "", "id with spaces", "7"]


@dataclass(frozen=True, kw_only=True)
class Thread(World):
    """A rank that is a thread."""

    board: list[Any]
    meeting: threading.Barrier
    sizes: list[int]  # bytes that each exchange brought, on rank 0

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.board[self.rank] = tensor
        self.meeting.wait(60)
        tensors = [other.clone() for other in self.board]
        self.meeting.wait(60)
        assert {(other.shape, other.dtype) for other in tensors} == {(tensor.shape, tensor.dtype)}
        if self.is_main:
            self.sizes.append(sum(other.nbytes for other in tensors))
        return tensors

    def broadcast_object(self, value: Any) -> Any:
        self.board[self.rank] = value
        self.meeting.wait(60)
        return self.board[0]


def on_ranks(size: int, work: Callable[[Thread], Any], all_raise: bool = False) -> tuple[list[Any], list[int]]:
    """What `work` returns or raises on each of `size` ranks, and the bytes of every exchange.

    When one raises, the others are told, unless `all_raise`.
    """
    board, meeting, sizes = [None] * size, threading.Barrier(size), []

    def run(rank: int) -> Any:
        try:
            return work(Thread(rank=rank, size=size, board=board, meeting=meeting, sizes=sizes))
        except (Exception, threading.BrokenBarrierError) as error:
            if not all_raise:
                meeting.abort()
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size))), sizes


def batch(number: int) -> dict[str, np.ndarray]:
    """Predictions of one batch: every kind of array that tasks return; batch 2 has no rows."""
    rng = np.random.default_rng(number)
    n = 0 if number == 2 else int(rng.integers(1, 5))
    logits = rng.normal(size=(n, 3)).astype(np.float16)
    logits[:1] = np.nan
    return {
        "ids": np.array([f"{TEXTS[(number + k) % 5]}-{number}" for k in range(n)]),
        "logits": logits,
        "boxes": ragged([rng.normal(size=(k + 1, 4)).astype(np.float32) for k in range(n)]),
        "regions": ragged([np.zeros((k % 2, 2), np.int64) + k for k in range(n)]),
        "labels": rng.integers(-1, 9, (n, 2, 2)),
        "is_right": rng.random(n) < 0.5,
    }


def collect(world: World, batches: list[dict[str, np.ndarray]], everywhere: bool = False) -> dict[str, np.ndarray]:
    """What a `Predictor` does, with ready predictions."""
    collector = Collector(world, len(batches), "predictions of numbers", everywhere)
    own = iter([(k, batches[k]) for k in range(world.rank, len(batches), world.size)])
    for _ in range(collector.n_rounds):
        collector.add(list(islice(own, collector.per_round)))
    assert next(own, None) is None
    return collector.join()


def assert_same(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(ours) == list(expected)
    for name, array in expected.items():
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape), name
        rows = zip(ours[name], array) if array.dtype == object else [(ours[name], array)]
        assert all((a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) for a, b in rows), name


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "n_batches, per_round, chunk", [(7, 16, 2**24), (7, 1, 100), (3, 2, 1), (2, 1, 7), (23, 3, 1000)]
)
def test_any_number_of_ranks_gives_the_same(monkeypatch, size, n_batches, per_round, chunk, everywhere):
    """Also with fewer batches than ranks, with rounds in which a rank has none, and with chunks of a byte."""
    monkeypatch.setattr(gather, "ROUND", per_round)
    monkeypatch.setattr(gather, "CHUNK_BYTES", chunk)
    batches = [batch(k) for k in range(n_batches)]
    expected = {name: np.concatenate([b[name] for b in batches if len(b[name])]) for name in batches[0]}
    results, sizes = on_ranks(size, lambda world: collect(world, batches, everywhere))
    for rank, result in enumerate(results):
        assert not isinstance(result, Exception), result
        assert_same(result, expected if everywhere or rank == 0 else {})
    assert max(sizes, default=0) <= max(chunk, 8 * size)
    if chunk == 2**24:  # a round is two exchanges: of sizes and of predictions
        assert len(sizes) == (0 if size == 1 else 2 * -(-n_batches // (size * per_round)))


def test_a_message_says_all(monkeypatch):
    parts = [(k, batch(k)) for k in (4, 2, 9)]
    n_batches, again = unpack(np.frombuffer(pack(parts, 11), np.uint8))
    assert n_batches == 11 and [number for number, _ in again] == [4, 2, 9]
    for (_, ours), (_, expected) in zip(again, parts):
        assert_same(ours, expected)
    assert unpack(np.frombuffer(pack([], 3), np.uint8)) == (3, [])
    assert collect(World(), [batch(2), batch(2)])["logits"].shape == (0, 3)  # no rows at all


def changed(number: int, **arrays: Any) -> list[dict[str, np.ndarray]]:
    batches = [batch(k) for k in (0, 1, 3, 4)]
    batches[number] = {k: v for k, v in (batches[number] | arrays).items() if v is not None}
    return batches


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    "batches, words",
    [
        (changed(3, logits=np.zeros((4, 5), np.float16)), r"logits\n.*shape \(5,\) in batch 3\n.*shape \(3,\), as in"),
        (changed(3, logits=np.zeros((4, 3), np.int64)), r"logits\n.*rows of int.*\n.*rows of float"),
        (changed(2, ids=np.arange(4)), r"ids\n.*rows of int.*\n.*rows of text"),
        (changed(2, boxes=np.zeros((4, 4), np.float32)), r"boxes\n.*rows of float.*\n.*arrays of float"),
        (changed(1, boxes=ragged([np.zeros((1, 5))])), r"boxes\n.*\(5,\) in batch 1\n.*\(4,\), as in batch 0"),
        (changed(1, boxes=ragged([np.zeros((1, 4)), np.zeros((1, 3))])), r"boxes\n.*several dtypes or row shapes"),
        (changed(1, boxes=np.array([None, "x"], object)), r"boxes\n.*an array of objects: NoneType, str"),
        (changed(1, ids=None), r"numbers\n.*boxes, is_right, labels, logits, regions in batch 1\n.*ids, is_right"),
        (changed(2, more=np.zeros(2)), r"logits, more, regions in batch 2"),
        (changed(0, ids=["a"]), r"ids\n.*a list\n"),
        (changed(0, ids=torch.zeros(2)), r"ids\n.*a Tensor\n"),
        (changed(0, ids=np.float64(1)), r"ids\n.*a float64\n"),
        (changed(0, ids=np.array(1)), r"ids\n.*a ndarray without axes\n"),
        (changed(0, ids=np.zeros(2, [("a", "i4")])), r"ids\n.*an array of \[\('a'"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(batches, words, size):
    results, _ = on_ranks(size, lambda world: collect(world, batches))
    errors = [str(result) for result in results if isinstance(result, InputError)]
    assert errors and not any(isinstance(result, dict) and result for result in results)
    if size == 1:  # of two ranks, one may compare with a batch of its own
        assert re.search(words, errors[0]), errors[0]
    assert all(re.search(r"key: +predictions of numbers(: \w+)?\n", error) for error in errors)


def test_ranks_with_other_data_are_refused():
    results, _ = on_ranks(2, lambda world: collect(world, [batch(k) for k in range(5 + world.rank)]))
    assert isinstance(results[0], InputError) and "5, 6 batches, by rank" in str(results[0])


def test_scores_or_the_error_of_rank_0_reach_all():
    def fail() -> None:
        raise ValueError("no such label\nand more")

    results, _ = on_ranks(3, lambda world: from_main(world, lambda: {"acc": 0.5 + world.rank}, "the scores of val"))
    assert results == [{"acc": 0.5}] * 3
    results, _ = on_ranks(3, lambda world: from_main(world, fail, "the scores of val"), all_raise=True)
    assert type(results[0]) is ValueError
    for error in results[1:]:
        assert isinstance(error, InputError) and "rank 0 could not compute the scores of val" in str(error)
        assert "ValueError: no such label\n" in str(error)
    with pytest.raises(ValueError, match="no such label"):
        from_main(World(), fail, "the scores of val")
