"""The log of a run: log.txt, metrics.jsonl, TensorBoard events, and the progress bar on the terminal."""

import dataclasses
import json
import logging
import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from utils.config import read_object
from utils.errors import InputError
from utils.files import append_line, atomic_write, make_folder, read_bytes, write_json
from utils.os_errors import write_error, writing
from utils.paths import CHECKOUT
from utils.run_config import RunConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class _TqdmHandler(logging.Handler):
    """A log handler that writes to stderr without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one log record as a line."""
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


class _FileHandler(logging.FileHandler):
    """A log handler that stops the run when the log cannot be written, as on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise the error about the file that is being handled; others are printed."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise write_error(self.baseFilename, error) from error
        super().handleError(record)


class _Memory(logging.Handler):
    """A log handler that keeps the records of a run until its log file is opened."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


def open_log(output_dir: str | Path | None, rank: int = 0) -> logging.Logger:
    """Open the logger of the run, "uniter", which writes to stderr and to `log/log.txt`. A resumed run appends.

    Ranks above 0 write to `log/log_rank{N}.txt`, and only warnings to stderr. Without `output_dir` no file is written,
    but the next call with one writes what was logged until then: a run that fails at the start leaves no file. A second
    call closes the files of the first.
    """
    logger = logging.getLogger("uniter")
    earlier: list[logging.LogRecord] = []
    for old in list(logger.handlers):
        logger.removeHandler(old)
        earlier += old.records if isinstance(old, _Memory) else []
        old.close()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    screen = _TqdmHandler()
    screen.setLevel(logging.WARNING if rank else logging.INFO)
    handlers: list[logging.Handler] = [screen]
    if output_dir is None:
        handlers.append(_Memory())
    else:
        folder = Path(output_dir) / "log"
        make_folder(folder)
        path = folder / (f"log_rank{rank}.txt" if rank else "log.txt")
        with writing(path):
            handlers.append(_FileHandler(path, "a", encoding="utf-8"))
    prefix = f"[rank {rank}] " if rank else ""
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {prefix}%(message)s", "%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    for record in earlier if output_dir is not None else ():
        handlers[-1].handle(record)
    return logger


class Metrics:
    """Writes the numbers of a run to `log/metrics.jsonl`, a JSON object with "step" on each line, and to TensorBoard.

    Ranks above 0 write nothing.
    """

    def __init__(self, output_dir: str | Path, rank: int = 0, resume_step: int | None = None):
        """`resume_step`: the step that a resumed run starts from; records that it will write again are dropped."""
        self._board: SummaryWriter | None = None
        self.path = Path(output_dir) / "log" / "metrics.jsonl"
        if rank:
            return
        from torch.utils import tensorboard  # imported here, because it takes a second

        make_folder(self.path.parent)
        if resume_step is not None:
            self.cut_back(resume_step)
        purge_step = None if resume_step is None else resume_step + 1
        with writing(self.path.parent):
            self._board = tensorboard.SummaryWriter(str(self.path.parent), purge_step=purge_step)

    def cut_back(self, step: int) -> None:
        """Drop records after `step`, records with "final", and a last line that a killed run left incomplete."""
        if not self.path.exists():
            return
        lines = [line for line in read_bytes(self.path).splitlines() if _step_of(line) <= step]
        atomic_write(self.path, b"".join(line + b"\n" for line in lines))

    def write(self, record: dict[str, Any]) -> None:
        """Append a record, which must have the key "step". Numbers that are not finite become null."""
        assert "step" in record
        if self._board is None:
            return
        values = {key: None if _not_finite(value) else value for key, value in record.items()}
        append_line(self.path, json.dumps(values, ensure_ascii=False, default=float))
        with writing(self.path.parent):
            for key, value in values.items():
                if key not in ("step", "final") and isinstance(value, (int, float)):
                    self._board.add_scalar(key, value, record["step"])

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._board is not None:
            with writing(self.path.parent):
                self._board.close()


class Progress:
    """The progress bar on rank 0's terminal. It is hidden where stderr is not a terminal."""

    def __init__(self, total: int, start: int = 0, rank: int = 0):
        """`total`: optimiser steps of the run; `start`: steps that a resumed run has taken already."""
        hidden = True if rank else None  # None: tqdm hides the bar when stderr is not a terminal
        self._bar = tqdm(total=total, initial=start, disable=hidden, unit="step", dynamic_ncols=True)
        self.total = total

    def advance(self) -> None:
        """Count one step."""
        self._bar.update()

    def show(self, step: int, loss: float, seconds_per_step: float, units: float, examples: float) -> str:
        """Show the loss and the speed on the bar; returns them, with the remaining time, as a line for the log.

        `units` and `examples`: per second, of all ranks together.
        """
        rates = f"{units:,.0f} units/s, {examples:,.1f} examples/s"
        remaining_time = timedelta(seconds=round(seconds_per_step * (self.total - step)))
        self._bar.set_postfix_str(f"loss {loss:.4g}, {rates}")
        progress = f"step {step}/{self.total} ({step / max(self.total, 1):.1%})"
        return f"{progress}, loss {loss:.4g}, {rates}, {remaining_time} left"

    def close(self) -> None:
        """Close the bar; what it shows stays on the screen."""
        self._bar.close()


def write_run_files(output_dir: str | Path, config: RunConfig, model_config: dict[str, Any]) -> list[str]:
    """Write the options, the model's sizes and the commit to `log/hps.json`, `model.json` and `git_info.json`.

    Rank 0 calls it. Returns log lines: for a resumed run, one for each option that differs from the old `hps.json`, or
    one that says that it is damaged.
    """
    folder = Path(output_dir) / "log"
    options = json.loads(json.dumps(dataclasses.asdict(config)))
    previous, notes = options, []
    try:
        previous = read_object(folder / "hps.json") if (folder / "hps.json").exists() else options
    except InputError:  # a power cut may empty it; the train state has what decides numbers
        notes = [f"{folder / 'hps.json'} was damaged and is written again; paths and others are not compared with it"]
    write_json(folder / "hps.json", options, indent=4)
    write_json(folder / "model.json", model_config, indent=4)
    write_json(folder / "git_info.json", git_info(), indent=4)
    keys = [key for key in options if key not in ("resume", "allow_changes") and previous.get(key) != options[key]]
    return notes + [f"the option {key} was {previous.get(key)!r} and is now {options[key]!r}" for key in keys]


def git_info(folder: str | Path = CHECKOUT) -> dict[str, Any]:
    """Commit, branch and changed files of the checkout; {} where git is missing or `folder` is not a checkout."""

    def ask(*command: str) -> str:
        """The output of a git command."""
        result = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=20, check=True
        )
        return result.stdout.rstrip("\n")

    try:
        if Path(ask("rev-parse", "--show-toplevel")).resolve() != Path(folder).resolve():
            return {}
        changed_files = ask("status", "--porcelain").splitlines()
        return {
            "branch": ask("rev-parse", "--abbrev-ref", "HEAD"),
            "sha": ask("rev-parse", "HEAD"),
            "is_dirty": bool(changed_files),
            "changed": changed_files[:100],
        }
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return {}


def _step_of(line: bytes) -> float:
    """The step of a line of metrics.jsonl; infinity for a "final" record and for an incomplete line."""
    try:
        record = json.loads(line)
        return math.inf if record.get("final") else float(record["step"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return math.inf


def _not_finite(value: Any) -> bool:
    """Whether `value` is a float that is NaN or infinite."""
    return isinstance(value, float) and not math.isfinite(value)
