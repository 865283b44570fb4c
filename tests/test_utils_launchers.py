"""Which launcher started a process, by its environment variables: torchrun is obeyed, others are refused by name."""

import pytest

from utils.errors import InputError
from utils.launchers import ranks, spoken_rank

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}
BATCH_SHELL = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}
HOROVODRUN = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "1"}
POD = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "master-0", "MASTER_PORT": "23456"}


@pytest.mark.parametrize("outside", [{}, SRUN, BATCH_SHELL, OPEN_MPI, MPICH, HOROVODRUN])
def test_torchrun_is_obeyed_inside_every_other_launcher(outside: dict[str, str]) -> None:
    assert ranks(outside | TORCHRUN) == (5, 8, 1) and spoken_rank(outside | TORCHRUN) == 5


@pytest.mark.parametrize(
    "environment",
    [
        {},
        BATCH_SHELL,
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        BATCH_SHELL | {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {"PMI_RANK": "0", "PMI_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        {"LOCAL_RANK": "0"},
        {"LOCAL_RANK": "-1"},
        {"LOCAL_RANK": ""},
        {"PBS_VNODENUM": "0"},
        {"PMIX_RANK": "0", "WORLD_SIZE": "1"},
        {"PMIX_RANK": "0", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "PMIX_RANK": "0"},
        {"PMIX_RANK": ""},
    ],
)
def test_one_process_is_one_process(environment: dict[str, str]) -> None:
    assert ranks(environment) == (0, 1, 0) and spoken_rank(environment) is None


@pytest.mark.parametrize(
    "environment, name, rank",
    [
        (SRUN, "srun", 2),
        (BATCH_SHELL | SRUN, "srun", 2),
        (OPEN_MPI, "mpirun of Open MPI", 3),
        (BATCH_SHELL | OPEN_MPI, "mpirun of Open MPI", 3),
        (SRUN | MPICH, "MPICH", 1),
        (HOROVODRUN, "horovodrun", 1),
        (POD, "PyTorchJob", 1),
        ({"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2"}, "MVAPICH", 0),
        ({"FLUX_TASK_RANK": "0", "FLUX_JOB_SIZE": "2"}, "flux", 0),
        ({"MPIRUN_RANK": "1", "MPIRUN_NPROCS": "2"}, "mpirun_rsh", 1),
        ({"MPI_RANKID": "1", "MPI_NRANKS": "2"}, "Platform MPI", 1),
        ({"MP_CHILD": "1", "MP_PROCS": "2"}, "poe", 1),
        ({"PALS_RANKID": "1", "PALS_LOCAL_RANKID": "1"}, "PALS", 1),
        ({"ALPS_APP_PE": "3"}, "aprun", 3),
        ({"PMIX_RANK": "2"}, "prun", 2),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "PMIX_RANK": "3"}, "prun", 3),
        ({"WORLD_SIZE": "1", "PMIX_RANK": "3"}, "prun", 3),
        ({"LOCAL_RANK": "1"}, "sets no WORLD_SIZE", 1),
        (BATCH_SHELL | {"SLURM_PROCID": "3"}, "srun", 3),
        ({"PBS_VNODENUM": "5"}, "pbsdsh", 5),
    ],
)
def test_several_processes_of_another_launcher_are_refused_by_its_name(
    environment: dict[str, str], name: str, rank: int
) -> None:
    with pytest.raises(InputError) as error:
        ranks(environment)
    text = str(error.value)
    assert name in text.splitlines()[0] and "torchrun" in text and f"={rank}" in text
    assert spoken_rank(environment) == rank


def test_a_launcher_of_one_process_is_believed_inside_another() -> None:
    assert ranks(SRUN | {"PMI_RANK": "0", "PMI_SIZE": "1"}) == (0, 1, 0)


@pytest.mark.parametrize("rank", ["PALS_RANKID", "ALPS_APP_PE", "PMIX_RANK"])
def test_rank_0_of_a_launcher_without_a_size_may_have_others_beside_it(rank: str) -> None:
    """It would train beside rank 1, which is refused. Inside torchrun it is obeyed as ever."""
    with pytest.raises(InputError, match=rf"{rank}=0[\s\S]*torchrun[\s\S]*alone, unset {rank}"):
        ranks({rank: "0"})
    assert spoken_rank({rank: "0"}) is None and ranks({rank: "0"} | TORCHRUN) == (5, 8, 1)


@pytest.mark.parametrize(
    "environment, named",
    [
        ({"RANK": "0"}, "WORLD_SIZE"),
        ({"RANK": "1", "LOCAL_RANK": "1"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "RANK"),
        (TORCHRUN | {"RANK": "8"}, "8 of 8"),
        (TORCHRUN | {"RANK": "-1"}, "'-1'"),
        (TORCHRUN | {"RANK": "x"}, "'x'"),
        (TORCHRUN | {"WORLD_SIZE": "0"}, "5 of 0"),
        (TORCHRUN | {"LOCAL_RANK": ""}, "LOCAL_RANK"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "'two'"),
        ({"HOROVOD_RANK": "0"}, "HOROVOD_SIZE"),
        ({"PMI_RANK": "4", "PMI_SIZE": "2"}, "PMI_RANK"),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID"),
    ],
)
def test_variables_without_sense_are_refused(environment: dict[str, str], named: str) -> None:
    with pytest.raises(InputError) as error:
        ranks(environment)
    assert named in str(error.value) and "torchrun" in str(error.value)
