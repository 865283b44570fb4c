"""Which launcher started a process, and as which rank: plain dictionaries in place of environments."""

from typing import Any

import pytest

from utils.errors import InputError
from utils.launchers import Place, find_place, spoken_rank
from utils.meeting_point import first_host, stable_port

MEET = {"MASTER_ADDR": "host0", "MASTER_PORT": "29500"}
TORCHRUN = MEET | {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}
BATCH_SHELL = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}
SRUN = BATCH_SHELL | {
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}
ONE_TASK = SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "0"}
ONE_TASK_A_NODE = SRUN | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": "1"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "2066677761",
    "PMIX_RANK": "3",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
HOROVODRUN = {
    "HOROVOD_RANK": "1",
    "HOROVOD_SIZE": "2",
    "HOROVOD_LOCAL_RANK": "1",
    "HOROVOD_LOCAL_SIZE": "2",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "192.168.0.5",
    "HOROVOD_GLOO_RENDEZVOUS_PORT": "4711",
}
POD = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "master-0", "MASTER_PORT": "23456"}
HOROVOD_PORT, OPEN_MPI_PORT = stable_port("192.168.0.5", "4711"), stable_port("2066677761")
SLURM_PORT = stable_port("7", "3")
ONE_NODE = {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_NODEID": "0"}
STALE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # left over from a run of one process
Environment = dict[str, str]


def numbers(place: Place) -> tuple[Any, ...]:
    return place.rank, place.size, place.local_rank, place.local_size, place.address, place.port


@pytest.mark.parametrize(
    "environment, launcher, expected",
    [
        ({}, "one process", (0, 1, 0, 1, "", 0)),
        (TORCHRUN, "torchrun", (5, 8, 1, 4, "host0", 29500)),
        (POD, "PyTorchJob", (1, 3, 0, 1, "master-0", 23456)),
        (HOROVODRUN, "horovodrun", (1, 2, 1, 2, "127.0.0.1", HOROVOD_PORT)),
        (HOROVODRUN | {"HOROVOD_SIZE": "4"}, "horovodrun", (1, 4, 1, 2, "192.168.0.5", HOROVOD_PORT)),
        (OPEN_MPI, "mpirun of Open MPI", (3, 4, 1, 2, "", OPEN_MPI_PORT)),
        (OPEN_MPI | MEET, "mpirun of Open MPI", (3, 4, 1, 2, "host0", 29500)),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, "Open MPI", (3, 4, 1, 4, "127.0.0.1", OPEN_MPI_PORT)),
        (MPICH, "mpiexec of MPICH", (1, 2, 1, 2, "127.0.0.1", 0)),
        (MPICH | {"MASTER_PORT": "1234"}, "mpiexec of MPICH", (1, 2, 1, 2, "127.0.0.1", 1234)),
        (SRUN, "srun", (2, 4, 0, 2, "gpu03", SLURM_PORT)),
        (SRUN | MEET, "srun", (2, 4, 0, 2, "host0", 29500)),
        (SRUN | ONE_NODE, "srun", (2, 4, 0, 4, "127.0.0.1", SLURM_PORT)),
        (SRUN | {"SLURM_HET_SIZE": "2"}, "srun", (2, 4, 0, 2, "", 0)),
    ],
)  # fmt: skip
def test_each_launcher_tells_rank_size_and_meeting_point(
    environment: Environment, launcher: str, expected: tuple[Any, ...]
) -> None:
    place = find_place(environment)
    assert numbers(place) == expected and launcher in place.launcher
    assert spoken_rank(environment) == (place.rank if place.size > 1 else None)
    named = {name for source in place.sources.values() for name in source.split(", ")}
    assert named <= environment.keys() | {"RANK"} and all(name in str(place) for name in named)


