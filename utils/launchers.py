"""Who started this process, and as which rank: one table of the marks that launchers leave in the environment.

Only torchrun is supported. Other launchers are refused by name, because a process that does not see its launcher would
believe that it is alone: every rank would train a run of its own, in one output folder.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from utils.errors import InputError

TORCHRUN = "launch with torchrun --nproc_per_node N SCRIPT …"


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """A launcher of several processes, by the environment variables of its processes."""

    name: str
    rank: str  # the variable with the rank of a process
    size: str = ""  # the variable with the number of processes; "": there is none
    mark: str = ""  # a variable that is there for processes of this launcher only; "": `rank`
    remedy: str = TORCHRUN


# In the order in which they are looked for: torchrun may run inside each of the others, mpirun inside a job of Slurm.
POD = Launcher(
    name="PyTorchJob, or another launcher of one process a machine",
    rank="RANK",
    size="WORLD_SIZE",
    remedy="in each pod launch with torchrun --nnodes $WORLD_SIZE --node-rank $RANK --master-addr $MASTER_ADDR "
    "--master-port $MASTER_PORT --nproc-per-node N SCRIPT …",
)
OTHERS = (
    Launcher(name="horovodrun", rank="HOROVOD_RANK", size="HOROVOD_SIZE"),
    Launcher(name="mpirun of Open MPI", rank="OMPI_COMM_WORLD_RANK", size="OMPI_COMM_WORLD_SIZE"),
    Launcher(name="mpirun of MVAPICH", rank="MV2_COMM_WORLD_RANK", size="MV2_COMM_WORLD_SIZE"),
    Launcher(name="mpiexec of MPICH or Intel MPI", rank="PMI_RANK", size="PMI_SIZE"),
    Launcher(name="mpirun_rsh of MVAPICH", rank="MPIRUN_RANK", size="MPIRUN_NPROCS"),
    Launcher(name="mpirun of Platform MPI", rank="MPI_RANKID", size="MPI_NRANKS"),
    Launcher(name="poe of IBM", rank="MP_CHILD", size="MP_PROCS"),
    Launcher(name="jsrun", rank="JSM_NAMESPACE_RANK", size="JSM_NAMESPACE_SIZE"),
    Launcher(name="flux run", rank="FLUX_TASK_RANK", size="FLUX_JOB_SIZE"),
    Launcher(  # without SLURM_STEP_ID it is a batch shell, which is one process, whatever SLURM_NTASKS says
        name="srun",
        rank="SLURM_PROCID",
        size="SLURM_STEP_NUM_TASKS",
        mark="SLURM_STEP_ID",
        remedy="launch one task a machine (srun --ntasks-per-node 1), and in it torchrun --nnodes $SLURM_NNODES "
        "--node-rank $SLURM_PROCID --master-addr HOST --master-port PORT --nproc-per-node N SCRIPT …",
    ),
)
# They set no number of processes. Rank 0 of them may be alone, but only the size of another launcher can say so.
WITHOUT_SIZE = (
    Launcher(name="mpiexec of HPE or Cray (PALS)", rank="PALS_RANKID"),
    Launcher(name="aprun", rank="ALPS_APP_PE"),
    Launcher(name="prun, or another launcher that uses PMIx", rank="PMIX_RANK"),
)
# Ranks that one process may have too, such as a batch shell; above 0 they show that there are others.
SHOWN_ABOVE_0 = (
    Launcher(name="a launcher that sets no WORLD_SIZE", rank="LOCAL_RANK"),
    Launcher(name="srun", rank="SLURM_PROCID", remedy=OTHERS[-1].remedy),
    Launcher(name="pbsdsh", rank="PBS_VNODENUM"),
)


def ranks(environment: Mapping[str, str] = os.environ) -> tuple[int, int, int]:
    """The rank of this process, the number of processes, and the rank on this machine: (0, 1, 0) for one process.

    `InputError` when another launcher than torchrun has started several processes, or may have (`WITHOUT_SIZE`), and
    for variables without sense.
    """
    if "RANK" in environment or _number(environment, "WORLD_SIZE", 1) > 1:
        rank, size = _rank_and_size(environment, POD)
        if size == 1:
            return 0, 1, 0
        if "LOCAL_RANK" in environment:
            return rank, size, _number(environment, "LOCAL_RANK")
        raise _refusal(POD, environment)
    known_launcher = next((one for one in OTHERS if (one.mark or one.rank) in environment), None)
    if known_launcher and _rank_and_size(environment, known_launcher)[1] > 1:
        raise _refusal(known_launcher, environment)
    is_alone = known_launcher is not None or "WORLD_SIZE" in environment
    for launcher in WITHOUT_SIZE:
        rank_text = environment.get(launcher.rank, "").strip()
        if rank_text and not (is_alone and rank_text == "0"):
            raise _refusal(launcher, environment)
    for launcher in () if known_launcher else SHOWN_ABOVE_0:
        if _is_above_0(environment.get(launcher.rank)):
            raise _refusal(launcher, environment)
    return 0, 1, 0


def spoken_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """The rank that any launcher gave this process, for messages; None where it was started alone."""
    for launcher in (POD, *OTHERS):
        rank, size = (environment.get(name, "") for name in (launcher.rank, launcher.size))
        if (launcher.mark or launcher.rank) in environment and rank.isdecimal() and size.isdecimal() and int(size) > 1:
            return int(rank)
    for launcher in (*WITHOUT_SIZE, *SHOWN_ABOVE_0):
        if _is_above_0(environment.get(launcher.rank)):
            return int(environment[launcher.rank])
    return None


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
            remedy=TORCHRUN,
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
            remedy=f"{TORCHRUN}; for one process, unset RANK, WORLD_SIZE and LOCAL_RANK",
        )
    return int(text)


def _refusal(launcher: Launcher, environment: Mapping[str, str]) -> InputError:
    """The error for several processes of another launcher."""
    seen = [name for name in (launcher.rank, launcher.size, launcher.mark) if name in environment]
    return InputError(
        f"{launcher.name} has started this process, which is not supported",
        found=", ".join(f"{name}={environment[name]}" for name in seen),
        expected="one process, or processes that torchrun has started: RANK, WORLD_SIZE and LOCAL_RANK",
        remedy=launcher.remedy + ("" if launcher.size else f"; if this process is alone, unset {launcher.rank}"),
    )
