"""A cluster of Slurm with one node, this machine, for a test. Its ports, key and folder are its own."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel", "squeue", "sinfo")
SEARCHED = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
START_LIMIT, END_LIMIT = 120, 60  # seconds; the machine may be busy

CONF = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """The programs that a cluster needs and that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]


@contextmanager
def one_node_cluster() -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands speak to a cluster that lives as long as the block."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path, because a socket's name has at most 107 letters
    environment = os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": SEARCHED}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for daemon in _commands(folder):
            daemons.append(_start(daemon, folder, environment))
            if daemon[0] == "munged":
                _wait(lambda: (folder / "munge.sock").exists(), folder, daemons)
        _wait(lambda: "idle" in _answer(environment, "sinfo", "--noheader", "--format=%T"), folder, daemons)
        yield environment
    finally:
        with suppress(Exception):
            _answer(environment, "scancel", "--full", "--signal=KILL", "--user", str(os.getuid()))
            _answer(environment, "scancel", "--user", str(os.getuid()))
            deadline = time.monotonic() + END_LIMIT
            while _answer(environment, "squeue", "--noheader") and time.monotonic() < deadline:
                time.sleep(0.2)
        for process in reversed(daemons):
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _start(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a daemon, which ends with this process, however that ends."""
    path = shutil.which(command[0], path=SEARCHED) or command[0]
    with (folder / f"{command[0]}.out").open("wb") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", path, *command[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _commands(folder: Path) -> list[list[str]]:
    """Write the files of the cluster; returns the command lines of its daemons."""
    host, user = socket.gethostname().split(".")[0], subprocess.run(["id", "-un"], capture_output=True, text=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o600)
    controller_port, node_port = _free_ports(2)
    (folder / "slurm.conf").write_text(
        CONF.format(
            host=host, user=user.stdout.strip(), folder=folder, controller_port=controller_port, node_port=node_port
        )
    )
    files = {"key": "key", "socket": "munge.sock", "pid": "munge.pid", "log": "munge.log", "seed": "munge.seed"}
    flags = {"key": "--key-file", "socket": "--socket", "pid": "--pid-file", "log": "--log-file", "seed": "--seed-file"}
    munged = ["munged", "--force", "--foreground", *(f"{flags[name]}={folder / files[name]}" for name in files)]
    return [munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host]]


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _answer(environment: dict[str, str], *command: str) -> str:
    """What a command of Slurm prints; "" if it fails or takes long."""
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout.strip()
    return ""


def _wait(condition: Callable[[], bool], folder: Path, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the condition; RuntimeError with what the daemons say if one ends or time is over."""
    deadline = time.monotonic() + START_LIMIT
    while not condition():
        if time.monotonic() > deadline or any(process.poll() is not None for process in daemons):
            texts = [f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in folder.glob("*.out")]
            raise RuntimeError("Slurm does not start\n" + "\n".join(texts))
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a daemon, and what is left of its session."""
    with suppress(ProcessLookupError):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
