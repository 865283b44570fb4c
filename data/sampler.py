"""Which examples share a batch: unit budgets, the order of an epoch, the mixing of tasks (DESIGN section 5)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data.dataset import Dataset, Draw
from data.rng import generator
from utils.errors import InputError

BUCKET = 8192  # examples sorted by length together, as in the release
MULTIPLE = 8  # the release's batches grow by this many examples

Batching = Literal["release", "full"]


def release_batches(
    lens: np.ndarray, order: np.ndarray, budget: int, bucket: int = BUCKET, multiple: int = MULTIPLE
) -> list[np.ndarray]:
    """The 2020 release's batches, given the permutation `order` of an epoch.

    Within a bucket, longest first, the longest length of the bucket counts for every example, so all of its batches
    hold the same number of examples, a multiple of `multiple`; the remainder, its shortest, is dropped.
    """
    batches = []
    for bucketful in _sorted_buckets(lens, order, bucket):
        size = int(budget // lens[bucketful[0]]) // multiple * multiple
        if size == 0:
            return []
        batches += [bucketful[start : start + size] for start in range(0, len(bucketful) - size, size)]
    return batches


def full_batches(lens: np.ndarray, order: np.ndarray, budget: int, bucket: int = BUCKET) -> list[np.ndarray]:
    """Batches filled with real units up to the budget, from buckets sorted by length; nothing is dropped."""
    batches = []
    for bucketful in _sorted_buckets(lens, order, bucket):
        batches += [bucketful[start:stop] for start, stop in cut(lens[bucketful], budget)]
    return batches


def cut(sizes: np.ndarray, budget: int) -> np.ndarray:
    """(n,) sizes → (pieces, 2) bounds that cut them, in order, into pieces of at most `budget`, as long as can be."""
    ends, bounds, start, spent = np.cumsum(sizes), [], 0, 0
    while start < len(sizes):
        stop = int(np.searchsorted(ends, spent + budget, "right"))
        bounds.append((start, stop))
        start, spent = stop, int(ends[stop - 1])
    return np.array(bounds, np.int64).reshape(-1, 2)


def _sorted_buckets(lens: np.ndarray, order: np.ndarray, bucket: int) -> Iterator[np.ndarray]:
    """The examples of `order` in buckets of `bucket`, each sorted by length, the longest first."""
    for start in range(0, len(order), bucket):
        bucketful = order[start : start + bucket]
        yield bucketful[np.argsort(-lens[bucketful], kind="stable")]


def make_batches(
    dataset: Dataset, pairs: np.ndarray, order: np.ndarray, *, budget: int, batching: Batching, name: str
) -> list[np.ndarray]:
    """Batches of at most `budget` units, or, where `dataset` counts examples, of `budget` examples in `order`.

    `"release"` counts `dataset.lens`, `"full"` what is really there, `dataset.units`. `name`: for messages.
    """
    if dataset.batch_unit == "examples":
        return [order[start : start + budget] for start in range(0, len(order), budget)]
    sizes = dataset.lens(pairs) if batching == "release" else dataset.units(pairs)
    longest = int(sizes.max(initial=0))
    if longest > budget:
        raise InputError(
            "an example is larger than a batch",
            key=f"batch size of {name}",
            found=f"{longest} units in one example, {budget} in a batch",
            remedy="raise the batch size, or lower max_txt_len or max_bb",
        )
    if batching == "release":
        batches = release_batches(sizes, order, budget)
    else:
        batches = full_batches(sizes, order, budget)
    if not batches:
        raise InputError(
            "the release's batching makes no batch: too few examples, or too small a budget",
            key=f"batching of {name}",
            found=f"{len(order)} examples, budget {budget} units",
            remedy='set "batching": "full", which drops nothing',
        )
    return batches


@dataclass
class Entry:
    """One source of training batches, logged under its own name (`mlm_coco`) and drawn with its own weight."""

    name: str
    dataset: Dataset
    weight: float = 1.0


@dataclass(kw_only=True)
class BatchPlan:
    """One micro-batch to be built, by whichever worker: the examples and the keys of all randomness in it."""

    source: int  # entry or evaluation set
    indices: np.ndarray  # (e,) the examples
    pairs: np.ndarray  # (e, 1 + k): what each of them shows
    key: tuple[int | str, ...]  # with an example's index or id: the seed of its random choices
    step: int = 0
    micro: int = 0  # which of the step's world × accumulation micro-batches
    state: dict[str, Any] | None = None  # the stream's position after the step, with a rank's last micro-batch of it


def check_names(names: Sequence[str]) -> None:
    """`InputError` where two entries have one name: their batches and records are told apart by it."""
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise InputError(
            "one task of one dataset is listed twice",
            key="name, tasks",
            found=", ".join(duplicates),
            expected="names that differ",
            remedy="give every dataset its own name, and name each task of it once (mix_ratio says how often)",
        )


class TrainStream:
    """The endless sequence of micro-batches of a run, a function of the seed alone.

    A step takes world × accumulation micro-batches, all of one entry, drawn by weight; this rank yields its own. Every
    rank walks the whole sequence, so nobody has to ask which task comes next. `state` says where it stands.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        seed: int,
        budget: int,
        batching: Batching,
        accumulation: int,
        rank: int = 0,
        size: int = 1,
        state: dict[str, Any] | None = None,
    ):
        """`budget`: units or examples of a micro-batch; `accumulation`: micro-batches of one rank and step; `rank` of
        `size` ranks; `state`: of the batch plan to go on after, None to start at the beginning."""
        check_names([entry.name for entry in entries])
        self.entries, self.seed, self.budget, self.batching = entries, seed, budget, batching
        self.accumulation, self.rank, self.size = accumulation, rank, size
        self.step = state["step"] if state else 0
        self.position = dict(state["position"]) if state else {e.name: [0, 0] for e in entries}  # epoch, batch
        self._epochs: dict[str, tuple[int, list[np.ndarray], np.ndarray]] = {}
        weights = np.array([entry.weight for entry in entries], float)
        self._edges = np.cumsum(weights / weights.sum())

    def choose(self, step: int) -> int:
        """The entry of a step."""
        return int(np.searchsorted(self._edges, generator(self.seed, "task", step).random(), "right"))

    def epoch(self, entry: Entry, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Batches of an epoch, each (e,) examples, and the pairs (n, 1 + k) they refer to."""
        newest = self._epochs.get(entry.name)
        if newest is None or newest[0] != epoch:
            draws = generator(self.seed, entry.name, epoch, "pairs").random((len(entry.dataset), len(Draw)))
            pairs = entry.dataset.pairs(draws)
            rng = generator(self.seed, entry.name, epoch, "order")
            order = rng.permutation(len(entry.dataset))
            batches = make_batches(
                entry.dataset, pairs, order, budget=self.budget, batching=self.batching, name=entry.name
            )
            batches = [batches[k] for k in rng.permutation(len(batches))]
            newest = self._epochs[entry.name] = (epoch, batches, pairs)
        return newest[1], newest[2]

    def steps_per_epoch(self) -> int:
        """Optimiser steps in which a run of one entry sees all of it once."""
        if len(self.entries) != 1:
            raise InputError(
                "a mix of training data has no epoch",
                key="valid_steps",
                found=f"0, and {len(self.entries)} tasks and datasets",
                expected="the steps between validations",
                remedy="set valid_steps",
            )
        (entry,) = self.entries
        return -(-len(self.epoch(entry, 0)[0]) // (self.size * self.accumulation))

    def __iter__(self) -> Iterator[BatchPlan]:
        while True:
            source = self.choose(self.step)
            plans = [self._next(source, micro) for micro in range(self.size * self.accumulation)]
            self.step += 1
            mine = [plan for plan in plans if plan.micro % self.size == self.rank]
            mine[-1].state = {"step": self.step, "position": {k: list(v) for k, v in self.position.items()}}
            yield from mine

    def _next(self, source: int, micro: int) -> BatchPlan:
        """The next micro-batch of an entry, whichever rank it is for."""
        entry = self.entries[source]
        epoch, number = self.position[entry.name]
        batches, pairs = self.epoch(entry, epoch)
        indices = batches[number]
        self.position[entry.name] = [epoch, number + 1] if number + 1 < len(batches) else [epoch + 1, 0]
        key = (self.seed, entry.name, epoch)
        return BatchPlan(source=source, indices=indices, pairs=pairs[indices], key=key, step=self.step, micro=micro)


def eval_plans(dataset: Dataset, budget: int, rank: int = 0, size: int = 1) -> list[BatchPlan]:
    """The batches of an evaluation set, formed from all of it and then dealt to ranks.

    Pairs and masks are functions of an example's id, so every evaluation, on any number of ranks, sees the same.
    """
    draws = np.stack([generator("eval", dataset.task, dataset.id(i)).random(len(Draw)) for i in range(len(dataset))])
    pairs = dataset.pairs(draws)
    order, name = np.arange(len(dataset)), f"{dataset.task} evaluation"
    batches = make_batches(dataset, pairs, order, budget=budget, batching="full", name=name)
    plans = [
        BatchPlan(source=0, indices=indices, pairs=pairs[indices], key=("eval", dataset.task), step=number)
        for number, indices in enumerate(batches)
    ]
    return plans[rank::size]