@pytest.mark.parametrize(
    "environment, launcher, expected",
    [
        (ONE_TASK_A_NODE | TORCHRUN, "torchrun", (5, 8, 1, 4)),
        (ONE_TASK | TORCHRUN, "torchrun", (5, 8, 1, 4)),
        (BATCH_SHELL | TORCHRUN, "torchrun", (5, 8, 1, 4)),
        (MPICH | TORCHRUN, "torchrun", (5, 8, 1, 4)),
        (BATCH_SHELL | OPEN_MPI, "mpirun of Open MPI", (3, 4, 1, 2)),
        (ONE_TASK | OPEN_MPI, "mpirun of Open MPI", (3, 4, 1, 2)),
        (ONE_TASK_A_NODE | OPEN_MPI, "mpirun of Open MPI", (3, 4, 1, 2)),  # its daemons are a step of one task a node
        (ONE_TASK_A_NODE | MPICH, "mpiexec of MPICH", (1, 2, 1, 2)),
        (ONE_TASK | HOROVODRUN, "horovodrun", (1, 2, 1, 2)),
        # a launcher that says less than another one with the same numbers
        (SRUN | {"PMI_RANK": "2", "PMI_SIZE": "4", "PMI_JOBID": "7.3"}, "srun", (2, 4, 0, 2)),
        (SRUN | {"RANK": "2", "WORLD_SIZE": "4"}, "srun", (2, 4, 0, 2)),
        (OPEN_MPI | {"RANK": "3", "WORLD_SIZE": "4"}, "mpirun of Open MPI", (3, 4, 1, 2)),
        ({"PMI_RANK": "2", "PMI_SIZE": "4", "SLURM_LOCALID": "1"}, "mpiexec of MPICH", (2, 4, 1, 2)),
        (SRUN | {"PMIX_RANK": "2"}, "srun", (2, 4, 0, 2)),
        ({"JSM_NAMESPACE_RANK": "3", "JSM_NAMESPACE_SIZE": "4"} | OPEN_MPI, "mpirun of Open MPI", (3, 4, 1, 2)),
    ],
)
def test_of_launchers_inside_one_another_the_inner_one_counts(
    environment: Environment, launcher: str, expected: tuple[int, ...]
) -> None:
    place = find_place(environment)
    assert launcher in place.launcher
    assert (place.rank, place.size, place.local_rank, place.local_size) == expected
    assert spoken_rank(environment) == place.rank


