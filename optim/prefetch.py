"""The next batch travels to the device while this one is computed."""

from collections.abc import Iterator
from typing import Any

import torch


def to_device(made: Iterator[tuple[Any, Any]], device: torch.device) -> Iterator[tuple[Any, Any]]:
    """(work, batch) pairs with the batch on `device`; on CUDA one ahead, copied on a stream of its own."""
    if device.type != "cuda":
        yield from made
        return
    stream = torch.cuda.Stream(device)
    waiting = None
    for work, batch in made:
        with torch.cuda.stream(stream):
            copied = (work, batch.to(device))
        if waiting is not None:
            yield _handed_over(waiting, stream, device)
        waiting = copied
    if waiting is not None:
        yield _handed_over(waiting, stream, device)


def _handed_over(pair: tuple[Any, Any], stream: torch.cuda.Stream, device: torch.device) -> tuple[Any, Any]:
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    for tensor in pair[1].tensors():
        tensor.record_stream(current)  # its memory is not reused while this stream still reads it
    return pair
