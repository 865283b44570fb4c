"""Check everything that only a GPU can tell, in at most six minutes: numbers, training, resume, speed.

python -m scripts.device_check --output FOLDER

It needs a machine with one NVIDIA GPU, this checkout and the installed packages, and no network. Each phase runs in a
process of its own, so that a crash or a hang ends that phase only; its results are written before the next one starts.
Without a GPU it checks the CPU at small sizes.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().with_name("by_path.py")))

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from scripts.device_phases import hardware, numerics, speed, training, transfer
from scripts.device_phases.setting import PhaseFailure, Results, Setting
from utils import distributed
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import read_json, write_json
from utils.options import option
from utils.paths import CHECKOUT

Phase = Callable[[Setting], Results]
MINUTES = 6  # for all phases on a GPU
CPU_PATIENCE = 4  # a CPU gets this many times the time limits
# Name → the phase and its time limit on a GPU, in seconds. The order is that of the run.
PHASES: dict[str, tuple[Phase, int]] = {
    "versions": (hardware.versions, 30),
    "ceilings": (hardware.ceilings, 30),
    "attention": (numerics.attention, 45),
    "goldens": (numerics.goldens, 80),
    "loss_scaling": (training.loss_scaling, 30),
    "prefetch": (transfer.prefetch, 40),
    "sums_over_ranks": (transfer.sums_over_ranks, 40),
    "base": (speed.base, 60),
    "base_without_dropout": (speed.base_without_dropout, 60),
    "large": (speed.large, 60),
    "demo_data": (training.demo_data, 60),
    "short_runs": (training.short_runs, 100),
    "kill_and_resume": (training.kill_and_resume, 90),
}


@dataclass(kw_only=True)
class DeviceCheckConfig:
    """Options of the device check."""

    output: str = option(help="new folder for results.jsonl, table.md and the files of the phases", path="own")
    device: Literal["cuda", "cpu"] | None = option(None, help="device to check; None: the GPU where there is one")
    phases: list[str] = option([], help="names of the phases to run; none: all of them, in their order")
    limit: float = option(
        0.0,
        help="time limit of all phases together, in minutes; 0: 6 on a GPU, 24 on a CPU",
        at_least=0,
        at_most=100_000,
    )
    only: str = option("", help="run this one phase in the present process, for a debugger")


def run_phase(name: str, setting: Setting) -> dict[str, Any]:
    """Run a phase in this process; returns its status, problem and results. An error is a result too."""
    try:
        distributed.use_device(setting.device)
        return {"status": "passed", "results": PHASES[name][0](setting)}
    except PhaseFailure as failure:
        return {"status": "failed", "problem": str(failure), "results": failure.results}
    except Exception as error:
        traceback.print_exc()
        return {"status": "failed", "problem": f"{type(error).__name__}: {error}", "results": {}}


def run_in_child(name: str, setting: Setting, limit: float) -> dict[str, Any]:
    """Run a phase in a process of its own, for at most `limit` seconds; returns its line of `results.jsonl`."""
    started = time.monotonic()
    result = setting.folder / f"{name}.json"
    command = [sys.executable, "-m", "scripts.device_check", "--only", name]
    command += ["--output", str(setting.folder), "--device", setting.device.type]
    with open(setting.folder / f"{name}.txt", "wb") as log:
        process = subprocess.Popen(command, cwd=CHECKOUT, stdout=log, stderr=log, start_new_session=True)
        try:
            status = process.wait(limit)
            line = (
                read_json(result)
                if result.exists()
                else {"status": "failed", "problem": f"status {status}: read {name}.txt"}
            )
        except subprocess.TimeoutExpired:
            line = {"status": "failed", "problem": f"not done after its limit of {limit:.0f} s"}
        with contextlib.suppress(ProcessLookupError):  # processes that the phase left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {"phase": name, "seconds": round(time.monotonic() - started, 1), **line}


def table(lines: list[dict[str, Any]]) -> str:
    """The results as a Markdown table: a row for each phase, with its summary or its problem."""
    rows = ["| phase | status | seconds | |", "|---|---|---|---|"]
    for line in lines:
        text = line.get("problem") or line["results"].get("summary", "")
        rows.append(f"| {line['phase']} | {line['status']} | {line['seconds']} | {' '.join(text.split())[:600]} |")
    return "\n".join(rows) + "\n"


def check(setting: Setting, names: list[str], limit: float) -> list[dict[str, Any]]:
    """Run phases one after the other within `limit` seconds, and write results after each; returns their lines.

    When the first one fails, which needs nothing but the device and torch, the others are not tried.
    """
    lines: list[dict[str, Any]] = []
    end = time.monotonic() + limit
    for name in names:
        remaining = end - time.monotonic()
        if remaining < 5:
            lines.append({"phase": name, "seconds": 0, "status": "failed", "problem": "no time was left"})
        else:
            patience = 1 if setting.on_gpu else CPU_PATIENCE
            lines.append(run_in_child(name, setting, min(PHASES[name][1] * patience, remaining)))
        with open(setting.folder / "results.jsonl", "a") as stream:
            stream.write(json.dumps(lines[-1]) + "\n")
        (setting.folder / "table.md").write_text(table(lines))
        print(table(lines[-1:]).splitlines()[-1], flush=True)
        if name == names[0] == "versions" and lines[0]["status"] != "passed":
            print((setting.folder / f"{name}.txt").read_text(), file=sys.stderr)
            break
    return lines


def main(argv: list[str] | None = None) -> None:
    """Run the phases; exit status 1 if one failed. `InputError` for wrong options."""
    config, _ = parse(DeviceCheckConfig, argv)
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    setting = Setting(device=torch.device(device, 0), folder=Path(config.output).absolute())
    unknown = [name for name in [*config.phases, config.only] if name and name not in PHASES]
    if unknown:
        raise InputError("unknown phase", key="--phases", found=unknown[0], expected=", ".join(PHASES))
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no GPU", key="--device", found=device, expected="cpu", remedy="leave --device out")
    if config.only:
        write_json(setting.folder / f"{config.only}.json", run_phase(config.only, setting))
        return
    if setting.folder.exists() and any(setting.folder.iterdir()):
        raise InputError("the output folder is not empty", file=config.output, key="--output", remedy="name a new one")
    setting.folder.mkdir(parents=True, exist_ok=True)
    minutes = config.limit or (MINUTES if setting.on_gpu else MINUTES * CPU_PATIENCE)
    lines = check(setting, config.phases or list(PHASES), 60 * minutes)
    failed = [line["phase"] for line in lines if line["status"] != "passed"]
    print(f"{len(lines) - len(failed)} phases passed" + (f", failed: {', '.join(failed)}" if failed else ""))
    print(f"results: {setting.folder / 'results.jsonl'}, table: {setting.folder / 'table.md'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    exit_on_input_error(main)
