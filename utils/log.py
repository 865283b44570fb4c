"""What a run leaves for people to read: log.txt, metrics.jsonl, TensorBoard events; and a progress bar."""

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

from utils.config import RunConfig
from utils.files import atomic_write, read_json, write_json
from utils.paths import CHECKOUT

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class _TqdmHandler(logging.Handler):
    """Lines on stderr that do not break a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def open_log(output_dir: str | Path | None, rank: int = 0) -> logging.Logger:
    """The logger of the run, "uniter": stderr and `log/log.txt`, to which a resumed run appends.

    Ranks above 0 write `log/log_rank{N}.txt`, and warnings only to stderr. Without `output_dir` nothing is
    written to files. Opening again closes what an earlier call opened.
    """
    logger = logging.getLogger("uniter")
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    screen = _TqdmHandler()
    screen.setLevel(logging.WARNING if rank else logging.INFO)
    handlers: list[logging.Handler] = [screen]
    if output_dir is not None:
        folder = Path(output_dir) / "log"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"log_rank{rank}.txt" if rank else "log.txt"
        handlers.append(logging.FileHandler(folder / name, "a", encoding="utf-8"))
    prefix = f"[rank {rank}] " if rank else ""
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {prefix}%(message)s", "%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    return logger


class Metrics:
    """`log/metrics.jsonl`, one JSON object with "step" a line, and the same numbers as TensorBoard scalars.

    `resume_step`: the step a run goes on from; what it will write again, later records and "final" ones, is dropped.
    On ranks above 0 nothing is written.
    """

    def __init__(self, output_dir: str | Path, rank: int = 0, resume_step: int | None = None):
        self._board: SummaryWriter | None = None
        self.path = Path(output_dir) / "log" / "metrics.jsonl"
        if rank:
            return
        from torch.utils import tensorboard  # here, because it takes a second to import

        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is not None:
            self.cut_back(resume_step)
        purge_step = None if resume_step is None else resume_step + 1
        self._board = tensorboard.SummaryWriter(str(self.path.parent), purge_step=purge_step)

    def cut_back(self, step: int) -> None:
        """Keep the records up to `step`, but those of its end; drops a last line that a killed run left unfinished."""
        if not self.path.exists():
            return
        lines = [line for line in self.path.read_bytes().splitlines() if _step_of(line) <= step]
        atomic_write(self.path, b"".join(line + b"\n" for line in lines))

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; it must have "step". Numbers that are not finite become null."""
        assert "step" in record
        if self._board is None:
            return
        values = {key: None if _not_finite(value) else value for key, value in record.items()}
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(values, ensure_ascii=False, default=float) + "\n")
        for key, value in values.items():
            if key not in ("step", "final") and isinstance(value, (int, float)):
                self._board.add_scalar(key, value, record["step"])

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._board is not None:
            self._board.close()


class Progress:
    """A bar on rank 0's terminal; where stderr is not a terminal, only the lines that `show` returns."""

    def __init__(self, total: int, start: int = 0, rank: int = 0):
        hidden = True if rank else None  # None: hidden when stderr is no terminal
        self._bar = tqdm(total=total, initial=start, disable=hidden, unit="step", dynamic_ncols=True)
        self.total = total

    def advance(self) -> None:
        """One step is done."""
        self._bar.update()

    def show(self, step: int, loss: float, seconds_per_step: float, units: float, examples: float) -> str:
        """Put loss and rates (units and examples of all ranks, a second) on the bar; return them as a line."""
        rates = f"{units:,.0f} units/s, {examples:,.1f} examples/s"
        remaining_time = timedelta(seconds=round(seconds_per_step * (self.total - step)))
        self._bar.set_postfix_str(f"loss {loss:.4g}, {rates}")
        progress = f"step {step}/{self.total} ({step / max(self.total, 1):.1%})"
        return f"{progress}, loss {loss:.4g}, {rates}, {remaining_time} left"

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def write_run_files(output_dir: str | Path, config: RunConfig, model_config: dict[str, Any]) -> list[str]:
    """Write `log/hps.json`, `log/model.json` and `log/git_info.json`; rank 0 only.

    Returns, for a folder that has an `hps.json` (a resumed run), a line for each option that changed.
    """
    folder = Path(output_dir) / "log"
    options = json.loads(json.dumps(dataclasses.asdict(config)))
    previous = read_json(folder / "hps.json") if (folder / "hps.json").exists() else options
    write_json(folder / "hps.json", options, indent=4)
    write_json(folder / "model.json", model_config, indent=4)
    write_json(folder / "git_info.json", git_info(), indent=4)
    keys = [key for key in options if key != "resume" and previous.get(key) != options[key]]
    return [f"option {key} was {previous.get(key)!r}, is now {options[key]!r}" for key in keys]


def git_info(folder: str | Path = CHECKOUT) -> dict[str, Any]:
    """Commit, branch and changed files of the checkout; {} where git is missing or `folder` no checkout."""

    def ask(*command: str) -> str:
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
    """The step of a metrics line; infinity for one of a run's end, and for a line that is not whole."""
    try:
        record = json.loads(line)
        return math.inf if record.get("final") else float(record["step"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return math.inf


def _not_finite(value: Any) -> bool:
    """Whether `value` is a float that is NaN or infinite."""
    return isinstance(value, float) and not math.isfinite(value)
