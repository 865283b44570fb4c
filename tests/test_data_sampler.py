"""Batches, task order and positions: against the reference and against what DESIGN section 5 promises."""

import json
import random

import numpy as np
import pytest

from data.sampler import Entry, TrainStream, full_batches, make_batches, release_batches
from tests.golden_data import GOLDEN
from utils.errors import InputError

TOKEN_BUCKET = json.loads((GOLDEN / "sampler/token_bucket.json").read_text())
CASES = [name for name, case in TOKEN_BUCKET.items() if isinstance(case, dict) and case.get("droplast")]


@pytest.mark.parametrize("case", CASES)
def test_release_batches_are_the_reference_given_its_permutation(case):
    golden = TOKEN_BUCKET[case]
    lens = np.array(golden["lens"])
    random.seed(0)
    order = list(range(len(lens)))
    random.shuffle(order)
    batches = release_batches(
        lens, np.array(order), golden["batch_size"], golden["bucket_size"], golden["size_multiple"]
    )
    batches = [batch.tolist() for batch in batches]
    random.shuffle(batches)
    assert batches == golden["batches"]


def test_full_batches_fill_the_budget_and_drop_nothing():
    rng = np.random.default_rng(0)
    lens = rng.integers(12, 80, 5000)
    batches = full_batches(lens, rng.permutation(len(lens)), 1024, bucket=1000)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lens)))
    units = np.array([lens[batch].sum() for batch in batches])
    assert units.max() <= 1024
    assert np.median(units) / 1024 > 0.95
    release = release_batches(lens, rng.permutation(len(lens)), 1024, bucket=1000)
    assert np.mean([lens[batch].sum() for batch in release]) / 1024 < 0.75  # what "full" is for


PAIRS = np.zeros((2, 2), np.int32)


def test_an_example_larger_than_the_budget_is_an_error():
    with pytest.raises(InputError, match="larger than a batch"):
        make_batches(Numbers(2, [5, 70]), PAIRS, np.arange(2), budget=64, batching="full", name="mlm_coco")


@pytest.mark.parametrize(
    "n, budget, named",
    [
        (2, 64, "too few examples|2 examples of up to 7 units|over 8 examples"),
        (20, 50, "batch size is too small|makes no batch|at least 56 units, 8 times"),
        (
            20,
            1000,
            "too large for the data|20 examples|a batch of 136 examples|fewer than 168 units|or change",
        ),
        (16, 112, "too large for the data|a batch of 16 examples|fewer than 112 units"),
    ],
)
def test_where_the_release_makes_no_batch_the_reason_is_named(n, budget, named):
    def batches(budget):
        data, pairs = Numbers(n, [5, *[7] * (n - 1)]), np.zeros((n, 2), np.int32)
        return make_batches(data, pairs, np.arange(n), budget=budget, batching="release", name="mlm_coco")

    with pytest.raises(InputError) as error:
        batches(budget)
    for part in (*named.split("|"), '"batching": "full"'):
        assert part in str(error.value)
    if "fewer than" in named:  # the bound is the right one
        least = int(named.split("fewer than ")[1].split()[0])
        assert batches(least - 1)
        with pytest.raises(InputError):
            batches(least)


def test_examples_are_counted_where_a_dataset_says_so():
    data = Numbers(5, [1, 2, 3, 4, 5])
    data.batch_unit = "examples"
    made = make_batches(
        data, np.zeros((5, 2), np.int32), np.array([3, 1, 4, 0, 2]), budget=2, batching="release", name="re"
    )
    assert [batch.tolist() for batch in made] == [[3, 1], [4, 0], [2]]


def test_steps_of_an_epoch():
    """Ten examples of ten units a batch of 100: 3 batches of 30 examples, in steps of 2 or 4 micro-batches."""
    one = [Entry("a", Numbers(30))]
    assert train_stream(one, accumulation=2).steps_per_epoch() == 2
    assert train_stream(one, accumulation=2, size=2).steps_per_epoch() == 1
    with pytest.raises(InputError, match="valid_steps"):
        train_stream([*one, Entry("b", Numbers(3))]).steps_per_epoch()


