"""Who started this process, and as which rank: one table of the marks that launchers leave in the environment.

`find_place` reads it. A process that does not see its launcher would believe that it is alone: every rank would train a
run of its own, in one output folder. So marks that are not understood, or that contradict each other, are refused.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from utils.errors import InputError
from utils.launcher_table import (
    HOROVODRUN,
    HYDRA,
    LAUNCH,
    OPEN_MPI,
    OTHERS,
    POD,
    SHOWN_ABOVE_0,
    SRUN,
    TORCHRUN,
    WITHOUT_SIZE,
    Launcher,
)
from utils.meeting_point import meeting_point, tasks_on_node


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where this process stands in its run: its rank, the number of processes, and where they meet."""

    launcher: str = "one process"
    rank: int = 0
    size: int = 1  # number of processes of the run
    local_rank: int = 0  # rank among the processes on this machine
    local_size: int = 1  # number of processes on this machine; where nobody says it, the smallest possible one
    address: str = ""  # where rank 0 listens; "": no variable says it
    port: int = 0  # 0: no variable says it
    sources: Mapping[str, str] = field(default_factory=dict)  # field → environment variables that it comes from
    remedy: str = LAUNCH  # what to do where the meeting point is not known

    def __str__(self) -> str:
        """One line for the log: each number with its source."""
        text = f"{self.launcher}: rank {self.rank} of {self.size}, local rank {self.local_rank} of {self.local_size}"
        if self.address and self.port:
            text += f", meeting point {self.address}:{self.port}"
        names = dict.fromkeys(name for source in self.sources.values() for name in source.split(", "))
        return text + (f" ({', '.join(names)})" if names else "")


