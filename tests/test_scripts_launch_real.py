"""The commands of docs/CLUSTER.md, at tiny size, with the launchers that this machine has: all give the same run."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from scripts.kill_test import compare
from tests.cluster_page import commands
from tests.slurm_cluster import missing_programs, one_node_cluster
from tests.tiny_world import ROOT, make_world, pretrain_options

pytestmark = pytest.mark.slow
LIMIT = 900  # seconds of one command; the machine may be busy
NODES = "--nodes 2 --ntasks-per-node 8 --gpus-per-node 8 --cpus-per-task 8"
SMALL = {"NPROC_PER_NODE": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
STEPS = {"num_train_steps": 48, "valid_steps": 6}


def environment(**variables: str) -> dict[str, str]:
    """This environment, with this Python first on PATH; nothing of a launcher that the tests may run under."""
    kept = {name: value for name, value in os.environ.items() if not re.match("SLURM_|OMPI_|PMI|RANK$|WORLD_", name)}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return kept | {"PYTHON": sys.executable, "PATH": path, "OMP_NUM_THREADS": "1"} | SMALL | variables


def run(lines: list[str], **variables: str) -> list[str]:
    """Run the commands of a block, one a machine, at the same time; returns what each printed."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in lines]
        streams = [{"stdout": file, "stderr": file, "start_new_session": True} for file in files]
        settings = {"cwd": ROOT, "env": environment(**variables)}
        processes = [subprocess.Popen(["bash", "-c", line], **settings, **s) for line, s in zip(lines, streams)]
        try:
            statuses = [process.wait(LIMIT) for process in processes]
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
        outputs = []
        for file in files:
            file.seek(0)
            outputs.append(file.read())
    assert statuses == [0] * len(lines), "\n".join(output[-3000:] for output in outputs)
    return outputs


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world, with the options of its run in `tiny.json`."""
    folder = make_world(tmp_path_factory.mktemp("tiny"))
    pretrain_options(folder, folder / "tiny", **STEPS)
    return folder


@pytest.fixture(scope="module")
def reference(world: Path) -> Path:
    """The run of two ranks on one machine."""
    output = run(commands("torchrun", world / "tiny.json", world / "torchrun", {"per_node 8": "per_node 2"}))
    assert "2 ranks ×" in output[0]
    return world / "torchrun" / "base"


def test_two_machines_of_torchrun_are_as_one(world: Path, reference: Path) -> None:
    lines = commands("nodes", world / "tiny.json", world / "nodes", {"node0": "127.0.0.1"})
    run(lines, MASTER_PORT=free_port())
    assert len(lines) == 2 and compare(reference, world / "nodes" / "base") is None


@pytest.mark.parametrize(
    ("block", "program"), [("mpi", "mpirun"), ("hydra", "mpiexec.hydra"), ("horovod", "horovodrun")]
)
def test_other_launchers_give_torchrun_s_run(world: Path, reference: Path, block: str, program: str) -> None:
    if shutil.which(program, path=environment()["PATH"]) is None:
        pytest.skip(f"{program} is not installed")
    run(commands(block, world / "tiny.json", world / block, {"node0:8,node1:8": "localhost:2"}))
    assert compare(reference, world / block / "base") is None


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment of a cluster with one node."""
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: slurmctld, slurmd, slurm-client, munge)")
    with one_node_cluster() as variables:
        yield {name: variables[name] for name in ("SLURM_CONF",)}


def test_srun_gives_torchrun_s_run(world: Path, reference: Path, slurm: dict[str, str]) -> None:
    (output,) = run(commands("srun", world / "tiny.json", world / "srun", {NODES: "-n 2"}), **slurm)
    assert "srun: rank 0 of 2" in output and compare(reference, world / "srun" / "base") is None


def test_a_batch_shell_trains_as_one_process(world: Path, tmp_path: Path, slurm: dict[str, str]) -> None:
    script = tmp_path / "job.sh"
    call = f"{sys.executable} pretrain.py --config {world / 'tiny.json'} --output_dir {tmp_path / 'run'}"
    script.write_text(f"#!/bin/bash\necho tasks $SLURM_NTASKS\nexec {call} --num_train_steps 2 --warmup_steps 1\n")
    run([f"sbatch --wait -n 2 --output {tmp_path / 'job.out'} {script}"], **slurm)
    output = (tmp_path / "job.out").read_text()
    assert "tasks 2\n" in output and "1 ranks ×" in output
    assert (tmp_path / "run" / "ckpt" / "model_step_2.pt").exists()


def job_is(job: str, slurm: dict[str, str]) -> dict[str, str]:
    """What Slurm says of a job: JobState, Restarts and so on."""
    (output,) = run([f"scontrol --oneliner show job {job}"], **slurm)
    return dict(part.split("=", 1) for part in output.split() if "=" in part)


def test_a_requeued_task_of_an_array_ends_as_if_nothing_had_happened(
    world: Path, reference: Path, tmp_path: Path, slurm: dict[str, str]
) -> None:
    changes = {NODES: f"--array 3 -n 2 --parsable --output {tmp_path}/%x-%j.out", "/base": "/base-%a"}
    lines = commands("sbatch", world / "tiny.json", world / "sbatch", changes)
    job = run(lines, **slurm)[0].split()[-1] + "_3"
    folder = world / "sbatch" / "base-3"
    deadline = time.monotonic() + LIMIT
    while not (folder / "log" / "newest_checkpoint.json").exists():
        assert time.monotonic() < deadline, [path.read_text() for path in tmp_path.glob("*.out")]
        time.sleep(0.02)
    run([f"scancel --batch --signal=USR1 {job}"], **slurm)  # as Slurm does before the time limit
    while (state := job_is(job, slurm))["JobState"] not in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"):
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
    (log,) = tmp_path.glob("uniter-*.out")
    output = log.read_text()
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), output[-3000:]
    assert output.index("start 0 of job") < output.index("start 1 of job") < output.index("resumed from")
    assert compare(reference, folder) is None
