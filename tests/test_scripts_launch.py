"""The launch scripts, with launchers that start nothing: each rank's command and environment, and what is refused."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.cluster_page import commands
from tests.fake_launchers import Fakes, Rank, of_horovodrun, of_hydra, of_open_mpi, of_srun, of_torchrun
from tests.tiny_world import ROOT
from utils.launchers import find_place

LAUNCH = ROOT / "scripts" / "launch"
RUN = ["pretrain.py", "--config", "a file.json", "--output_dir", "runs/one"]
JOB = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "2(x2)"}
JOB |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_CPUS_PER_TASK": "6", "SLURM_JOB_NODELIST": "node[0-1]"}
TWO_HOSTS = {"HOSTS": "node0:2,node1:2"}
MACHINES = {"NNODES": "2", "MASTER_ADDR": "node0", "NPROC_PER_NODE": "2"}


PROGRAMS = {
    "mpi": ("mpirun", of_open_mpi),
    "hydra": ("mpiexec.hydra", of_hydra),
    "horovod": ("horovodrun", of_horovodrun),
}


@pytest.fixture
def fakes(tmp_path: Path) -> Fakes:
    return Fakes(tmp_path / "bin")


def launched(fakes: Fakes, script: str, **variables: str) -> list[Rank]:
    """The four ranks on two machines that a launch script makes of `RUN`."""
    if script == "torchrun.sh":
        processes = []
        for number in ("0", "1"):
            done = fakes.run(script, *RUN, **MACHINES | variables, NODE_RANK=number)
            assert done.returncode == 0, done.stderr
            processes += of_torchrun(*fakes.call("python"), str(fakes.folder / "python"))
        return processes
    given = JOB if script == "slurm.sh" else TWO_HOSTS
    done = fakes.run(script, *RUN, **given | variables)
    assert done.returncode == 0, done.stderr
    if script == "slurm.sh":
        return of_srun(*fakes.call("srun"), nodes=2)
    if script == "horovod.sh":
        return of_horovodrun(*fakes.call("horovodrun"))
    name = variables.get("MPIRUN", "mpirun")
    return (of_open_mpi if name == "mpirun" else of_hydra)(*fakes.call(name))


EVERY = [
    ("slurm.sh", {}),
    ("torchrun.sh", {}),
    ("horovod.sh", {}),
    ("mpi.sh", {}),
    ("mpi.sh", {"MPIRUN": "mpiexec.hydra"}),
]


@pytest.mark.parametrize(("script", "variables"), EVERY)
def test_every_rank_runs_the_script_and_knows_who_it_is(fakes: Fakes, script: str, variables: dict[str, str]) -> None:
    processes = launched(fakes, script, **variables)
    for process in processes:
        print(script, *process.command, {name: process.environment[name] for name in sorted(process.environment)})
    assert [process.command for process in processes] == [[f"{fakes.folder}/python", *RUN, "--resume"]] * 4
    places = [find_place(process.environment) for process in processes]
    numbers = [(place.rank, place.size, place.local_rank, place.local_size) for place in places]
    assert numbers == [(0, 4, 0, 2), (1, 4, 1, 2), (2, 4, 0, 2), (3, 4, 1, 2)]
    ((address, port),) = {(place.address, place.port) for place in places}
    if script != "horovod.sh":  # it has a way of its own
        assert address == "node0" and port >= 10_000
    for process in processes:
        assert process.environment["PATH"].startswith(str(fakes.folder))
        threads = "6" if script == "slurm.sh" else str(max(1, (os.cpu_count() or 1) // 2))
        assert process.environment["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize(
    ("block", "size"), [("nodes", 16), ("sbatch", 16), ("array", 4), ("mpi", 16), ("hydra", 16), ("horovod", 16)]
)
def test_the_page_s_commands_start_as_many_ranks_as_it_says(tmp_path: Path, block: str, size: int) -> None:
    fakes, processes = Fakes(tmp_path / "bin", gpus=8), []
    job = JOB | {"SLURM_NTASKS": str(size), "SLURM_TASKS_PER_NODE": "8(x2)" if size == 16 else "4"}
    for line in commands(block, "tiny.json", "runs"):
        words = shlex.split(line)
        place = next(i for i, word in enumerate(words) if word.startswith("scripts/launch/"))
        variables = {} if words[0] == "sbatch" else dict(word.split("=", 1) for word in words[:place])
        if words[0] == "sbatch":
            variables = job | ({"SLURM_ARRAY_TASK_ID": "3"} if block == "array" else {})
        done = fakes.run(Path(words[place]).name, *words[place + 1 :], **variables)
        assert done.returncode == 0, done.stderr
        if block == "nodes":
            processes += of_torchrun(*fakes.call("python"), "python")
        elif words[0] == "sbatch":
            processes += of_srun(*fakes.call("srun"), nodes=2 if size == 16 else 1)
        else:
            program, of_program = PROGRAMS[block]
            processes += of_program(*fakes.call(program))
    places = [find_place(process.environment) for process in processes]
    assert [(place.rank, place.size) for place in places] == [(rank, size) for rank in range(size)]
    output = "runs/vqa-3" if block == "array" else "runs/base"
    assert {process.command[process.command.index("--output_dir") + 1] for process in processes} == {output}


def test_ranks_meet_at_the_first_machine(fakes: Fakes) -> None:
    for process in launched(fakes, "torchrun.sh"):
        assert (process.environment["MASTER_ADDR"], process.environment["MASTER_PORT"]) == ("node0", "29500")
    for given in ({}, {"MPIRUN": "mpiexec.hydra"}):
        found = {
            (p.environment["MASTER_ADDR"], p.environment["MASTER_PORT"]) for p in launched(fakes, "mpi.sh", **given)
        }
        (address, port), *others = found
        assert not others and address == "node0" and 10000 <= int(port) < 30000
    for process in launched(fakes, "mpi.sh", MASTER_ADDR="10.0.0.1", MASTER_PORT="1234", NCCL_SOCKET_IFNAME="eth1"):
        expected = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234", "NCCL_SOCKET_IFNAME": "eth1"}
        assert expected.items() <= process.environment.items()


def test_slurm_hands_on_its_cores_and_torchrun_its_signals(fakes: Fakes) -> None:
    for process in launched(fakes, "slurm.sh"):
        assert process.environment["SRUN_CPUS_PER_TASK"] == "6"
    for process in launched(fakes, "torchrun.sh"):
        assert "SIGUSR1" in process.environment["TORCHELASTIC_SIGNALS_TO_HANDLE"].split(",")


def test_one_machine_needs_nothing_but_its_gpus(tmp_path: Path) -> None:
    fakes = Fakes(tmp_path / "bin", gpus=3)
    assert fakes.run("torchrun.sh", *RUN).returncode == 0
    assert fakes.call("python")[0][2:5] == ["--standalone", "--nproc-per-node", "3"]
    assert fakes.run("mpi.sh", *RUN).returncode == 0
    assert fakes.call("mpirun")[0][:4] == ["-np", "3", "-H", "localhost:3"]
    assert fakes.run("horovod.sh", *RUN, CUDA_VISIBLE_DEVICES="0,2").returncode == 0
    assert fakes.call("horovodrun")[0][:5] == ["--gloo", "-np", "2", "-H", "localhost:2"]


def test_a_pod_of_pytorchjob_needs_no_variables_of_ours(fakes: Fakes) -> None:
    pod = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "master-0", "MASTER_PORT": "23456"}
    assert fakes.run("torchrun.sh", *RUN, **pod, NPROC_PER_NODE="2").returncode == 0
    processes = of_torchrun(*fakes.call("python"), "python")
    assert [process.environment["RANK"] for process in processes] == ["2", "3"]
    assert {process.environment["MASTER_PORT"] for process in processes} == {"23456"}


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["train_vqa.py", "--output_dir=x"], ["--resume"]),
        (["./pretrain_vcr.py", "--output-dir", "x"], ["--resume"]),
        (["train_vqa.py", "--output_dir", "x", "--resume"], []),
        (["train_vqa.py", "--output_dir", "x", "--no_resume"], []),
        (["train_vqa.py", "--output_dir", "x", "--eval_only"], []),
        (["inf_vqa.py", "--output_dir", "x"], []),
        (["scripts/evaluate.py"], []),
    ],
)
def test_only_training_is_resumed_and_only_once(fakes: Fakes, words: list[str], added: list[str]) -> None:
    done = fakes.run("slurm.sh", *words, **JOB)
    assert done.returncode == 0, done.stderr
    assert fakes.call("srun")[0][2:] == words + added


def test_each_task_of_an_array_has_a_folder_of_its_own(fakes: Fakes) -> None:
    words = ["train_vqa.py", "--output_dir", "runs/vqa-%a", "--seed", "%a", "--config", "100%.json"]
    done = fakes.run("slurm.sh", *words, **JOB, SLURM_ARRAY_TASK_ID="12")
    assert done.returncode == 0, done.stderr
    expected = ["train_vqa.py", "--output_dir", "runs/vqa-12", "--seed", "12", "--config", "100%.json", "--resume"]
    assert fakes.call("srun")[0][2:] == expected


@pytest.mark.parametrize(
    ("script", "words", "variables", "message"),
    [
        ("torchrun.sh", [], {}, "no script given"),
        ("torchrun.sh", ["pretrian.py"], {}, "no script pretrian.py"),
        ("torchrun.sh", RUN, {}, "no GPU found"),
        ("torchrun.sh", RUN, {"NNODES": "2", "NPROC_PER_NODE": "1"}, "give NODE_RANK"),
        ("torchrun.sh", RUN, {"NNODES": "2", "NPROC_PER_NODE": "1", "NODE_RANK": "1"}, "MASTER_ADDR"),
        ("torchrun.sh", RUN, {"PYTHON": "no-such-python"}, "no Python"),
        ("mpi.sh", RUN, {}, "no GPU found"),
        ("mpi.sh", RUN, {"HOSTS": "node0,node1"}, "expected NAME:PROCESSES"),
        ("mpi.sh", RUN, {"HOSTS": "node0:0"}, "expected NAME:PROCESSES"),
        ("mpi.sh", RUN, {"HOSTS": "localhost:2,node1:2"}, "cannot reach localhost"),
        ("mpi.sh", RUN, {"HOSTS": "localhost:2", "MPIRUN": "no-mpirun"}, "no no-mpirun on PATH"),
        ("mpi.sh", RUN, {"HOSTS": "localhost:2", "MPIRUN": "srun"}, "neither Open MPI's mpirun nor MPICH's"),
        ("horovod.sh", RUN, {}, "no GPU found"),
        ("slurm.sh", RUN, {}, "not a job of Slurm"),
        ("slurm.sh", RUN, JOB | {"SLURM_SUBMIT_DIR": "/"}, "not submitted in the checkout"),
        ("slurm.sh", RUN[:3], JOB, "no --output_dir"),
        ("slurm.sh", RUN, JOB | {"SLURM_ARRAY_TASK_ID": "1"}, "put %a into --output_dir"),
    ],
)
def test_what_is_missing_is_said(
    fakes: Fakes, script: str, words: list[str], variables: dict[str, str], message: str
) -> None:
    done = fakes.run(script, *words, **variables)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not any(map(fakes.was_called, ("python", "srun", "mpirun", "horovodrun")))


def test_a_python_without_torch_and_an_absent_horovodrun_are_named(fakes: Fakes) -> None:
    (fakes.folder / "python").write_text("#!/bin/sh\nexit 1\n")
    assert "has no torch" in fakes.run("torchrun.sh", *RUN, NPROC_PER_NODE="1").stderr
    fresh = Fakes(fakes.folder / "fresh")
    (fresh.folder / "horovodrun").unlink()
    assert "scripts/install_horovod.sh" in fresh.run("horovod.sh", *RUN, **TWO_HOSTS).stderr


def test_gpus_without_a_task_are_mentioned(fakes: Fakes) -> None:
    done = fakes.run("slurm.sh", *RUN, **JOB, SLURM_GPUS_ON_NODE="8")
    assert done.returncode == 0 and "2 tasks and 8 GPUs on a node" in done.stderr
    assert not fakes.run("slurm.sh", *RUN, **JOB, SLURM_GPUS_ON_NODE="2").stderr


def test_slurm_s_job_ends_with_the_status_of_its_tasks(fakes: Fakes) -> None:
    assert fakes.run("slurm.sh", *RUN, **JOB, FAKE_STATUS="75").returncode == 75


@pytest.mark.parametrize("has_progress", [False, True])
def test_a_job_near_its_time_limit_starts_again_if_it_saved_something(
    fakes: Fakes, tmp_path: Path, has_progress: bool
) -> None:
    output, note = tmp_path / "run", tmp_path / "run" / "log" / "newest_checkpoint.json"
    note.parent.mkdir(parents=True)
    note.write_text('{"step": 10}')
    command = ["bash", str(LAUNCH / "slurm.sh"), "train_vqa.py", "--output_dir", str(output)]
    environment = fakes.environment(**JOB, FAKE_SECONDS="4", FAKE_STATUS="3")
    job = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    while not fakes.was_called("srun"):
        time.sleep(0.05)
    time.sleep(0.5)  # the file is there a moment before the shell waits
    if has_progress:
        note.write_text('{"step": 20}')
    job.send_signal(signal.SIGUSR1)
    error = job.communicate(timeout=60)[1]
    assert job.returncode == 3  # of srun, for which it went on waiting
    assert fakes.was_called("scontrol") == has_progress
    assert ("no checkpoint since this start" in error) != has_progress
    if has_progress:
        assert fakes.call("scontrol")[0] == ["requeue", "7"]


def test_sbatch_reads_the_head_of_slurm_s_script() -> None:
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE)
    options = dict(lines)
    assert options["signal"] == "B:USR1@120" and options["open-mode"] == "append" and "requeue" in options
    assert "%j" in options["output"]  # the number of a job and of an array's task


def test_the_pods_of_kubernetes_find_each_other(fakes: Fakes) -> None:
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    pod, name, machines = job["spec"]["template"]["spec"], job["metadata"]["name"], job["spec"]["completions"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert job["spec"]["completionMode"] == "Indexed" and job["spec"]["parallelism"] == machines
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert {"/txt", "/img", "/pretrain", "/storage"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["MASTER_ADDR"] == f"{name}-0.{pod['subdomain']}"
    assert int(environment["NPROC_PER_NODE"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert (ROOT / container["args"][2]).exists()
    (command,) = container["command"]
    processes = []
    for index in range(machines):  # Kubernetes fills NODE_RANK with the pod's index
        done = fakes.run(Path(command).name, *container["args"], **environment | {"NODE_RANK": str(index)})
        assert done.returncode == 0, done.stderr
        processes += of_torchrun(*fakes.call("python"), "python")
    places = [find_place(process.environment) for process in processes]
    assert [(place.rank, place.size, place.local_rank) for place in places] == [(r, 16, r % 8) for r in range(16)]
    assert {process.command[1] for process in processes} == {"pretrain.py"} and processes[0].command[-1] == "--resume"


def test_shellcheck_finds_nothing() -> None:
    if not (shellcheck := shutil.which("shellcheck")):
        pytest.skip("shellcheck is not installed")
    files = sorted([*LAUNCH.glob("*.sh"), *(ROOT / "scripts").glob("*.sh")])
    done = subprocess.run([shellcheck, "-x", "-s", "bash", *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
