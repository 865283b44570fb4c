"""Horovod as the backend of a run. Only `utils.distributed` imports this file, and only for a run that asks for it."""

import os
import sys
import threading
import time
from typing import Any, Literal

import torch
from torch import Tensor

from utils.collectives import Backend
from utils.errors import InputError
from utils.launcher_table import HYDRA, OPEN_MPI
from utils.launchers import Place

try:
    import horovod.torch as hvd
except ImportError as error:
    raise InputError(
        "Horovod cannot be imported",
        found=str(error).splitlines()[0],
        expected="Horovod, built against this torch",
        remedy="run scripts/install_horovod.sh in this environment, or give --backend torch",
    ) from error

NOTE_AFTER = 5.0  # seconds after which a rank says that it waits for Horovod
START_LIMIT = 600.0  # seconds after which it gives up
STALL_NOTE, STALL_LIMIT = "10", "3600"  # seconds after which Horovod names the ranks that are late, and ends the run


class HorovodCollectives:
    """Horovod's own operations.

    Ranks match tensors by name, and a name that is new is slow: names follow from shapes, so they return.
    """

    name: Backend = "horovod"

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "max"] = "sum") -> None:
        """See `utils.collectives.Collectives`. Horovod adds no bytes and no bfloat16: they travel as larger numbers."""
        wider = {torch.bfloat16: torch.float32, torch.uint8: torch.int32, torch.bool: torch.int32}
        sent = tensor.to(_device(tensor), wider.get(tensor.dtype, tensor.dtype)).contiguous()
        hvd.allreduce_(sent, op=hvd.Sum if operation == "sum" else hvd.Max, name=_name(operation, sent))
        if sent is not tensor:
            tensor.copy_(sent)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """See `utils.collectives.Collectives`."""
        rows = tensor.reshape(1, -1)
        return list(hvd.allgather(rows, name=_name("gather", rows)).view(hvd.size(), *tensor.shape))

    def broadcast(self, tensor: Tensor) -> None:
        """See `utils.collectives.Collectives`."""
        sent = tensor.to(_device(tensor)).contiguous()
        hvd.broadcast_(sent, root_rank=0, name=_name("broadcast", sent))
        if sent is not tensor:
            tensor.copy_(sent)

    def gather_objects(self, value: Any) -> list[Any]:
        """See `utils.collectives.Collectives`."""
        return hvd.allgather_object(value, name="gather_objects")

    def broadcast_object(self, value: Any) -> Any:
        """See `utils.collectives.Collectives`."""
        return hvd.broadcast_object(value, root_rank=0, name="broadcast_object")

    def barrier(self) -> None:
        """See `utils.collectives.Collectives`."""
        self.all_reduce(torch.zeros(1))


def _device(tensor: Tensor) -> torch.device:
    """Where Horovod takes a tensor: on the host, where it was built without NCCL."""
    return tensor.device if hvd.nccl_built() else torch.device("cpu")


def _name(operation: str, tensor: Tensor) -> str:
    """The same name on all ranks for the same exchange, and for later ones of the same shape."""
    return f"{operation} {tensor.dtype} {'x'.join(map(str, tensor.shape))}"


def join_horovod(place: Place) -> HorovodCollectives:
    """Connect to the other ranks through Horovod.

    `InputError` where the launcher does not start Horovod, the others do not come, or Horovod counts other ranks than
    the launcher, as it does when it was built with another MPI.
    """
    is_mpi = place.launcher != "horovodrun"
    if is_mpi and not hvd.mpi_built():
        raise InputError(
            f"{place.launcher} has started this process, and Horovod was built without MPI",
            key="--backend",
            found="horovod",
            expected="horovodrun, or a Horovod with MPI and mpirun",
            remedy="launch with horovodrun -np N --gloo; or give --backend torch; or install an MPI with its compiler "
            "mpicxx, then run scripts/install_horovod.sh again",
        )
    if is_mpi and place.launcher not in (OPEN_MPI.name, HYDRA.name, "srun"):
        raise InputError(
            f"{place.launcher} has started this process, which Horovod does not understand",
            key="--backend",
            found="horovod",
            expected="horovodrun or mpirun",
            remedy="launch with horovodrun or mpirun, or leave --backend out",
        )
    os.environ.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", STALL_NOTE)
    os.environ.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", STALL_LIMIT)
    _init(place)
    if (hvd.rank(), hvd.size()) != (place.rank, place.size):
        raise InputError(
            "Horovod and the launcher do not agree about this process",
            key=", ".join(place.sources.values()),
            found=f"Horovod: rank {hvd.rank()} of {hvd.size()}; {place.launcher}: rank {place.rank} of {place.size}",
            expected="the same numbers",
            remedy="launch with the mpirun of the MPI that Horovod was built with (mpicxx --version, mpirun --version)",
        )
    return HorovodCollectives()


def _init(place: Place) -> None:
    """`hvd.init`, in a thread, so that Ctrl-C ends it. `InputError` where it fails or takes too long."""
    errors: list[Exception] = []

    def init() -> None:
        try:
            hvd.init()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=init, daemon=True)
    thread.start()
    began, is_noted = time.monotonic(), False
    while thread.is_alive() and time.monotonic() - began < START_LIMIT:
        thread.join(1.0)
        if thread.is_alive() and not is_noted and time.monotonic() - began >= NOTE_AFTER:
            is_noted = True
            waiting = f"[rank {place.rank}] waiting for the other {place.size - 1} of {place.size} processes in Horovod"
            print(f"{waiting}; the run stops after {START_LIMIT:.0f} s at most", file=sys.stderr, flush=True)
    if thread.is_alive() or errors:
        raise InputError(
            "the processes of the run do not find each other through Horovod",
            key=", ".join(place.sources.values()),
            found=str(errors[0]).splitlines()[0][:200] if errors else f"no connection after {START_LIMIT:.0f} s",
            expected=f"{place.size} processes that reach each other",
            remedy="start all ranks; raise HOROVOD_GLOO_TIMEOUT_SECONDS where they start slowly; name the network in "
            "HOROVOD_GLOO_IFACE; horovodrun --verbose shows more",
        )
