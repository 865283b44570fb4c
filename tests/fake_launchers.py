"""Launchers that start nothing: each writes down its command line and environment.

So the launch scripts are tested without a cluster. The `of_…` functions say what the real launcher would make of the
call: the command of every rank, and its environment.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.tiny_world import ROOT

VERSIONS = {"mpirun": "mpirun (Open MPI) 4.1.4", "mpiexec.hydra": "HYDRA build details: Version: 4.0.2"}
RECORDER = """#!{python}
import json, os, signal, sys, time
name, argv = os.path.basename(sys.argv[0]), sys.argv[1:]
if name == "python" and argv[:1] == ["-c"]:
    os.execv({python!r}, [{python!r}, *argv])
if argv == ["--version"]:
    print({versions!r}.get(name, ""))
elif name == "nvidia-smi":
    print("\\n".join(f"GPU {{i}}: fake" for i in range({gpus})))
else:
    with open(os.path.join({folder!r}, name + ".json"), "w") as file:
        json.dump({{"argv": argv, "environment": dict(os.environ)}}, file)
    time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
    sys.exit(int(os.environ.get("FAKE_STATUS", 0)))
"""
NAMES = ("python", "srun", "scontrol", "horovodrun", "mpirun", "mpiexec.hydra", "nvidia-smi")


@dataclass
class Rank:
    """What a launcher gives to one process."""

    command: list[str]
    environment: dict[str, str]


class Fakes:
    """A folder of fake launchers, first on PATH; `python` among them answers `-c` only."""

    def __init__(self, folder: Path, gpus: int = 0):
        self.folder = folder
        folder.mkdir(parents=True)
        for name in NAMES:
            text = RECORDER.format(python=sys.executable, versions=VERSIONS, folder=str(folder), gpus=gpus)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def environment(self, **variables: str) -> dict[str, str]:
        """A plain environment with the fakes; nothing of the caller's own launcher, GPUs or Python is in it."""
        path = f"{self.folder}:/usr/bin:/bin"
        return {"PATH": path, "HOME": os.environ.get("HOME", "/"), "PYTHON": f"{self.folder}/python", **variables}

    def run(self, script: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of `scripts/launch/` in the checkout."""
        command = ["bash", str(ROOT / "scripts" / "launch" / script), *words]
        environment = self.environment(**variables)
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    def call(self, name: str) -> tuple[list[str], dict[str, str]]:
        """The arguments and the environment that a fake was called with."""
        record = json.loads((self.folder / f"{name}.json").read_text())
        return record["argv"], record["environment"]

    def was_called(self, name: str) -> bool:
        return (self.folder / f"{name}.json").exists()


def of_srun(argv: list[str], environment: dict[str, str], nodes: int) -> list[Rank]:
    """The tasks of `srun` in a batch script, equally many on each node."""
    assert argv[0].startswith("--kill-on-bad-exit")
    size = int(environment["SLURM_NTASKS"])
    each = size // nodes
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(size), "SLURM_STEP_NODELIST": f"node[0-{nodes - 1}]"}
    step |= {"SLURM_STEP_TASKS_PER_NODE": f"{each}(x{nodes})", "SLURM_STEP_NUM_NODES": str(nodes)}
    own = [
        {"SLURM_PROCID": str(r), "SLURM_LOCALID": str(r % each), "SLURM_NODEID": str(r // each)} for r in range(size)
    ]
    return [Rank(argv[1:], environment | step | variables) for variables in own]


def of_torchrun(argv: list[str], environment: dict[str, str], python: str) -> list[Rank]:
    """The processes of one agent; torch's own parser reads the command line."""
    from torch.distributed.run import get_args_parser

    assert argv[:2] == ["-m", "torch.distributed.run"]
    args = get_args_parser().parse_args(argv[2:])
    nodes, node, each = int(args.nnodes), int(args.node_rank), int(args.nproc_per_node)
    agent = {"WORLD_SIZE": str(nodes * each), "LOCAL_WORLD_SIZE": str(each), "GROUP_RANK": str(node)}
    agent |= {"MASTER_ADDR": args.master_addr, "MASTER_PORT": str(args.master_port)}
    own = [{"RANK": str(node * each + local), "LOCAL_RANK": str(local)} for local in range(each)]
    command = [python, args.training_script, *args.training_script_args]
    return [Rank(command, environment | agent | variables) for variables in own]


def of_horovodrun(argv: list[str], environment: dict[str, str]) -> list[Rank]:
    """The processes of `horovodrun --gloo`, which carries the environment to every host."""
    assert argv[0] == "--gloo" and argv[1] == "-np" and argv[3] == "-H"
    slots = [(host, int(n)) for host, n in (part.split(":") for part in argv[4].split(","))]
    places = [(local, n) for _, n in slots for local in range(n)]
    assert len(places) == int(argv[2])
    common = {"HOROVOD_SIZE": argv[2], "HOROVOD_CONTROLLER": "gloo", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "192.0.2.1"}
    return [
        Rank(
            argv[5:],
            environment
            | common
            | {"HOROVOD_RANK": str(r), "HOROVOD_LOCAL_RANK": str(local), "HOROVOD_LOCAL_SIZE": str(n)},
        )
        for r, (local, n) in enumerate(places)
    ]


def of_open_mpi(argv: list[str], environment: dict[str, str]) -> list[Rank]:
    """The processes of Open MPI's mpirun. Those of other hosts have only the variables that `-x` names."""
    size, hosts, rest = int(argv[1]), argv[3], argv[4:]
    assert (argv[0], argv[2]) == ("-np", "-H") and rest[:4] == ["-bind-to", "none", "-map-by", "slot"]
    rest, carried = rest[4:], []
    while rest[0] == "-x":
        carried.append(rest[1])
        rest = rest[2:]
    ranks = []
    for number, part in enumerate(hosts.split(",")):
        each = int(re.sub(".*:", "", part))
        seen = environment if number == 0 else {name: environment[name] for name in carried}
        for local in range(each):
            own = {"OMPI_COMM_WORLD_RANK": str(len(ranks)), "OMPI_COMM_WORLD_SIZE": str(size)}
            own |= {"OMPI_COMM_WORLD_LOCAL_RANK": str(local), "OMPI_COMM_WORLD_LOCAL_SIZE": str(each)}
            ranks.append(Rank(rest, seen | own))
    assert len(ranks) == size
    return ranks


def of_hydra(argv: list[str], environment: dict[str, str]) -> list[Rank]:
    """The processes of MPICH's mpiexec, which carries all variables."""
    size, slots = int(argv[1]), [int(re.sub(".*:", "", part)) for part in argv[3].split(",")]
    assert (argv[0], argv[2], argv[4], argv[5]) == ("-n", "-hosts", "-bind-to", "none")
    places = [(local, each) for each in slots for local in range(each)]
    common = {"PMI_SIZE": str(size)}
    own = [{"MPI_LOCALRANKID": str(local), "MPI_LOCALNRANKS": str(each)} for local, each in places]
    return [Rank(argv[6:], environment | common | {"PMI_RANK": str(r)} | one) for r, one in enumerate(own)]
