"""Distributed training and inference: the rank of this process, and what the ranks exchange.

A launcher starts one process for each rank and passes the numbers in environment variables (`utils/launchers.py`). The
ranks exchange data through a backend (`utils/collectives.py`). A process that was started alone is a `World` of size 1
and runs the same code without a backend. All ranks must call the methods that exchange data in the same order.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from utils.collectives import Backend, Collectives, TorchCollectives, join_torch, leave
from utils.devices import check_distinct, choose_device, device_id
from utils.errors import as_input_error, print_in_every_locale
from utils.launcher_table import HOROVODRUN, TORCHRUN
from utils.launchers import Place, find_place, spoken_rank
from utils.meeting import connect, is_reachable, meet
from utils.waits import WAITS

T = TypeVar("T")

BUCKET_BYTES = 25 * 2**20  # gradients are summed over the ranks in pieces of about this size
NOTE_LIMIT = timedelta(seconds=10)  # for the connection through which ranks tell how far they are
WAIT_LIMIT = 3600.0  # seconds after which a rank gives up that waits for another one's results
PATIENCE = 3  # seconds that ranks above 0 wait, so that rank 0 reports an error that all ranks have
PEER_GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "remote process exited",
    "Broken pipe",
    "Horovod has been shut",
)


@dataclass(frozen=True, kw_only=True)
class World:
    """The rank and the device of this process, and the number of processes of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # rank on this machine: the number of its GPU
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    collectives: Collectives = field(default_factory=TorchCollectives)  # what moves the data; used by size > 1 only
    origin: str = "one process"  # who says all this, for the log

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes files and speaks to the user."""
        return self.rank == 0

    @WAITS.during("the gradients")
    def average_gradients(self, parameters: Iterable[Tensor], divisor: float) -> None:
        """Sum the gradients over all ranks, then divide them by `divisor`, in place.

        A parameter without a gradient on any rank is skipped; one with a gradient on some ranks gets zeros on the
        others, because all ranks must sum the same tensors. The order of `parameters` fixes the order of the summation,
        so every run gives the same result.
        """
        parameters = list(parameters)
        if self.size > 1:
            self._fill_gradients(parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        if self.size > 1:
            for bucket in _buckets(gradients):
                self._sum_bucket(bucket)
        if divisor != 1:
            torch._foreach_div_(gradients, float(divisor))

    @WAITS.during("the numbers")
    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over all ranks, in place; returns it."""
        if self.size > 1:
            self.collectives.all_reduce(tensor)
        return tensor

    @WAITS.during("the results")
    def gather_objects(self, value: T) -> list[T]:
        """Collect `value` from every rank; returns the values in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        return self.collectives.gather_objects(value)

    @WAITS.during("the answer")
    def broadcast_object(self, value: T | None) -> T:
        """Send rank 0's `value` to every rank; returns it. The values of other ranks are ignored."""
        return self.collectives.broadcast_object(value) if self.size > 1 else value  # type: ignore[return-value]

    @WAITS.during("a sign")
    def barrier(self) -> None:
        """Wait until every rank has called this method."""
        if self.size > 1:
            self.collectives.barrier()

    @WAITS.during("the arrays")
    def _all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Collect `tensor`, on the host, from every rank, in the order of ranks. All have one shape and dtype.

        Its bytes travel, because the backends do not know every dtype.
        """
        if self.size == 1:
            return [tensor]
        flat = tensor.contiguous().reshape(-1)
        if not flat.numel():
            return [tensor.clone() for _ in range(self.size)]
        gathered = self.collectives.all_gather(flat.view(torch.uint8))
        return [part.view(tensor.dtype).view(tensor.shape) for part in gathered]

    def _fill_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Give zeros to each parameter that has a gradient on another rank only: micro-batches may use other parts.

        The ranks exchange what the host knows, a byte for each parameter, so no rank waits for its device.
        """
        has_gradient = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        self.collectives.all_reduce(has_gradient, "max")
        for parameter, is_used in zip(parameters, has_gradient.tolist(), strict=True):
            if is_used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _sum_bucket(self, bucket: list[Tensor]) -> None:
        """All-reduce the tensors of a bucket in place, joined as one flat tensor."""
        if len(bucket) == 1 and bucket[0].is_contiguous():
            self.collectives.all_reduce(bucket[0])
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        self.collectives.all_reduce(flat)
        pieces = flat.split([gradient.numel() for gradient in bucket])
        torch._foreach_copy_(bucket, [piece.view_as(gradient) for piece, gradient in zip(pieces, bucket, strict=True)])


