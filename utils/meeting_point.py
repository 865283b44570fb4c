"""Where the ranks of a run meet: host and port of rank 0, which every rank must find without asking another."""

import re
import zlib
from collections.abc import Mapping

from utils.errors import InputError
from utils.launcher_table import SRUN, Launcher

# Below the ports that Linux hands out by itself (32768 to 60999).
FIRST_PORT, PORTS = 10_000, 20_000


def meeting_point(
    environment: Mapping[str, str], launcher: Launcher, is_one_host: bool
) -> tuple[str, int, dict[str, str]]:
    """Host and port of rank 0, and the variables behind them; "" and 0 where no variable says it.

    `MASTER_ADDR` and `MASTER_PORT` come first. Else the host is this one where all ranks run here (`is_one_host`), or
    the first of a Slurm step, and the port follows from what tells this run from others. `InputError` for values
    without sense.
    """
    address, port, sources = environment.get("MASTER_ADDR", "").strip(), 0, {}
    split_step = launcher is SRUN and "SLURM_HET_SIZE" in environment  # each component has a job and a list of its own
    if address:
        sources["address"] = "MASTER_ADDR"
    elif is_one_host and not split_step:
        address = "127.0.0.1"
    elif launcher is SRUN and environment.get("SLURM_STEP_NODELIST") and not split_step:
        address, sources["address"] = first_host(environment["SLURM_STEP_NODELIST"]), "SLURM_STEP_NODELIST"
    elif launcher.address in environment:
        address, sources["address"] = environment[launcher.address], launcher.address
    if environment.get("MASTER_PORT", "").strip():
        port, sources["port"] = _port_number(environment["MASTER_PORT"].strip()), "MASTER_PORT"
    elif launcher.run_id and not split_step and all(environment.get(name) for name in launcher.run_id):
        port, sources["port"] = (
            stable_port(*(environment[name] for name in launcher.run_id)),
            ", ".join(launcher.run_id),
        )
    return address, port, sources


def stable_port(*run_id: str) -> int:
    """A port that every rank computes alike from what names the run; the hash of Python differs between processes."""
    return FIRST_PORT + zlib.crc32("\n".join(run_id).encode()) % PORTS


def first_host(hosts: str) -> str:
    """The first host of a list in Slurm's grammar: `gpu[01-03,05],cpu7` → `gpu01`; zeros are kept."""
    first = re.match(r"((?:[\w.-]|\[\d[\d,-]*\])+)(?:,|$)", hosts.strip())
    if first is None:
        raise InputError(
            "the list of hosts is not in Slurm's grammar",
            key="SLURM_STEP_NODELIST (environment variable)",
            found=repr(hosts[:200]),
            expected="names with numbers in brackets, such as gpu[01-03,05]",
            remedy="export MASTER_ADDR with the host of rank 0 before srun",
        )
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[1])


def tasks_on_node(environment: Mapping[str, str]) -> int:
    """The number of tasks of this Slurm step on this node, from `2(x3),1`: two on each of three nodes, one on the last.

    `InputError` for another form, or fewer nodes than the number of this one (`SLURM_NODEID`).
    """
    text, node = environment[SRUN.local_size], environment.get("SLURM_NODEID", "0")
    groups = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", group.strip()) for group in text.split(",")]
    counts = [int(group[1]) for group in groups if group for _ in range(int(group[2] or 1))]
    if not all(groups) or not node.isdecimal() or int(node) >= len(counts):
        raise InputError(
            "the number of tasks on this node is not understood",
            key=f"{SRUN.local_size}, SLURM_NODEID (environment variables)",
            found=f"{text!r}, {node!r}",
            expected="tasks of each node, such as 2(x3),1, and the number of this node among them, from 0",
            remedy="run the script as a task of srun, with the variables that Slurm sets",
        )
    return counts[int(node)]


def _port_number(text: str) -> int:
    """A port; `InputError` for another text than a number from 1 to 65535."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 2**16):
        raise InputError(
            "the port of the meeting point is not a port",
            key="MASTER_PORT (environment variable)",
            found=repr(text),
            expected="a whole number from 1 to 65535",
            remedy="set a free port, such as 29500, or leave it to torchrun or srun",
        )
    return int(text)
