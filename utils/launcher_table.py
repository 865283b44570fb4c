"""The table of launchers: the environment variables by which each one tells a process its place in the run."""

from dataclasses import dataclass

LAUNCH = "launch with torchrun --nproc_per_node N SCRIPT …, or with horovodrun, mpirun, mpiexec or srun"


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """A launcher of several processes, by the environment variables of its processes."""

    name: str
    rank: str  # the variable with the rank of a process
    size: str = ""  # the variable with the number of processes; "": there is none
    local_rank: str = ""
    local_size: str = ""
    mark: str = ""  # a variable that is there for processes of this launcher only; "": `rank`
    is_supported: bool = False
    run_id: tuple[str, ...] = ()  # variables that together differ between any two runs, and are equal on all ranks
    address: str = ""  # a variable with a host that all ranks reach, where rank 0 usually runs
    remedy: str = LAUNCH

    def __post_init__(self) -> None:
        object.__setattr__(self, "mark", self.mark or self.rank)


TORCHRUN = Launcher(
    name="torchrun",
    rank="RANK",
    size="WORLD_SIZE",
    local_rank="LOCAL_RANK",
    local_size="LOCAL_WORLD_SIZE",
    is_supported=True,
)
POD = Launcher(
    name="PyTorchJob, or another launcher of one process a machine", rank="RANK", size="WORLD_SIZE", is_supported=True
)
HOROVODRUN = Launcher(  # by its own controller, gloo; through MPI it is mpirun
    name="horovodrun",
    rank="HOROVOD_RANK",
    size="HOROVOD_SIZE",
    local_rank="HOROVOD_LOCAL_RANK",
    local_size="HOROVOD_LOCAL_SIZE",
    is_supported=True,
    run_id=("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT"),
    address="HOROVOD_GLOO_RENDEZVOUS_ADDR",
)
OPEN_MPI = Launcher(
    name="mpirun of Open MPI",
    rank="OMPI_COMM_WORLD_RANK",
    size="OMPI_COMM_WORLD_SIZE",
    local_rank="OMPI_COMM_WORLD_LOCAL_RANK",
    local_size="OMPI_COMM_WORLD_LOCAL_SIZE",
    is_supported=True,
    run_id=("PMIX_NAMESPACE",),
    remedy="pass it on: mpirun -x MASTER_ADDR=HOST_OF_RANK_0 -x MASTER_PORT=29500 …",
)
HYDRA = Launcher(
    name="mpiexec of MPICH or Intel MPI",
    rank="PMI_RANK",
    size="PMI_SIZE",
    local_rank="MPI_LOCALRANKID",
    local_size="MPI_LOCALNRANKS",
    is_supported=True,
    remedy="pass it on: mpiexec -genv MASTER_ADDR HOST_OF_RANK_0 -genv MASTER_PORT 29500 …; "
    "two runs on one machine need two ports",
)
SRUN = Launcher(  # without SLURM_STEP_ID it is a batch shell, which is one process, whatever SLURM_NTASKS says
    name="srun",
    rank="SLURM_PROCID",
    size="SLURM_STEP_NUM_TASKS",
    local_rank="SLURM_LOCALID",
    local_size="SLURM_STEP_TASKS_PER_NODE",
    mark="SLURM_STEP_ID",
    is_supported=True,
    run_id=("SLURM_JOB_ID", "SLURM_STEP_ID"),
    remedy="before srun: export MASTER_ADDR=HOST_OF_RANK_0 MASTER_PORT=29500",
)
# In the order in which they are looked for, after `RANK`: torchrun may run inside each of them, mpirun inside Slurm.
OTHERS = (
    HOROVODRUN,
    OPEN_MPI,
    Launcher(name="mpirun of MVAPICH", rank="MV2_COMM_WORLD_RANK", size="MV2_COMM_WORLD_SIZE"),
    HYDRA,
    Launcher(name="mpirun_rsh of MVAPICH", rank="MPIRUN_RANK", size="MPIRUN_NPROCS"),
    Launcher(name="mpirun of Platform MPI", rank="MPI_RANKID", size="MPI_NRANKS"),
    Launcher(name="poe of IBM", rank="MP_CHILD", size="MP_PROCS"),
    Launcher(name="jsrun", rank="JSM_NAMESPACE_RANK", size="JSM_NAMESPACE_SIZE"),
    Launcher(name="flux run", rank="FLUX_TASK_RANK", size="FLUX_JOB_SIZE"),
    SRUN,
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
    Launcher(
        name="srun without SLURM_STEP_ID",
        rank="SLURM_PROCID",
        remedy="pass all variables that begin with SLURM_ into the container, or launch with torchrun",
    ),
    Launcher(name="pbsdsh", rank="PBS_VNODENUM"),
)
