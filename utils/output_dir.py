"""The output folder of a run: whether it may be used, the lock that keeps a second run out, and a new start in it.

.lock                        hidden; locked while a run lives
log/newest_checkpoint.json   the step of the newest train state, written after it
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.checkpoint import train_states
from utils.errors import InputError
from utils.files import make_folder, read_bytes, read_json, write_json
from utils.os_errors import obstacle, reading, writing

LOG = logging.getLogger("uniter")
MARKER = "newest_checkpoint.json"
OF_A_RUN = re.compile(r"log|ckpt|results.*")  # what a run and inference write there
# What a scheduler, a shell, a file system or a tracker puts into a folder that is meant for a run.
OF_OTHERS = re.compile(r".*\.(out|err|log|[oe]\d+)|lost\+found|wandb|mlruns|core(\.\d+)?|Thumbs\.db|desktop\.ini")


@contextlib.contextmanager
def claimed(output_dir: str | Path, resume: bool) -> Iterator[None]:
    """Keep `output_dir` for this run while the block runs. It is made where it does not exist.

    Raises `InputError` unless it can be written, no other run uses it, and it is new or empty (see `_check_empty`) or
    the run resumes. A block that fails before it writes leaves nothing behind. Rank 0 calls it before anything is
    written.
    """
    path = Path(output_dir)
    _check_writable(path)
    new_folders = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path)
    lock = path / ".lock"
    stream = _lock(lock)
    try:
        _check_empty(path, resume)
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(stream)
        with contextlib.suppress(OSError):  # a run that has written leaves them
            for folder in new_folders:
                folder.rmdir()


def _check_writable(path: Path) -> None:
    """`InputError` unless the folder can be made or written."""
    with reading(path):
        place = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
        reason = obstacle(place)
    if reason is None and not os.access(place, os.W_OK | os.X_OK):
        on_fixed_disk = os.statvfs(place).f_flag & os.ST_RDONLY
        reason = (
            (f"{place} is on a disk that cannot be written", "name a folder on another disk")
            if on_fixed_disk
            else (f"no permission to write in {place}", "name a folder that you may write to")
        )
    if reason is not None:
        found, remedy = reason
        raise InputError("output_dir cannot be written", file=path, key="output_dir", found=found, remedy=remedy)


def _check_empty(path: Path, resume: bool) -> None:
    """`InputError` unless the folder is empty or the run resumes. Hidden files and `OF_OTHERS` do not count."""
    names = sorted(name for entry in path.iterdir() if (name := entry.name)[0] != "." and not OF_OTHERS.fullmatch(name))
    if names and not resume:
        has_run = any(map(OF_A_RUN.fullmatch, names))
        resuming = "give --resume to continue that run, or another --output_dir to start a new one"
        raise InputError(
            "output_dir is not empty",
            file=path,
            key="output_dir",
            found=", ".join(names[:5]) + (", ..." if len(names) > 5 else ""),
            expected="a new or an empty folder; files such as *.out, *.err and *.log do not matter",
            remedy=resuming
            if has_run
            else "name a new folder, such as one in this folder (--resume is for folders that a run has made)",
        )


def _lock(path: Path) -> int:
    """Lock a file for this process, and write who has it; returns its descriptor, which holds the lock.

    The system drops the lock when the process ends, in whatever way. Processes forked from it do not have it. Where the
    file system knows no locks, the log says so. `InputError` when another process has the lock.
    """
    while True:
        with writing(path):
            stream = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = os.read(stream, 300).decode(errors="replace")
                os.close(stream)
                raise _in_use(path.parent, holder) from None
            LOG.warning("%s: no lock (%s), so a second run in this folder would not be noticed", path, error.strerror)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream), os.stat(path)):  # no: its last owner has removed it meanwhile
                break
        os.close(stream)
    with writing(path):
        os.ftruncate(stream, 0)
        started = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        os.write(stream, f"process {os.getpid()} on {socket.gethostname()}, since {started}".encode())
    return stream


def _in_use(path: Path, holder: str) -> InputError:
    """The error for a folder that another run uses; `holder` says which."""
    return InputError(
        "another run is writing to output_dir",
        file=path,
        key="output_dir",
        found=holder or "a run that has just started",
        expected="one run in a folder at a time",
        remedy="wait until it ends or end it (after a launcher is killed, its processes may live on), or name another "
        "--output_dir",
    )


def mark_checkpoint(output_dir: Path, step: int) -> None:
    """Note that the weights and the train state of `step` are complete, so that their loss is noticed later."""
    write_json(output_dir / "log" / MARKER, {"step": step, "train_state": f"ckpt/train_state_{step}.pt"})


def check_checkpoints(output_dir: Path, step: int) -> None:
    """Check that a run that resumes at `step`, 0 for a new start, does not lose a later checkpoint without a word.

    A warning where an older train state is used. Raises `InputError` where there is none, but the run had saved one: a
    run that was killed before its first checkpoint starts again, one whose checkpoints are gone does not.
    """
    newest = _noted_step(output_dir / "log" / MARKER)
    numbers = {int(match[1]) for path in (output_dir / "ckpt").glob("model_*.pt") if (match := _number(path))}
    if step and newest and newest > step:
        LOG.warning("the newest checkpoint was of step %d; its train state cannot be used: back to %d", newest, step)
    metrics = output_dir / "log" / "metrics.jsonl"
    # One weight file alone is what a run leaves that was killed while it wrote its first checkpoint.
    has_lost = newest != 0 or len(numbers) > 1 or (numbers and not metrics.exists()) or _went_on(metrics)
    if step or not has_lost:
        return
    remains = ", ".join(sorted(path.name for path in (output_dir / "ckpt").glob("*.pt"))[:5])
    raise InputError(
        "the run to resume has lost its train states, so it would start again at step 0",
        file=output_dir / "ckpt",
        found=remains or "no checkpoint",
        expected=f"train_state_{newest}.pt and its weights" if newest else "a train_state_N.pt beside the weights",
        remedy="put the files back; or start anew in another --output_dir, with weights of this run as --checkpoint if "
        "any are left",
    )


def _noted_step(marker: Path) -> int | None:
    """The step in the note of the newest checkpoint: 0 without a note; None, with a warning, where it is damaged.

    A power cut may empty the file. The train states say by themselves whether they are complete.
    """
    if not marker.exists():
        return 0
    with contextlib.suppress(InputError):
        if (step := _step_of(read_json(marker))) is not None:
            return step
    LOG.warning("%s is damaged and is not used: whether a later checkpoint was lost is not known", marker)
    return None


def _went_on(metrics: Path) -> bool:
    """Whether a run went on after a validation, by its records: then it had saved a checkpoint."""
    steps, validations = [0], []
    for line in read_bytes(metrics).splitlines() if metrics.exists() else ():
        with contextlib.suppress(ValueError):  # the last line of a killed run may be incomplete
            record = json.loads(line)
            if (step := _step_of(record)) is not None:
                steps.append(step)
                validations += [] if "lr" in record else [step]
    return bool(validations) and max(steps) > min(validations)


def _step_of(record: Any) -> int | None:
    """The step of a record; None where it has none."""
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else None


def _number(path: Path) -> re.Match[str] | None:
    """The match of the name of a weight file that has a step or an epoch."""
    return re.fullmatch(r"model_(?:step|epoch)_(\d+)\.pt", path.name)


def keep_old_metrics(output_dir: Path) -> Path | None:
    """Rename the metrics of a run that starts again at step 0; returns the new path, or None where there are none."""
    metrics = output_dir / "log" / "metrics.jsonl"
    if train_states(output_dir / "ckpt") or not metrics.exists() or not metrics.stat().st_size:
        return None
    numbers = (k for k in range(1, 10**6) if not metrics.with_name(f"metrics_interrupted_{k}.jsonl").exists())
    kept_path = metrics.with_name(f"metrics_interrupted_{next(numbers)}.jsonl")
    with writing(kept_path):
        metrics.rename(kept_path)
    return kept_path