def start(device: str | None = None, backend: Backend | None = None) -> World:
    """Join the run that this process belongs to. `device`: "cpu" or "cuda"; None: CUDA where there is a GPU.

    `backend`: through which library the ranks exchange data; None: Horovod where `horovodrun` has started this process,
    else `torch.distributed`. Raises `InputError` when the launcher is not understood, when the other processes do not
    come, where there are more processes on a machine than GPUs, and for a GPU that torch was not built for.
    """
    place = find_place()
    rank_device = choose_device(device, place)
    use_device(rank_device)
    if place.size == 1:
        return World(device=rank_device)
    _set_nccl_errors(place)
    is_horovod = backend == "horovod" or (backend is None and place.launcher == HOROVODRUN.name)
    on_gpu = rank_device.type == "cuda"
    # Ranks may wait for long, for one that builds an index. The launcher notices a rank that died.
    limit = timedelta(seconds=WAIT_LIMIT)
    collectives: Collectives
    if is_horovod:
        from utils.horovod_collectives import join_horovod  # nobody else needs Horovod

        store = meet(place) if is_reachable(place) else None  # only to say who is missing: Horovod has its own way
        collectives = join_horovod(place)
    else:
        store = meet(place)
        collectives = join_torch(store, place.rank, place.size, on_gpu, limit)
    WAITS.start(place.rank, place.size, WAIT_LIMIT, None if store is None else lambda: connect(place, NOTE_LIMIT))
    check_distinct(collectives.gather_objects(device_id(rank_device)))
    return World(
        rank=place.rank,
        size=place.size,
        local_rank=place.local_rank,
        device=rank_device,
        collectives=collectives,
        origin=f"{place}; {collectives.name}",
    )


def _set_nccl_errors(place: Place) -> None:
    """After a NCCL error the process ends at once (3), so that its record of what happened can be written.

    torchrun sets 1 where the user sets nothing; with it the clean-up of communicators races against that record.
    """
    name = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
    if place.launcher == TORCHRUN.name and os.environ.get(name) == "1":
        del os.environ[name]
    os.environ.setdefault(name, "3")


def use_device(device: torch.device) -> None:
    """Make `device` the one that this process computes on. On a GPU, attention does not go to cuDNN.

    cuDNN prepares a plan for every new shape, and nearly every batch of packed sequences has new shapes.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.enable_cudnn_sdp(False)


def stop() -> None:
    """Leave the other ranks, if there are any."""
    WAITS.stop()
    leave()


def launch(main: Callable[..., Any], *args: Any) -> None:
    """Run the `main` of a script, on one rank or on several, and report its errors once.

    An `InputError` ends the process with its message and status 2. Ranks above 0 wait for `PATIENCE` seconds before
    they print: where all ranks have the same error, rank 0 prints it and the launcher ends the others. Any other
    exception prints its traceback, each line with the rank. A rank that lost its connection to another prints one line.
    """
    print_in_every_locale()
    rank = spoken_rank()
    prefix = "" if rank is None else f"[rank {rank}] "
    try:
        main(*args)
        stop()
        return
    except SystemExit as end:
        if rank and end.code:
            time.sleep(PATIENCE)
        raise
    except KeyboardInterrupt:
        message, status = f"{prefix}interrupted", 130
    except Exception as error:
        input_error, status = as_input_error(error), 1
        if input_error is not None:
            if rank:
                time.sleep(PATIENCE)
            message, status = f"{prefix}error: {input_error}", 2
        elif not prefix:
            raise
        elif any(sign in str(error) for sign in PEER_GONE):
            message = f"{prefix}stopped, because another rank has ended ({str(error).splitlines()[0][:160]})"
        else:
            message = "\n".join(prefix + line for line in traceback.format_exc().splitlines())
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    if prefix:
        os._exit(status)  # an orderly exit may block for ever when a member of the process group is missing
    sys.exit(status)


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Group neighbouring tensors of one dtype, up to `BUCKET_BYTES` together; a larger tensor is a group alone."""
    bucket: list[Tensor] = []
    bucket_bytes = 0
    for gradient in gradients:
        nbytes = gradient.numel() * gradient.element_size()
        if bucket and (bucket_bytes + nbytes > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, bucket_bytes = [], 0
        bucket.append(gradient)
        bucket_bytes += nbytes
    yield bucket
