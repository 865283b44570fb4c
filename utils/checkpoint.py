"""Weights and train states on disk: written whole or not at all, read without running code.

ckpt/model_step_N.pt    the weights alone, a flat state dict in the format that torch before 1.6 reads too
ckpt/train_state_N.pt   all that resuming from step N needs beside them
"""

import logging
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import InputError
from utils.files import atomic_file


def save(path: str | Path, value: Any, old_format: bool = True) -> None:
    """Write `value` whole or not at all: tensors, numbers, texts, numpy arrays, in dicts and lists.

    `old_format`: the one that torch before 1.6 reads too. A file in the newer one can be checked, and opened,
    without reading all of it.
    """
    try:
        with atomic_file(path) as stream:
            torch.save(value, stream, _use_new_zipfile_serialization=not old_format)
    except OSError as error:
        raise InputError("cannot write", file=path, found=error, remedy="free space, or another folder") from error


def load(path: str | Path, mmap: bool = False) -> Any:
    """Read what `torch.save` wrote, onto the CPU. Code in the file is refused, never run.

    `mmap` (newer format only): tensors are read when used.
    """
    path = Path(path)
    if not path.is_file():
        raise _absence_error(path)
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        refusal = re.search(r"GLOBAL [\w.]+|Unsupported class[^\n]*|Trying to call[^\n]*", str(error))
        if refusal is None:
            raise _damage_error(path, error) from None
        raise InputError(
            "file holds more than tensors, numbers and texts (reading it could run code), or is damaged",
            file=path,
            key="checkpoint",
            found=refusal.group(0),
            expected="a state dict saved with torch.save",
            remedy="save model.state_dict() alone, where you trust the file",
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file may fail anywhere in torch's reader
        raise _damage_error(path, error) from None


def save_train_state(ckpt_dir: str | Path, step: int, state: Any, keep_states: int = 2) -> Path:
    """Write `train_state_{step}.pt` and remove all but the newest `keep_states`. Save the step's weights first."""
    path = Path(ckpt_dir) / f"train_state_{step}.pt"
    save(path, state, old_format=False)
    for _, old_state in train_states(ckpt_dir)[keep_states:]:
        old_state.unlink(missing_ok=True)
    for temporary in path.parent.glob(".*.pt.*.tmp"):  # of a run that was killed while it wrote
        temporary.unlink(missing_ok=True)
    return path


def train_states(ckpt_dir: str | Path) -> list[tuple[int, Path]]:
    """(step, path) of every train state, newest first."""
    matches = [(re.fullmatch(r"train_state_(\d+)\.pt", path.name), path) for path in Path(ckpt_dir).glob("*.pt")]
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def newest_train_state(
    ckpt_dir: str | Path, weights_path: Callable[[int], Path], logger: logging.Logger | None = None
) -> tuple[int, Path] | None:
    """(step, path) of the newest train state that can be read and whose weights, `weights_path(step)`, exist.

    The log names the states that are passed over. None: there are none. `InputError`: none of them can be used.
    """
    states = train_states(ckpt_dir)
    for step, path in states:
        if not weights_path(step).is_file():
            reason = f"{weights_path(step).name} is missing beside it"
        else:
            try:
                _check_sums(path)
                load(path, mmap=True)
                return step, path
            except InputError as error:
                reason = str(error)
        (logger or logging.getLogger("uniter")).warning("passed over %s: %s", path, reason)
    if states:
        raise InputError(
            "no train state can be used",
            file=ckpt_dir,
            found=", ".join(path.name for _, path in states),
            remedy="start in another output_dir, with a model_step_N.pt as --checkpoint",
        )
    return None


def check_output_dir(output_dir: str | Path, resume: bool) -> None:
    """Refuse a folder that holds something, unless the run resumes. Before anything is written, on rank 0."""
    path = Path(output_dir)
    if path.exists() and not path.is_dir():
        raise InputError("output_dir is a file", file=path, key="output_dir", remedy="name another folder")
    if path.exists() and not resume:
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        if names:
            raise InputError(
                "output_dir is not empty",
                file=path,
                key="output_dir",
                found=", ".join(names[:5]) + (", ..." if len(names) > 5 else ""),
                expected="a new or an empty folder",
                remedy="--resume to go on with that run, or another --output_dir",
            )
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError("output_dir cannot be written", file=path, key="output_dir", found=f"no access to {folder}")


def _check_sums(path: Path) -> None:
    """Compare the checksums inside a file of the newer format, which torch does not look at when it reads."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged_member = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise _damage_error(path, error) from None
    if damaged_member is not None:
        raise _damage_error(path, ValueError(f"checksum of {damaged_member}"))


def _absence_error(path: Path) -> InputError:
    if path.exists():
        return InputError("not a file", file=path, found="a folder", expected="a .pt file")
    neighbours = sorted(entry.name for entry in path.parent.glob("*.pt"))[:8]
    return InputError(
        "file not found",
        file=path,
        key="checkpoint",
        found=f"beside it: {', '.join(neighbours)}" if neighbours else "no .pt file beside it",
        expected="a weight file",
        remedy="check the path" + ("" if path.is_absolute() else "; it is relative to the working directory"),
    )


def _damage_error(path: Path, error: Exception) -> InputError:
    match = re.search(r"WeightsUnpickler error:\s*([^\n]+)", str(error))
    text = match[1] if match else (str(error).splitlines() or [""])[0]
    reason = f"{type(error).__name__}: {text[:160]}"
    size = f"{path.stat().st_size:,} bytes"
    return InputError(
        "not a whole checkpoint of torch",
        file=path,
        key="checkpoint",
        found=f"{size}; {reason}",
        expected="what torch.save writes",
        remedy="copy or write it again",
    )


def _numpy_globals() -> list[Any]:
    """What numpy arrays and numbers of plain dtypes need to be read; none of it runs code from the file."""
    dtype_codes = "?bhilqBHILQefdSU"
    rebuild, scalar = np._core.multiarray._reconstruct, np._core.multiarray.scalar  # type: ignore[attr-defined]
    return [
        np.ndarray,
        np.dtype,
        rebuild,
        scalar,
        (rebuild, "numpy.core.multiarray._reconstruct"),  # its name before numpy 2
        (scalar, "numpy.core.multiarray.scalar"),
        *{type(np.dtype(code)) for code in dtype_codes},
    ]