@pytest.mark.parametrize(
    "environment, names",
    [
        (SRUN | TORCHRUN, ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")),  # 4 tasks, 2 agents, 8 processes
        (OPEN_MPI | TORCHRUN | STALE, ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE")),
        (SRUN | {"RANK": "0", "WORLD_SIZE": "1"}, ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")),
        (SRUN | {"RANK": "0", "WORLD_SIZE": "4"}, ("RANK=0", "SLURM_PROCID=2")),
        (SRUN | {"PMI_RANK": "0", "PMI_SIZE": "1"}, ("PMI_SIZE", "SLURM_STEP_NUM_TASKS")),
        (SRUN | MPICH, ("PMI_SIZE", "SLURM_STEP_NUM_TASKS")),
        (ONE_TASK_A_NODE | OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, ("OMPI", "SLURM")),
        (OPEN_MPI | HOROVODRUN, ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE")),
    ],
)  # fmt: skip
def test_launchers_that_contradict_each_other_are_refused_by_name(
    environment: Environment, names: tuple[str, str]
) -> None:
    with pytest.raises(InputError) as error:
        find_place(environment)
    assert all(name in str(error.value) for name in names), str(error.value)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        BATCH_SHELL,
        ONE_TASK,
        BATCH_SHELL | {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {"PMI_RANK": "0", "PMI_SIZE": "1"},
        {"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        {"LOCAL_RANK": "0"},
        {"LOCAL_RANK": "-1"},
        {"LOCAL_RANK": ""},
        {"PBS_VNODENUM": "0"},
        {"PMIX_RANK": "0", "WORLD_SIZE": "1"},
        {"PMIX_RANK": "0", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        ONE_TASK | {"PMIX_RANK": "0"},
        {"PMIX_RANK": ""},
    ],
)
def test_one_process_is_one_process(environment: Environment) -> None:
    assert find_place(environment) == Place() and spoken_rank(environment) is None


@pytest.mark.parametrize(
    "environment, name, rank",
    [
        ({"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2"}, "MVAPICH", 0),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"} | MPICH, "MVAPICH", 1),
        ({"FLUX_TASK_RANK": "0", "FLUX_JOB_SIZE": "2"}, "flux", 0),
        ({"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2"}, "jsrun", 1),
        ({"MPIRUN_RANK": "1", "MPIRUN_NPROCS": "2"}, "mpirun_rsh", 1),
        ({"MPI_RANKID": "1", "MPI_NRANKS": "2"}, "Platform MPI", 1),
        ({"MP_CHILD": "1", "MP_PROCS": "2"}, "poe", 1),
        ({"PALS_RANKID": "1", "PALS_LOCAL_RANKID": "1"}, "PALS", 1),
        ({"ALPS_APP_PE": "3"}, "aprun", 3),
        ({"PMIX_RANK": "2"}, "prun", 2),
        (ONE_TASK | {"PMIX_RANK": "3"}, "prun", 3),
        ({"WORLD_SIZE": "1", "PMIX_RANK": "3"}, "prun", 3),
        ({"LOCAL_RANK": "1"}, "sets no WORLD_SIZE", 1),
        (BATCH_SHELL | {"SLURM_PROCID": "3"}, "srun", 3),
        ({"PBS_VNODENUM": "5"}, "pbsdsh", 5),
    ],
)
def test_several_processes_of_another_launcher_are_refused_by_its_name(
    environment: Environment, name: str, rank: int
) -> None:
    with pytest.raises(InputError) as error:
        find_place(environment)
    text = str(error.value)
    assert name in text.splitlines()[0] and "torchrun" in text and f"={rank}" in text
    assert spoken_rank(environment) == rank


@pytest.mark.parametrize("rank", ["PALS_RANKID", "ALPS_APP_PE", "PMIX_RANK"])
def test_rank_0_of_a_launcher_without_a_size_may_have_others_beside_it(rank: str) -> None:
    """It would train beside rank 1, which is refused. Inside torchrun it is obeyed as ever."""
    with pytest.raises(InputError, match=rf"{rank}=0[\s\S]*torchrun[\s\S]*alone, unset {rank}"):
        find_place({rank: "0"})
    assert spoken_rank({rank: "0"}) is None and find_place({rank: "0"} | TORCHRUN).rank == 5


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
        (TORCHRUN | {"LOCAL_RANK": "4"}, "LOCAL_WORLD_SIZE"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "9"}, "LOCAL_WORLD_SIZE"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "'two'"),
        (TORCHRUN | {"MASTER_PORT": "70000"}, "MASTER_PORT"),
        (TORCHRUN | {"MASTER_PORT": "x"}, "MASTER_PORT"),
        ({"HOROVOD_RANK": "0"}, "HOROVOD_SIZE"),
        (HOROVODRUN | {"HOROVOD_ELASTIC": "1"}, "HOROVOD_ELASTIC=1"),
        ({"PMI_RANK": "4", "PMI_SIZE": "2"}, "PMI_RANK"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "MPI_LOCALRANKID"),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "2x2"}, "SLURM_STEP_TASKS_PER_NODE"),
        (SRUN | {"SLURM_NODEID": "2"}, "SLURM_NODEID"),
        (SRUN | {"SLURM_STEP_NODELIST": "gpu[01"}, "SLURM_STEP_NODELIST"),
    ],
)
def test_variables_without_sense_are_refused(environment: Environment, named: str) -> None:
    with pytest.raises(InputError) as error:
        find_place(environment)
    assert named in str(error.value) and "run" in str(error.value).partition("remedy:")[2]


@pytest.mark.parametrize(
    "hosts, first",
    [
        ("node7", "node7"),
        ("gpu[01-03,05]", "gpu01"),
        ("gpu[007]", "gpu007"),
        ("login,gpu[1-2]", "login"),
        ("r[1-2]n[3-4]", "r1n3"),
        ("r[10,12]n[3-4],x1", "r10n3"),
        ("gpu[1-2].cluster.org,b", "gpu1.cluster.org"),
    ],
)
def test_the_first_host_of_a_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


@pytest.mark.parametrize("hosts", ["", ",", "gpu[", "gpu[]", "gpu[a-b]", "a b"])
def test_a_list_of_hosts_in_another_grammar_is_refused(hosts: str) -> None:
    with pytest.raises(InputError, match="SLURM_STEP_NODELIST"):
        first_host(hosts)


@pytest.mark.parametrize("tasks, node, size", [("2(x3),1", "0", 2), ("2(x3),1", "3", 1), ("4,3(x2)", "2", 3)])
def test_tasks_on_each_node_of_a_step(tasks: str, node: str, size: int) -> None:
    step = {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": node, "SLURM_STEP_NUM_TASKS": "10"}
    assert find_place(SRUN | step).local_size == size


def test_the_port_is_the_same_everywhere_and_differs_between_steps() -> None:
    assert stable_port("7", "3") == 18603  # a number, because Python's own hash differs between processes
    ports = {stable_port("7", str(step)) for step in range(50)}
    assert len(ports) > 45 and all(10_000 <= port < 30_000 for port in ports)
