"""Batch plans: which examples share a batch, in which order, and which task a step trains on (DESIGN section 5)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data.batching import full_batches, no_batch, release_batches
from data.dataset import Dataset, Draw
from data.rng import generator
from utils.errors import InputError

Batching = Literal["release", "full"]


def make_batches(
    dataset: Dataset, pairs: np.ndarray, order: np.ndarray, *, budget: int, batching: Batching, name: str
) -> list[np.ndarray]:
    """Cut an epoch of `dataset` into batches, each an array of examples.

    `budget`: units, or examples when that is the dataset's `batch_unit`. `order` (n,): the permutation of the epoch.
    `batching` "release" counts units by `dataset.lens`, "full" by `dataset.units`. `name`: the dataset's name in
    messages. `InputError` when there are no examples, one is larger than a batch, or "release" makes no batch at all.
    """
    if len(order) == 0:
        raise InputError(
            "there are no examples, so there is nothing to make batches of",
            key=f"data of {name}",
            found="0 examples",
            expected="1 or more",
            remedy="give another text store, or raise max_txt_len, which leaves out longer texts",
        )
    if dataset.batch_unit == "examples":
        return [order[start : start + budget] for start in range(0, len(order), budget)]
    sizes = dataset.lens(pairs) if batching == "release" else dataset.units(pairs)
    longest = int(sizes.max(initial=0))
    if longest > budget:
        raise InputError(
            "an example is larger than a batch",
            key=f"batch size of {name}",
            found=f"{longest} units in one example",
            expected=f"at most {budget}, the units in a batch",
            remedy="raise the batch size, or lower max_txt_len or max_bb",
        )
    if batching == "release":
        batches = release_batches(sizes, order, budget)
    else:
        batches = full_batches(sizes, order, budget)
    if not batches:
        raise no_batch(len(order), longest, budget, name)
    return batches


@dataclass
class Entry:
    """One source of training batches: a dataset, its name in the log (`mlm_coco`), and its weight in the mix."""

    name: str
    dataset: Dataset
    weight: float = 1.0


@dataclass(kw_only=True)
class BatchPlan:
    """The plan of one micro-batch, from which any loader process builds the same batch."""

    source: int  # the number of the entry; 0 in evaluation
    indices: np.ndarray  # (e,) its examples
    pairs: np.ndarray  # (e, 1 + k) the text and images of each example
    key: tuple[int | str, ...]  # with an example's number or id, the seed of its random choices
    step: int = 0
    micro: int = 0  # its number among the step's ranks × accumulation micro-batches
    state: dict[str, Any] | None = None  # on a rank's last micro-batch of a step: the position of the stream after it


def check_names(names: Sequence[str]) -> None:
    """`InputError` when two entries have the same name, which must identify their batches and log records."""
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise InputError(
            "one task of one dataset is listed twice",
            key="name, tasks",
            found=", ".join(duplicates),
            expected="distinct names",
            remedy="give every dataset its own name, and list each of its tasks once (mix_ratio sets a task's share)",
        )


class TrainStream:
    """The endless sequence of a run's batch plans, which depends only on the seed, data and options.

    A step takes ranks × accumulation micro-batches of one entry, which is drawn by weight; iteration yields those of
    this rank. Every rank computes the whole sequence, so ranks need not communicate to know the next task.
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
        """`budget`: units or examples in a micro-batch. `accumulation`: micro-batches of one rank in a step. `size`:
        the number of ranks. `state`: the `BatchPlan.state` to continue after; None starts at the beginning.
        `InputError` when two entries have the same name."""
        check_names([entry.name for entry in entries])
        self.entries, self.seed, self.budget, self.batching = entries, seed, budget, batching
        self.accumulation, self.rank, self.size = accumulation, rank, size
        self.step = state["step"] if state else 0
        position = state["position"] if state else {}
        self.position = {e.name: list(position.get(e.name, (0, 0))) for e in entries}  # epoch, batch
        self._epochs: dict[str, tuple[int, list[np.ndarray], np.ndarray]] = {}
        weights = np.array([entry.weight for entry in entries], float)
        self._edges = np.cumsum(weights / weights.sum())

    def choose(self, step: int) -> int:
        """The number of the entry that `step` trains on."""
        return int(np.searchsorted(self._edges, generator(self.seed, "task", step).random(), "right"))

    def epoch(self, entry: Entry, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The batches of an entry's epoch, each (e,) examples, and the pairs (n, 1 + k) of all its examples."""
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

    def plan_epochs(self) -> None:
        """Plan the present epoch of every entry that can be drawn: `InputError` now, not at its first step."""
        for entry in self.entries:
            if entry.weight > 0:
                self.epoch(entry, self.position[entry.name][0])

    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch of the only entry; `InputError` when there are several entries."""
        if len(self.entries) != 1:
            raise InputError(
                "valid_steps 0 means after every epoch, but a mix of training data has no epoch",
                key="valid_steps",
                found=f"0, with {len(self.entries)} entries of training data",
                expected="the number of steps between validations",
                remedy="set valid_steps",
            )
        (entry,) = self.entries
        return -(-len(self.epoch(entry, 0)[0]) // (self.size * self.accumulation))

    def __iter__(self) -> Iterator[BatchPlan]:
        """This rank's plans, step after step, without end."""
        while True:
            source = self.choose(self.step)
            plans = [self._next(source, micro) for micro in range(self.size * self.accumulation)]
            self.step += 1
            mine = [plan for plan in plans if plan.micro % self.size == self.rank]
            mine[-1].state = {"step": self.step, "position": {k: list(v) for k, v in self.position.items()}}
            yield from mine

    def _next(self, source: int, micro: int) -> BatchPlan:
        """The plan of the next micro-batch of an entry, for any rank."""
        entry = self.entries[source]
        epoch, number = self.position[entry.name]
        batches, pairs = self.epoch(entry, epoch)
        if number >= len(batches):  # resumed with larger batches or fewer examples: this epoch is over
            epoch, number = epoch + 1, 0
            batches, pairs = self.epoch(entry, epoch)
        indices = batches[number]
        self.position[entry.name] = [epoch, number + 1] if number + 1 < len(batches) else [epoch + 1, 0]
        key = (self.seed, entry.name, epoch)
        return BatchPlan(source=source, indices=indices, pairs=pairs[indices], key=key, step=self.step, micro=micro)


def check_eval(dataset: Dataset, budget: int) -> None:
    """`InputError` as in `eval_plans`, without a random number for each example: a check when a run starts."""
    order = np.arange(len(dataset))
    pairs = dataset.pairs(np.full((len(dataset), len(Draw)), 0.5))
    make_batches(dataset, pairs, order, budget=budget, batching="full", name=f"{dataset.task} evaluation")


def eval_plans(dataset: Dataset, budget: int) -> list[BatchPlan]:
    """The batch plans of a whole evaluation set. Rank r of n computes every nth of them, from number r on.

    Pairs and masks depend only on the id of an example, so they are the same in every evaluation and for any number of
    ranks. `budget`: units or examples in a batch. `InputError` as in `make_batches`.
    """
    draws = np.empty((len(dataset), len(Draw)))
    for i in range(len(dataset)):
        draws[i] = generator("eval", dataset.task, dataset.id(i), "pairs").random(len(Draw))  # masks have other keys
    pairs = dataset.pairs(draws)
    order, name = np.arange(len(dataset)), f"{dataset.task} evaluation"
    batches = make_batches(dataset, pairs, order, budget=budget, batching="full", name=name)
    return [
        BatchPlan(source=0, indices=indices, pairs=pairs[indices], key=("eval", dataset.task), step=number)
        for number, indices in enumerate(batches)
    ]
