"""Prefetching: the next batch is copied to the device while the current one is computed."""

from collections.abc import Generator
from contextlib import closing

import torch

from data.batch import PackedBatch
from data.sampler import BatchPlan

Planned = tuple[BatchPlan, PackedBatch]


def to_device(batches: Generator[Planned], device: torch.device) -> Generator[Planned]:
    """Yield (plan, batch) pairs with the batch on `device`; on CUDA copies run one batch ahead, on another stream.

    `batches` is closed with this iterator.
    """
    with closing(batches):
        if device.type != "cuda":
            yield from batches
            return
        stream = torch.cuda.Stream(device)
        waiting = None
        for plan, batch in batches:
            with torch.cuda.stream(stream):
                on_device = (plan, batch.to(device))
            if waiting is not None:
                yield _hand_over(waiting, stream, device)
            waiting = on_device
        if waiting is not None:
            yield _hand_over(waiting, stream, device)


def _hand_over(pair: Planned, stream: torch.cuda.Stream, device: torch.device) -> Planned:
    """Make the current stream wait for the copy of a batch; returns the pair."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    for tensor in pair[1].tensors():
        tensor.record_stream(current)  # its memory must not be reused while the current stream reads it
    return pair