@dataclass(frozen=True)
class _Claim:
    """What one launcher's variables say."""

    launcher: Launcher
    rank: int
    size: int

    def __str__(self) -> str:
        return f"{self.launcher.name}: {self.launcher.rank}={self.rank}, {self.launcher.size}={self.size}"


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place of this process in its run; a default `Place` for one process.

    `InputError` for several processes of a launcher that is not supported, or that may be several (`WITHOUT_SIZE`), for
    launchers that contradict each other, and for variables without sense.
    """
    claims = _claims(environment)
    claim = _agreed(claims, environment) if claims else None
    if claim is not None and claim.size > 1:
        if not claim.launcher.is_supported:
            raise _refusal(claim.launcher, environment)
        return _place(claim, environment)
    is_alone = "WORLD_SIZE" in environment or any(one.launcher not in (TORCHRUN, POD) for one in claims)
    for launcher in WITHOUT_SIZE:
        rank_text = environment.get(launcher.rank, "").strip()
        if rank_text and not (is_alone and rank_text == "0"):
            raise _refusal(launcher, environment)
    for launcher in () if claims else SHOWN_ABOVE_0:
        if _is_above_0(environment.get(launcher.rank)):
            raise _refusal(launcher, environment)
    return Place()


def spoken_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """The rank that any launcher gave this process, for messages; None where it was started alone."""
    for launcher in (POD, *OTHERS):
        rank, size = (environment.get(name, "") for name in (launcher.rank, launcher.size))
        if launcher.mark in environment and rank.isdecimal() and size.isdecimal() and int(size) > 1:
            return int(rank)
    for launcher in (*WITHOUT_SIZE, *SHOWN_ABOVE_0):
        if _is_above_0(environment.get(launcher.rank)):
            return int(environment[launcher.rank])
    return None


def _claims(environment: Mapping[str, str]) -> list[_Claim]:
    """What each launcher whose mark is there says, in the order of the table."""
    launchers = [launcher for launcher in OTHERS if launcher.mark in environment]
    if "RANK" in environment or _number(environment, "WORLD_SIZE", 1) > 1:
        launchers.insert(0, TORCHRUN if "LOCAL_RANK" in environment else POD)
    return [_Claim(launcher, *_rank_and_size(environment, launcher)) for launcher in launchers]


def _agreed(claims: list[_Claim], environment: Mapping[str, str]) -> _Claim:
    """The claim that counts: the first, unless a later one with the same numbers knows the local rank, too.

    `InputError` where a claim contradicts those before it.
    """
    first = claims[0]
    for k, outer in enumerate(claims[1:], 1):
        if not any(_contains(outer, inner, environment) for inner in claims[:k]):
            raise InputError(
                "two launchers say different things about this process",
                key=f"{first.launcher.size}, {outer.launcher.size} (environment variables)",
                found=f"{first}; {outer}",
                expected="one launcher, or equal numbers of processes, or one that starts the other once a machine",
                remedy="launch with one of them; unset the variables that are left over from another",
            )
    if first.launcher.is_supported and first.launcher.local_rank not in environment:
        same = (one for one in claims[1:] if (one.rank, one.size) == (first.rank, first.size))
        return next((one for one in same if one.launcher.is_supported), first)
    return first


def _contains(outer: _Claim, inner: _Claim, environment: Mapping[str, str]) -> bool:
    """Whether the launcher `outer` may have started `inner`: once, once for each process, or once a machine."""
    if outer.size == 1:
        return True
    if outer.size == inner.size:  # RANK and WORLD_SIZE alone are often set by hand, or are left over
        return inner.launcher is not POD or outer.rank == inner.rank
    if inner.launcher is TORCHRUN:
        local_size = max(1, _number(environment, "LOCAL_WORLD_SIZE", 1))
        return outer.size == _number(environment, "GROUP_WORLD_SIZE", inner.size // local_size)
    if inner.launcher in (OPEN_MPI, HYDRA) and outer.launcher is SRUN and inner.size > 1:
        return outer.size == _number(environment, "SLURM_STEP_NUM_NODES", 0)  # mpirun's own daemons, one a node
    return False


def _place(claim: _Claim, environment: Mapping[str, str]) -> Place:
    """The whole record for one of several processes. `InputError` where the local rank is not known."""
    launcher = claim.launcher
    if launcher is HOROVODRUN and environment.get("HOROVOD_ELASTIC") == "1":
        raise InputError(
            "horovodrun has started an elastic run, whose number of processes changes, which is not supported",
            found="HOROVOD_ELASTIC=1",
            expected="a fixed number of processes",
            remedy="launch with horovodrun -np N, without --min-np, --max-np and --host-discovery-script; "
            "after a failure start again with --resume",
        )
    sources = {"rank": launcher.rank, "size": launcher.size}
    local_rank, local_size = 0, 1
    if launcher is not POD:
        name = launcher.local_rank
        if launcher is HYDRA and name not in environment and "SLURM_LOCALID" in environment:
            name = SRUN.local_rank
        local_rank, sources["local_rank"] = _number(environment, name), name
        local_size = local_rank + 1
        if launcher.local_size in environment:
            sources["local_size"] = launcher.local_size
            if launcher is SRUN:
                local_size = tasks_on_node(environment)
            else:
                local_size = _number(environment, launcher.local_size)
        if not local_rank < local_size <= claim.size:
            raise InputError(
                "the rank of this process on its machine and the number of processes there do not fit",
                key=f"{name}, {launcher.local_size} (environment variables)",
                found=f"local rank {local_rank} of {local_size}, {claim.size} processes in all",
                expected=f"0 to {max(0, min(local_size, claim.size) - 1)}",
                remedy=LAUNCH,
            )
    is_one_host = "local_size" in sources and local_size == claim.size
    address, port, more_sources = meeting_point(environment, launcher, is_one_host)
    return Place(
        launcher=launcher.name,
        rank=claim.rank,
        size=claim.size,
        local_rank=local_rank,
        local_size=local_size,
        address=address,
        port=port,
        sources=sources | more_sources,
        remedy=launcher.remedy,
    )


def _is_above_0(text: str | None) -> bool:
    """Whether a variable holds a number above 0. An absent or empty one, or -1, is not."""
    return text is not None and text.isascii() and text.isdecimal() and int(text) > 0


def _rank_and_size(environment: Mapping[str, str], launcher: Launcher) -> tuple[int, int]:
    """The rank and the number of processes; `InputError` unless both are there and fit together."""
    rank, size = _number(environment, launcher.rank), _number(environment, launcher.size)
    if rank >= size:
        raise InputError(
            "the rank of this process is not below the number of processes",
            key=f"{launcher.rank}, {launcher.size} (environment variables)",
            found=f"{rank} of {size}",
            expected=f"0 to {size - 1}",
            remedy=LAUNCH,
        )
    return rank, size


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """The whole number in a variable; `InputError` where it is absent, without a default, or something else."""
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not (text.isascii() and text.strip().isdecimal()):
        raise InputError(
            "an environment variable of the launcher is missing or not a number",
            key=name,
            found="nothing" if text is None else repr(text),
            expected="a whole number; RANK, WORLD_SIZE and LOCAL_RANK together",
            remedy=f"{LAUNCH}; for one process, unset the launcher's variables (RANK, WORLD_SIZE, LOCAL_RANK, …)",
        )
    return int(text)


def _refusal(launcher: Launcher, environment: Mapping[str, str]) -> InputError:
    """The error for several processes of a launcher that is not supported, or that does not say how many."""
    seen = dict.fromkeys(name for name in (launcher.rank, launcher.size, launcher.mark) if name in environment)
    return InputError(
        f"{launcher.name} has started this process, which is not supported",
        found=", ".join(f"{name}={environment[name]}" for name in seen),
        expected="one process, or processes that torchrun, horovodrun, mpirun, mpiexec or srun have started",
        remedy=launcher.remedy + ("" if launcher.size else f"; if this process is alone, unset {launcher.rank}"),
    )
