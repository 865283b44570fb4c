"""Loader processes that build packed batches from batch plans. Their number changes neither batches nor order."""

import signal
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.batch import PackedBatch, collate
from data.dataset import Dataset
from data.rng import generator
from data.sampler import BatchPlan
from utils.errors import InputError


class BatchBuilder(TorchDataset):
    """Builds the batch of a plan, in a loader process."""

    def __init__(self, datasets: Sequence[Dataset], by_id: bool):
        """`datasets`: indexed by `BatchPlan.source`. `by_id`: seed the random choices of an example by its id (for
        evaluation), else by its number in the dataset."""
        self.datasets, self.by_id = datasets, by_id

    def __getitem__(self, plan: BatchPlan) -> tuple[BatchPlan, PackedBatch] | InputError:
        """The plan and its batch, or the `InputError` that reading its examples raised."""
        dataset = self.datasets[plan.source]
        try:
            examples = []
            for i, row in zip(plan.indices.tolist(), plan.pairs.tolist()):
                rng = generator(*plan.key, dataset.id(i) if self.by_id else i)
                examples.append(dataset.example(row, rng))
            return plan, collate(dataset.task, examples, dataset.img_dim)
        except InputError as error:
            return error  # `load_batches` raises it, without the traceback of a loader process


def load_batches(
    builder: BatchBuilder, plans: Iterable[BatchPlan], n_workers: int, pin_memory: bool = False
) -> Iterator[tuple[BatchPlan, PackedBatch]]:
    """Iterate over plans with their batches, in the order of `plans`.

    `n_workers`: loader processes; 0 builds batches in this process. `pin_memory`: put batches in page-locked memory,
    where there is a GPU. `InputError` when a record cannot be used or a loader process was killed.
    """
    loader = DataLoader(
        builder,
        sampler=plans,
        batch_size=None,
        num_workers=n_workers,
        pin_memory=pin_memory and torch.cuda.is_available(),  # only copies to a GPU gain from it
        prefetch_factor=4 if n_workers else None,
    )
    try:
        for result in loader:
            if isinstance(result, InputError):
                raise result
            yield result
    except RuntimeError as error:
        if "killed by signal" not in str(error):
            raise
        raise InputError(
            "a loader process was killed",
            key=", ".join(sorted({dataset.task for dataset in builder.datasets})),
            found=str(error).splitlines()[0],
            expected="loader processes that live as long as the run",
            remedy=f"{signal.Signals.SIGBUS.name}: a store was truncated while open, run scripts/check.py on it; "
            f"{signal.Signals.SIGKILL.name}: out of memory, lower n_workers",
        ) from error
