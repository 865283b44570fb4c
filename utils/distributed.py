"""Distributed training and inference: the rank of this process, and what the ranks exchange.

`torchrun` starts one process for each rank and passes the numbers in environment variables. A process that was started
alone is a `World` of size 1 and runs the same code. All ranks call the methods that exchange data in the same order.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import InputError, as_input_error, print_in_every_locale
from utils.gather import Gathering
from utils.launchers import ranks, spoken_rank
from utils.waits import WAITS

T = TypeVar("T")

BUCKET_BYTES = 25 * 2**20  # gradients are summed over the ranks in pieces of about this size
NOTE_AFTER = 10.0  # seconds after which a rank says that it waits for the others
START_LIMIT = 600.0  # seconds after which it gives up
WAIT_LIMIT = 3600.0  # seconds after which a rank gives up that waits for another one's results
PATIENCE = 3  # seconds that ranks above 0 wait, so that rank 0 reports an error that all ranks have
PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "remote process exited", "Broken pipe")


@dataclass(frozen=True, kw_only=True)
class World(Gathering):
    """The rank and the device of this process, and the number of processes of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # rank on this machine: the number of its GPU
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

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
            _fill_gradients(parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        if self.size > 1:
            for bucket in _buckets(gradients):
                _sum_bucket(bucket)
        if divisor != 1:
            torch._foreach_div_(gradients, float(divisor))

    @WAITS.during("the numbers")
    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over all ranks, in place; returns it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    @WAITS.during("the results")
    def gather_objects(self, value: T) -> list[T]:
        """Collect `value` from every rank; returns the values in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @WAITS.during("the answer")
    def broadcast_object(self, value: T | None) -> T:
        """Send rank 0's `value` to every rank; returns it. The values of other ranks are ignored."""
        values: list[Any] = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    @WAITS.during("a sign")
    def barrier(self) -> None:
        """Wait until every rank has called this method."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))


def start(device: str | None = None) -> World:
    """Join the run that this process belongs to. `device`: "cpu" or "cuda"; None: CUDA where there is a GPU.

    Raises `InputError` when another launcher than torchrun has started several processes, when the other processes do
    not come, and where there are more processes on a machine than GPUs.
    """
    rank, size, local_rank = ranks()
    device_type = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device_type == "cpu":
        rank_device = torch.device("cpu")
    else:
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                "no GPU for this process",
                found=f"{torch.cuda.device_count()} GPUs on this machine, and local rank {local_rank}",
                expected="at least as many GPUs as processes",
                remedy="launch at most one process for each GPU (torchrun --nproc_per_node)",
            )
        rank_device = torch.device("cuda", local_rank)
    use_device(rank_device)
    if size > 1:
        # Objects and barriers go through gloo on the host, gradients through NCCL. The timeout is long because a rank
        # may wait for another one that builds an index. The launcher notices a rank that died.
        backend, timeout = "gloo" if device_type == "cpu" else "cpu:gloo,cuda:nccl", timedelta(seconds=WAIT_LIMIT)
        store = _meet(rank, size)
        store.set_timeout(timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        WAITS.start(rank, size, WAIT_LIMIT)
    return World(rank=rank, size=size, local_rank=local_rank, device=rank_device)


def _meet(rank: int, size: int) -> dist.Store:
    """Wait until all ranks are there; returns the store through which they then connect.

    The waiting is said after `NOTE_AFTER` seconds. `InputError` when somebody has not come after `START_LIMIT`
    seconds, or the meeting point cannot be used. It waits in a thread, so that Ctrl-C ends it.
    """
    address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    results: list[dist.Store | Exception] = []

    def join() -> None:
        try:
            store = next(dist.rendezvous("env://", rank, size, timeout=timedelta(seconds=START_LIMIT)))[0]
            if store.add(f"uniter/rank{rank}", 1) > 1:
                raise RuntimeError(f"two processes have rank {rank}")
            store.wait([f"uniter/rank{other}" for other in range(size)], timedelta(seconds=START_LIMIT))
            results.append(store)
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    thread.join(NOTE_AFTER)
    if not results:
        waiting = f"[rank {rank}] waiting for the other {size - 1} of {size} processes at {address}"
        print(f"{waiting}; the run stops after {START_LIMIT:.0f} s", file=sys.stderr, flush=True)
    while not results:
        thread.join(1)
    if isinstance(results[0], Exception):
        raise InputError(
            "the processes of the run do not find each other",
            key=f"MASTER_ADDR, MASTER_PORT: {address}",
            found=f"rank {rank} of {size}: {str(results[0]).splitlines()[0][:200]}",
            expected=f"{size} processes within {START_LIMIT:.0f} s, and a free port on the first machine",
            remedy="launch all with torchrun (one machine: torchrun --standalone --nproc_per_node N SCRIPT …)",
        )
    return results[0]


def use_device(device: torch.device) -> None:
    """Make `device` the one that this process computes on. On a GPU, attention does not go to cuDNN.

    cuDNN prepares a plan for every new shape, and nearly every batch of packed sequences has new shapes.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.enable_cudnn_sdp(False)


def stop() -> None:
    """Leave the process group, if there is one."""
    WAITS.stop()
    if dist.is_initialized():
        dist.destroy_process_group()


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


def _fill_gradients(parameters: Sequence[Tensor]) -> None:
    """Give zeros to each parameter that has a gradient on another rank only: micro-batches may use other parts.

    The ranks exchange what the host knows, a byte for each parameter, so no rank waits for its device.
    """
    has_gradient = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    dist.all_reduce(has_gradient, dist.ReduceOp.MAX)
    for parameter, is_used in zip(parameters, has_gradient.tolist(), strict=True):
        if is_used and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


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


def _sum_bucket(bucket: list[Tensor]) -> None:
    """All-reduce the tensors of a bucket in place, joined as one flat tensor."""
    if len(bucket) == 1 and bucket[0].is_contiguous():
        dist.all_reduce(bucket[0])
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
    dist.all_reduce(flat)
    pieces = flat.split([gradient.numel() for gradient in bucket])
    torch._foreach_copy_(bucket, [piece.view_as(gradient) for piece, gradient in zip(pieces, bucket, strict=True)])
