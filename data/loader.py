"""Worker processes that build packed batches by their plans, in order, whatever the number of processes."""

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
    """Builds the batch of a plan; runs in the workers."""

    def __init__(self, datasets: Sequence[Dataset], by_id: bool):
        """`datasets`: by `BatchPlan.source`. `by_id`: random choices depend on ids alone, for evaluation; else on the
        example's number in its dataset."""
        self.datasets, self.by_id = datasets, by_id

    def __getitem__(self, plan: BatchPlan) -> tuple[BatchPlan, PackedBatch] | InputError:
        dataset = self.datasets[plan.source]
        try:
            examples = []
            for i, row in zip(plan.indices.tolist(), plan.pairs.tolist()):
                rng = generator(*plan.key, dataset.id(i) if self.by_id else i)
                examples.append(dataset.example(row, rng))
            return plan, collate(dataset.task, examples, dataset.img_dim)
        except InputError as error:
            return error  # raised where the user sees it, without a worker's traceback


def load_batches(
    builder: BatchBuilder, plans: Iterable[BatchPlan], n_workers: int, pin_memory: bool = False
) -> Iterator[tuple[BatchPlan, PackedBatch]]:
    """Every plan with its batch, in the order of `plans`, built by `n_workers` processes (0: in this one)."""
    loader = DataLoader(
        builder,
        sampler=plans,
        batch_size=None,
        num_workers=n_workers,
        pin_memory=pin_memory and torch.cuda.is_available(),  # pinning is for copies to a GPU
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
            "a worker that reads data was killed",
            key=", ".join(sorted({dataset.task for dataset in builder.datasets})),
            found=str(error).splitlines()[0],
            expected="workers that live as long as the run",
            remedy=f"{signal.Signals.SIGBUS.name}: a store was cut short while open, run scripts/check.py on it; "
            f"{signal.Signals.SIGKILL.name}: out of memory, lower n_workers",
        ) from error
