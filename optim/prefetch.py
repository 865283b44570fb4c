"""The next batch travels to the device while this one is computed."""

from collections.abc import Iterator

import torch

from data.batch import PackedBatch
from data.sampler import BatchPlan

Planned = tuple[BatchPlan, PackedBatch]


def to_device(batches: Iterator[Planned], device: torch.device) -> Iterator[Planned]:
    """The (plan, batch) pairs with the batch on `device`; on CUDA one ahead, copied on a stream of its own."""
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
    """The pair, once the current stream waits for its copy."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    for tensor in pair[1].tensors():
        tensor.record_stream(current)  # its memory is not reused while this stream still reads it
    return pair
