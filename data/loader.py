"""Worker processes that turn `Work` into packed batches, in order, whatever their number."""

import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from data.batch import PackedBatch, collate
from data.rng import generator
from data.sampler import Work
from utils.errors import InputError


class BatchBuilder(Dataset):
    """Makes the batch of a `Work`; runs in the workers."""

    def __init__(self, sources: Sequence[Any], by_id: bool):
        """`sources`: datasets, by `Work.source`; `by_id`: random choices hang on ids alone, for evaluation."""
        self.sources, self.by_id = sources, by_id

    def __getitem__(self, work: Work) -> tuple[Work, PackedBatch] | InputError:
        data = self.sources[work.source]
        try:
            examples = []
            for i, pair in zip(work.indices.tolist(), work.pairs.tolist()):
                rng = generator(*work.key, data.id(i) if self.by_id else i)
                examples.append(data.example(*pair, rng))
            return work, collate(data.task, examples, data.img_dim)
        except InputError as error:
            return error  # raised where the user sees it, without a worker's traceback


def batches(
    maker: BatchBuilder, works: Iterable[Work], n_workers: int, pin_memory: bool = False
) -> Iterator[tuple[Work, PackedBatch]]:
    """The batches of `works`, in their order, made by `n_workers` processes (0: in this one)."""
    loader = DataLoader(
        maker,
        sampler=works,
        batch_size=None,
        num_workers=n_workers,
        pin_memory=pin_memory and torch.cuda.is_available(),  # pinning is for copies to a GPU
        prefetch_factor=4 if n_workers else None,
    )
    try:
        for made in loader:
            if isinstance(made, InputError):
                raise made
            yield made
    except RuntimeError as error:
        if "killed by signal" not in str(error):
            raise
        raise InputError(
            "a worker that reads data was killed",
            key=", ".join(sorted({source.task for source in maker.sources})),
            found=str(error).splitlines()[0],
            expected="workers that live as long as the run",
            remedy=f"{signal.Signals.SIGBUS.name}: a store was cut short while open, run scripts/check.py on it; "
            f"{signal.Signals.SIGKILL.name}: out of memory, lower n_workers",
        ) from error
