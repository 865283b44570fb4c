"""What the ranks of a run exchange, behind one interface: `torch.distributed`, or Horovod (`horovod_collectives.py`).

All ranks must call the same methods in the same order, with tensors of equal shapes and dtypes.
"""

import sys
from datetime import timedelta
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

Backend = Literal["torch", "horovod"]


class Collectives(Protocol):
    """The operations of a backend."""

    name: Backend

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "max"] = "sum") -> None:
        """Replace `tensor` by its sum, or its largest values, over all ranks."""

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, in the order of ranks. They have one shape; dtype uint8, on the host."""

    def broadcast(self, tensor: Tensor) -> None:
        """Replace `tensor` by that of rank 0."""

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all ranks, in the order of ranks, on every rank."""

    def broadcast_object(self, value: Any) -> Any:
        """The value of rank 0."""

    def barrier(self) -> None:
        """Return when every rank has called this method."""


class TorchCollectives:
    """`torch.distributed`: NCCL for tensors on GPUs, gloo for tensors on the host and for objects."""

    name: Backend = "torch"

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "max"] = "sum") -> None:
        """See `Collectives`."""
        dist.all_reduce(tensor, dist.ReduceOp.SUM if operation == "sum" else dist.ReduceOp.MAX)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """See `Collectives`."""
        tensors = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(tensors, tensor)
        return tensors

    def broadcast(self, tensor: Tensor) -> None:
        """See `Collectives`."""
        dist.broadcast(tensor, src=0)

    def gather_objects(self, value: Any) -> list[Any]:
        """See `Collectives`."""
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: Any) -> Any:
        """See `Collectives`."""
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def barrier(self) -> None:
        """See `Collectives`."""
        dist.all_reduce(torch.zeros(1))


def join_torch(store: dist.Store, rank: int, size: int, on_gpu: bool, limit: timedelta) -> TorchCollectives:
    """Make the process group of `torch.distributed`. `limit`: how long one exchange may take."""
    store.set_timeout(limit)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    return TorchCollectives()


def leave() -> None:
    """Leave the run, whichever backend it has; nothing where there is none."""
    if dist.is_initialized():
        dist.destroy_process_group()
    horovod = sys.modules.get("horovod.torch")
    if horovod is not None and horovod.is_initialized():
        horovod.shutdown()
