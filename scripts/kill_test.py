"""Kill a training run at random moments, resume it, and compare it bit for bit with a run that was never killed.

python -m scripts.kill_test --run config/demo-pretrain.json --trials 20
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().with_name("by_path.py")))

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from utils import checkpoint
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.options import MOST, MOST_SEED, option
from utils.paths import CHECKOUT

TIMES = ("units_per_s", "examples_per_s")
WORKERS = [(before, after) for before in (0, 2) for after in (0, 2)]  # loader processes before and after the kill


@dataclass(kw_only=True)
class KillTestConfig:
    """Options of the kill test, which kills and resumes training runs."""

    run: str = option("", help="JSON with the options of the run to kill; required")
    script: str = option("pretrain.py", help="training script that reads this JSON")
    trials: int = option(20, help="number of runs to kill and resume", at_least=1, at_most=MOST)
    seed: int = option(0, help="seed of the moments of the kills", at_least=0, at_most=MOST_SEED)
    folder: str = option("", help="folder to keep the runs in; default: a temporary folder")


def start(script: str, config: Path, output: Path, n_workers: int, *flags: str) -> subprocess.Popen[bytes]:
    """Start the run in its own process group, so that a kill also reaches its loader processes."""
    command = [sys.executable, script, "--config", str(config), "--output_dir", str(output)]
    command += ["--n_workers", str(n_workers), "--num_threads", "1", *flags]
    return subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.DEVNULL, start_new_session=True)


def finish(script: str, config: Path, output: Path, n_workers: int, *flags: str) -> None:
    """Run the script to its end; `InputError` if it fails."""
    check_end(start(script, config, output, n_workers, *flags), script, config, output)


def check_end(process: subprocess.Popen[bytes], script: str, config: Path, output: Path) -> None:
    """Wait for the end of a run; `InputError` if it failed."""
    if process.wait():
        raise InputError(
            "the training run failed",
            file=output / "log" / "log.txt",
            found=f"exit status {process.returncode}",
            remedy=f"to see the error, run: python {script} --config {config} --output_dir NEW_FOLDER",
        )


def wait_for_a_record(process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait until the run has logged its first record, or has ended."""
    log = output / "log" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.005)


def kill(process: subprocess.Popen[bytes], output: Path, delay: float) -> bool:
    """Kill `process` and its loader processes `delay` seconds after its first log record; False if it ended before."""
    wait_for_a_record(process, output)
    try:
        process.wait(delay)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def metrics(output: Path) -> list[dict[str, Any]]:
    """The log records of a run, without speeds, which differ between runs."""
    lines = (output / "log" / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def newest(output: Path, name: str) -> Any:
    """The contents of the newest `ckpt/{name}_{number}.pt`."""
    matches = [(re.fullmatch(name + r"_(\d+)\.pt", path.name), path) for path in (output / "ckpt").iterdir()]
    return checkpoint.load(max((int(match[1]), path) for match, path in matches if match)[1])


def difference(a: Any, b: Any, location: str) -> str | None:
    """The first place where two trees of tensors, arrays, numbers and containers differ, or None; bit for bit."""
    if type(a) is not type(b):
        return f"{location}: {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, torch.Tensor):
        return None if a.dtype == b.dtype and torch.equal(a, b) else location
    if isinstance(a, np.ndarray):
        return None if a.dtype == b.dtype and np.array_equal(a, b) else location
    if isinstance(a, dict):
        if list(a) != list(b):
            return f"{location}: keys {list(a)} and {list(b)}"
        return next((d for key in a if (d := difference(a[key], b[key], f"{location}/{key}"))), None)
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{location}: {len(a)} and {len(b)} items"
        return next((d for i, (x, y) in enumerate(zip(a, b)) if (d := difference(x, y, f"{location}[{i}]"))), None)
    return None if a == b or (a != a and b != b) else f"{location}: {a} and {b}"


def compare(whole: Path, killed: Path) -> str | None:
    """The first difference between two finished runs, in weights, best weights, train state or metrics; or None."""
    (best,) = (path.relative_to(whole) for path in (whole / "ckpt").glob("model_*_best.pt"))
    name = "model_(?:step|epoch)"  # the names of weight files have a step or an epoch
    return (
        difference(newest(whole, name), newest(killed, name), "weights")
        or difference(checkpoint.load(whole / best), checkpoint.load(killed / best), "best weights")
        or difference(newest(whole, "train_state"), newest(killed, "train_state"), "train state")
        or difference(metrics(whole), metrics(killed), "metrics.jsonl")
    )


def trial(script: str, config: Path, output: Path, workers: tuple[int, int], delay: float) -> bool:
    """Kill a run once and resume it; returns whether the run was still alive when it was killed."""
    hit = kill(start(script, config, output, workers[0]), output, delay)
    finish(script, config, output, workers[1], "--resume")
    return hit


def check_options(options: KillTestConfig) -> None:
    """Check that the options name a run and a script; `InputError` otherwise."""
    if not options.run:
        raise InputError(
            "the option --run is missing",
            key="--run",
            found="nothing",
            expected="a JSON file with the options of the run to kill",
            remedy="give it, such as --run config/demo-pretrain.json",
        )
    for key, path in (("--run", options.run), ("--script", options.script)):
        if not (CHECKOUT / path).is_file():
            raise InputError("the file does not exist", file=path, key=key, remedy="check the path")


def main(argv: list[str] | None = None) -> None:
    """Run the kill test; `InputError` if a resumed run differs."""
    options, _ = parse(KillTestConfig, argv)
    check_options(options)
    config, rng = Path(options.run), random.Random(options.seed)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="kill_test_"))
    process = start(options.script, config, folder / "never_killed", n_workers=0)
    wait_for_a_record(process, folder / "never_killed")
    started = time.monotonic()
    check_end(process, options.script, config, folder / "never_killed")
    seconds = time.monotonic() - started  # time of steps, validations and checkpoints
    hits = failures = 0
    for k in range(options.trials):
        workers, delay = WORKERS[k % len(WORKERS)], rng.uniform(0.0, 0.9 * seconds)
        hit = trial(options.script, config, folder / f"killed_{k}", workers, delay)
        differs = compare(folder / "never_killed", folder / f"killed_{k}")
        hits, failures = hits + hit, failures + (differs is not None)
        killed = f"killed {delay:.2f} s after its first log record" if hit else "ended before the kill"
        print(f"trial {k}: workers {workers}, {killed}: {differs or 'identical'}", flush=True)
    print(f"{options.trials} trials, {hits} killed alive, {failures} differ", flush=True)
    if failures:
        raise InputError("a resumed run differs from the run that was never killed", file=folder)


if __name__ == "__main__":
    exit_on_input_error(main)
