"""Bytes of all ranks on rank 0, or on every rank, in chunks of bounded size."""

import torch
import torch.distributed as dist
from torch import Tensor

from utils.waits import WAITS

CHUNK_BYTES = 4 * 2**20  # what a rank receives at a time, from all ranks together


class Gathering:
    """The methods of `utils.distributed.World` that collect bytes."""

    rank: int
    size: int

    def _all_gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, in the order of ranks, on every rank. On all, one shape and dtype, on the host."""
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(tensors, tensor)
        return tensors

    @WAITS.during("the results")
    def gather_bytes(self, message: bytearray, everywhere: bool = False) -> list[Tensor]:
        """Send `message` to rank 0; returns there the messages of all ranks in their order, uint8, and [] elsewhere.

        `everywhere`: every rank gets them. Messages may differ in length. They travel in chunks that every rank sees,
        because not every backend can send to one rank alone. A rank that does not keep them throws each chunk away, so
        that it needs little memory beside its own message.
        """
        content = torch.frombuffer(message, dtype=torch.uint8) if message else torch.empty(0, dtype=torch.uint8)
        if self.size == 1:
            return [content]
        sizes = [int(size) for size in self._all_gather(torch.tensor([len(content)]))]
        keeps = everywhere or self.rank == 0
        messages = [torch.empty(size, dtype=torch.uint8) for size in sizes] if keeps else []
        step = max(1, CHUNK_BYTES // self.size)
        for start in range(0, max(sizes), step):
            chunk = torch.zeros(min(step, max(sizes) - start), dtype=torch.uint8)
            own_part = content[start : start + step]
            chunk[: len(own_part)] = own_part
            chunks = self._all_gather(chunk)
            for whole, part in zip(messages, chunks):
                place = whole[start : start + step]
                place.copy_(part[: len(place)])
        return messages
