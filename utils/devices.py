"""Which GPU a process computes on, and whether torch can compute on it."""

import logging
import os
import re
import socket
from collections.abc import Sequence

import torch

from utils.errors import InputError
from utils.launcher_table import POD
from utils.launchers import Place

LOG = logging.getLogger("uniter")
DeviceId = tuple[str, str] | None  # host name and UUID of a GPU; None: not on a GPU, or torch does not tell


def choose_device(device: str | None, place: Place) -> torch.device:
    """The device of this process. `device`: "cpu" or "cuda"; None: CUDA where there is a GPU.

    `InputError` where there are more processes on a machine than GPUs, and for a GPU that torch was not built for.
    """
    if device == "cpu" or (device is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    index = device_index(place, count)
    if place.launcher == POD.name and count > 1:
        LOG.warning(
            "%s: one process, but %d GPUs are visible, and it uses one of them. To use all: torchrun "
            "--nnodes $WORLD_SIZE --node-rank $RANK --master-addr $MASTER_ADDR --master-port $MASTER_PORT "
            "--nproc-per-node %d SCRIPT …",
            place.launcher,
            count,
            count,
        )
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is None:
        check_architecture(properties.name, (properties.major, properties.minor), torch.cuda.get_arch_list())
    return torch.device("cuda", index)


def device_index(place: Place, count: int) -> int:
    """The number of this process's GPU among the `count` that it sees; `InputError` where there are too few.

    A launcher may show each process one GPU, its own: then that is number 0, whatever the local rank.
    """
    if count == 1:
        return 0
    if max(place.local_size, place.local_rank + 1) <= count:
        return place.local_rank
    raise InputError(
        "there are more processes on this machine than GPUs",
        key=place.sources.get("local_size", place.sources.get("local_rank")),
        found=f"{count} GPUs that this process sees, {place.local_size} processes, local rank {place.local_rank}",
        expected="a GPU for each process, or one visible GPU for each process",
        remedy="launch at most one process for each GPU (torchrun --nproc_per_node)",
    )


def check_architecture(name: str, capability: tuple[int, int], built_for: Sequence[str]) -> None:
    """`InputError` where torch has no code for a GPU. `built_for`: as `torch.cuda.get_arch_list()`, `sm_80`, ….

    Machine code (`sm_`) runs on its own major version from its minor version on, portable code (`compute_`) on every
    later GPU. A letter at the end (`sm_90a`) ties both to exactly this version.
    """
    for entry in built_for:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", entry)
        if match is None:
            continue
        version = int(match[2]), int(match[3])
        exact = version == capability
        later = (
            version <= capability if match[1] == "compute" else version[0] == capability[0] and version <= capability
        )
        if exact or (later and not match[4]):
            return
    if not built_for:
        return
    raise InputError(
        "this torch has no code for this GPU",
        found=f"{name}, compute capability {capability[0]}.{capability[1]}",
        expected=", ".join(built_for),
        remedy="install a build of torch that has it (for a V100, 7.0: requirements-v100.txt)",
    )


def device_id(device: torch.device) -> DeviceId:
    """What tells the GPU of this process from all others."""
    if device.type != "cuda":
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    if uuid is None:  # torch before 2.11
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    part = visible if visible.startswith("MIG-") else ""  # parts of one GPU may share its UUID
    return socket.gethostname(), f"{uuid} {part}".strip()


def check_distinct(ids: Sequence[DeviceId]) -> None:
    """`InputError` where two ranks have the same GPU. `ids`: `device_id` of each rank."""
    first: dict[DeviceId, int] = {}
    for rank, one in enumerate(ids):
        if one is not None and first.setdefault(one, rank) != rank:
            raise InputError(
                "two processes compute on the same GPU",
                found=f"ranks {first[one]} and {rank}: {one[1]} on {one[0]}",
                expected="a GPU for each process",
                remedy="launch at most one process for each GPU; a launcher that shows each process one GPU must show "
                "each another one (srun --gpus-per-task 1, CUDA_VISIBLE_DEVICES)",
            )