def train_stream(entries, budget=100, accumulation=1, **options):
    return TrainStream(entries, seed=0, budget=budget, batching="full", accumulation=accumulation, **options)


class Numbers:
    """A stand-in dataset of `n` examples of ten units, or of `lens` and two more."""

    batch_unit = "units"

    def __init__(self, n, lens=None):
        self.n, self.sizes = n, np.array(lens if lens else [8] * n)

    def __len__(self):
        return self.n

    def pairs(self, draws):
        texts = np.arange(self.n, dtype=np.int32)
        return np.stack([texts, (draws[:, 0] * 1000).astype(np.int32)], 1)

    def lens(self, pairs):
        return self.sizes

    def units(self, pairs):
        return self.sizes + 2


def take(n_steps, accumulation=1, rank=0, size=1, state=None, n=(30, 50), weights=(2, 1)):
    entries = [Entry(name, Numbers(k), weight) for name, k, weight in zip("ab", n, weights)]
    stream = train_stream(entries, accumulation=accumulation, rank=rank, size=size, state=state)
    works, iterator = [], iter(stream)
    while len(works) < n_steps * accumulation:
        works.append(next(iterator))
    return works


def as_rows(works):
    return [(w.step, w.micro, w.source, w.indices.tolist(), w.pairs.tolist(), w.key) for w in works]


def test_batches_cycle_through_epochs_as_in_the_reference():
    """With the reference's task order, every entry serves its batches in order, epoch after epoch."""
    golden = json.loads((GOLDEN / "sampler/meta_loader.json").read_text())
    order = ["ab".index(task) for task, _ in golden["sequence"]][:: golden["accum_steps"]]
    entries = [Entry(name, Numbers(golden["sizes"][name]), golden["ratios"][name]) for name in "ab"]
    stream = train_stream(entries, budget=10, accumulation=golden["accum_steps"])
    stream.choose = lambda step: order[step]
    served = {0: [], 1: []}
    iterator = iter(stream)
    for task, (reference,) in golden["sequence"]:
        work = next(iterator)
        assert "ab"[work.source] == task
        served[work.source].append(reference)
        epoch, at = divmod(len(served[work.source]) - 1, golden["sizes"][task])
        assert reference == at and work.key[2] == epoch


def test_tasks_are_drawn_by_weight():
    sources = [work.source for work in take(3000)]
    assert np.mean(sources) == pytest.approx(1 / 3, abs=0.03)


def test_ranks_times_accumulation_is_all_that_counts():
    """4 × 1, 2 × 2 and 1 × 4 take the same micro-batches in every step."""
    one = as_rows(take(50, accumulation=4))
    for size in (2, 4):
        ranks = [take(50, accumulation=4 // size, rank=rank, size=size) for rank in range(size)]
        together = sorted(as_rows([work for works in ranks for work in works]))
        assert together == sorted(one)


def test_an_epoch_serves_every_example_once():
    works = [work for work in take(200) if work.source == 0]
    for epoch in range(3):
        seen = np.concatenate([work.indices for work in works if work.key[2] == epoch])
        assert sorted(seen.tolist()) == list(range(30))
    first, second = ([w.pairs[0, 1] for w in works if w.key[2] == e] for e in (0, 1))
    assert first != second  # pairs are drawn anew every epoch


def test_a_stream_continues_from_its_state():
    whole = take(60, accumulation=2)
    for stop in (1, 7, 33):
        state = json.loads(json.dumps(whole[2 * stop - 1].state))
        assert state["step"] == stop
        assert as_rows(take(60 - stop, accumulation=2, state=state)) == as_rows(whole[2 * stop :])


def test_no_examples_make_no_batches():
    data, none = Numbers(0, []), np.arange(0)
    for unit in ("units", "examples"):
        data.batch_unit = unit
        with pytest.raises(InputError, match=r"no examples[\s\S]*data of re[\s\S]*0 examples"):
            make_batches(data, PAIRS[:0], none, budget=64, batching="release", name="re")
