"""Launchers of two processes on this machine, for tests that run the real scripts under each of them."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import kill_test
from tests.tiny_world import ROOT

OPEN_MPI_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
BATCH_SHELL = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}


def mpi_command(kind: str) -> str | None:
    """The command that starts processes of an MPI, `Open MPI` or `HYDRA` (MPICH); None where it is not installed."""
    names = ("mpirun.openmpi", "mpirun") if kind == "Open MPI" else ("mpiexec.mpich", "mpiexec.hydra", "mpiexec")
    for path in filter(None, map(shutil.which, names)):
        if kind in subprocess.run([path, "--version"], capture_output=True, text=True).stdout:
            return path
    return None


def horovodrun(*flags: str) -> list[str]:
    """`horovodrun` of this environment; the test is skipped where Horovod is not installed."""
    path = Path(sys.executable).with_name("horovodrun")
    if importlib.util.find_spec("horovod") is None or not path.exists():
        pytest.skip("Horovod is not installed in this environment: scripts/install_horovod.sh")
    return [str(path), *flags]


def command_of(launcher: str, ranks: int) -> tuple[list[str], dict[str, str]]:
    """The words before `python SCRIPT`, and variables; the test is skipped where the launcher is not installed."""
    if launcher in ("one process", "batch shell"):
        return [], BATCH_SHELL if launcher == "batch shell" else {}
    if launcher == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"], {}
    if launcher == "horovodrun":
        return horovodrun("-np", str(ranks), "-H", f"localhost:{ranks}", "--gloo"), {}
    if launcher == "mpiexec of MPICH":
        path = mpi_command("HYDRA")
        if path is None:
            pytest.skip("MPICH is not installed (on Debian: apt-get install mpich)")
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        return [path, "-n", str(ranks), "-genv", "MASTER_PORT", str(port)], {}
    path = mpi_command("Open MPI")
    if path is None:
        pytest.skip("Open MPI is not installed (on Debian: apt-get install openmpi-bin)")
    return [path, "-np", str(ranks), "--oversubscribe", "-bind-to", "none"], OPEN_MPI_AS_ROOT


def launch(
    launcher: str, *command: str | Path, ranks: int = 2, check: bool = True, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a script under a launcher, as a user does."""
    words, variables = command_of(launcher, ranks)
    start = [] if launcher == "torchrun" else [sys.executable]
    line = [*words, *start, *map(str, command)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done


def drop_newest_state(output: Path, name: str = "step") -> None:
    """Take away what the last save of a finished run wrote, as if the run had been killed before it."""
    states = sorted((output / "ckpt").glob("train_state_*.pt"), key=lambda path: int(path.stem.rpartition("_")[2]))
    newest = states[-1].stem.rpartition("_")[2]
    states[-1].unlink()
    (output / "ckpt" / f"model_{name}_{newest}.pt").unlink()


def assert_same_run(one: Path, two: Path, tolerance: float) -> None:
    """Equal records and weights of two finished runs, up to `tolerance`; counts and accuracies exactly.

    Biases of keys are left out: a softmax does not see them, so their gradient is rounding alone.
    """
    ours, theirs = kill_test.metrics(one), kill_test.metrics(two)
    assert [sorted(record) for record in ours] == [sorted(record) for record in theirs]  # the same task in every step
    for a, b in zip(ours, theirs):
        for key, value in a.items():
            exact = key.endswith(("/acc", "/acc_match", "/acc_mismatch")) or key in ("step", "units", "examples")
            assert value == b[key] if exact else value == pytest.approx(b[key], abs=tolerance, rel=tolerance), key
    weights: dict[str, Any] = kill_test.newest(one, "model_step")
    others: dict[str, Any] = kill_test.newest(two, "model_step")
    assert weights.keys() == others.keys()
    for key, value in others.items():
        if not key.endswith("key.bias"):
            assert (weights[key] - value).abs().max() <= tolerance, key
