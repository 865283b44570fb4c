"""Checkpoint files: weights and train states, written whole or not at all, and read without running code.

ckpt/model_step_N.pt    the weights: a flat state dict, in a format that torch before 1.6 can read too, and a checksum
ckpt/train_state_N.pt   everything else that resuming from step N needs: optimiser, data position, best score
"""

import contextlib
import hashlib
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch

from utils.checksum import ChecksumWriter, check_checksum
from utils.errors import InputError
from utils.files import atomic_file
from utils.os_errors import kind_of, writing
from utils.weight_formats import CONVERSION, other_format


def save(path: str | Path, value: Any, old_format: bool = True) -> None:
    """Write `value`, dicts and lists of tensors, numbers, strings and numpy arrays, to `path`, whole or not at all.

    `old_format`: the format that torch before 1.6 can read too, followed by our checksum. A file in the newer format
    has checksums of its own and can be opened without reading all of it. Raises `InputError` when writing fails, for
    example on a full disk.
    """
    needed = _n_bytes(value)
    # torch raises RuntimeError for what the operating system says.
    with writing(path, needed, errors=(RuntimeError,)), atomic_file(path, needed) as stream:
        if old_format:
            writer = ChecksumWriter(stream)
            torch.save(value, cast(BinaryIO, writer), _use_new_zipfile_serialization=False)
            writer.finish()
        else:
            torch.save(value, stream)


def _n_bytes(value: Any) -> int:
    """The bytes of all tensors and arrays in `value`: about the size of its file."""
    if isinstance(value, dict | list | tuple):
        return sum(map(_n_bytes, value.values() if isinstance(value, dict) else value))
    return int(getattr(value, "nbytes", 0))


def values_sum(weights: dict[str, Any]) -> str:
    """The sha256 of the names, types, shapes and values of a state dict's tensors, on any device, whatever file has
    them."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def has_sum(path: Path, expected_sum: str | None) -> bool:
    """Whether a weight file has these values (see `values_sum`; None: any); `InputError` where it cannot be read."""
    weights = load(path)
    return expected_sum is None or (isinstance(weights, dict) and values_sum(weights) == expected_sum)


def is_usable(path: Path, expected_sum: str | None) -> bool:
    """Whether a weight file can be read and has these values, as in `has_sum`."""
    with contextlib.suppress(InputError):
        return has_sum(path, expected_sum)
    return False


def load(path: str | Path, mmap: bool = False) -> Any:
    """Read a file that `torch.save` wrote, onto the CPU. A file with code in it is refused; the code is never run.

    `mmap` (newer format only): tensors are read when they are used, and no checksum is checked. Raises `InputError` for
    a file that does not exist, is damaged, or holds more than tensors, numbers, strings and numpy arrays.
    """
    path = Path(path)
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise _absence_error(path)
    try:
        if not mmap:
            _check_sums(path)
        with torch.serialization.safe_globals(_numpy_globals()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        refusal = re.search(r"GLOBAL [\w.]+|Unsupported class[^\n]*|Trying to call[^\n]*", str(error))
        if refusal is None:
            raise _damage_error(path, error) from None
        raise InputError(
            "the file is damaged, or holds more than tensors, arrays, numbers and strings: reading it could run code",
            file=path,
            key="checkpoint",
            found=refusal.group(0),
            expected="a state dict saved with torch.save",
            remedy="if you trust the file, load it yourself and save model.state_dict() alone",
        ) from None
    except (MemoryError, InputError):
        raise
    except Exception as error:  # torch may raise any error for a damaged file
        raise _damage_error(path, error) from None


def save_train_state(ckpt_dir: str | Path, step: int, state: Any, keep_states: int = 2) -> Path:
    """Write `train_state_{step}.pt`, then remove all train states but the newest `keep_states`; returns its path.

    Save the weights of the step first: a train state without its weights cannot be used.
    """
    path = Path(ckpt_dir) / f"train_state_{step}.pt"
    save(path, state, old_format=False)
    for _, old_state in train_states(ckpt_dir)[keep_states:]:
        old_state.unlink(missing_ok=True)
    for temporary in path.parent.glob(".*.pt.*.tmp"):  # left by a run that was killed while it wrote
        temporary.unlink(missing_ok=True)
    return path


def train_states(ckpt_dir: str | Path) -> list[tuple[int, Path]]:
    """List the train states in a folder as (step, path), newest first."""
    matches = [(re.fullmatch(r"train_state_(\d+)\.pt", path.name), path) for path in Path(ckpt_dir).glob("*.pt")]
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def load_train_state(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read a train state; `InputError` as in `load`, and where it is not the state of the step in its name."""
    contents = load(path, mmap)
    step = int(path.stem.rpartition("_")[2])
    if not isinstance(contents, dict) or contents.get("step") != step:
        found = f"step {contents.get('step')}" if isinstance(contents, dict) else f"a {type(contents).__name__}"
        remedy = "give the file its old name, or remove it: the train state before it is used then"
        raise InputError("not the train state of this step", file=path, found=found, expected=step, remedy=remedy)
    return contents


def newest_train_state(
    ckpt_dir: str | Path, weights_path: Callable[[int], Path], logger: logging.Logger | None = None
) -> tuple[int, Path] | None:
    """Find the newest train state that can be read, and whose weight file, `weights_path(step)`, can be too.

    Returns (step, path), or None where there is no train state. The log names the states that are skipped. Raises
    `InputError` where there are train states and none can be used.
    """
    states = train_states(ckpt_dir)
    for step, path in states:
        if not weights_path(step).is_file():
            reason = f"{weights_path(step).name} is missing"
        else:
            try:
                _check_sums(path)
                expected_sum = load_train_state(path, mmap=True).get("weights_sum")  # old states have none
                if has_sum(weights_path(step), expected_sum):  # checks the file's own checksum too
                    return step, path
                reason = f"{weights_path(step).name} does not hold the weights that this train state was saved with"
            except InputError as error:
                reason = str(error)
        (logger or logging.getLogger("uniter")).warning("skipped %s: %s", path, reason)
    if states:
        raise InputError(
            "no train state can be used",
            file=ckpt_dir,
            found=", ".join(path.name for _, path in states),
            expected="a complete train state with its weight file beside it; the log says what each of these lacks",
            remedy="start a new run in another output_dir, with a model_step_N.pt as --checkpoint",
        )
    return None


def _check_sums(path: Path) -> None:
    """Check the checksums of a file, because torch does not check them; `InputError` if one is wrong.

    A file in the newer format, a zip, has them for its members (all are wrong where torch was told not to compute
    them); one in the old format may have one of ours at its end.
    """
    with open(path, "rb") as stream:
        is_zip = stream.read(4) == b"PK\x03\x04"
    if not is_zip:
        return check_checksum(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged_members = [name for name in names if not _is_whole(archive, name)]
    except (OSError, zipfile.BadZipFile) as error:
        raise _damage_error(path, error) from None
    if damaged_members and len(damaged_members) < len(names):
        raise _damage_error(path, ValueError(f"wrong checksum of {damaged_members[0]}"))


def _is_whole(archive: zipfile.ZipFile, name: str) -> bool:
    """Whether a member of a zip can be read and has its checksum."""
    try:
        with archive.open(name) as member:
            while member.read(1 << 20):
                pass
    except Exception:  # for a damaged member zipfile raises its own errors and zlib's
        return False
    return True


def _absence_error(path: Path) -> InputError:
    """The error for a checkpoint path that is not a file; it lists the .pt files in the same folder."""
    if os.path.exists(path):
        return InputError("not a file", file=path, found=kind_of(path), expected="a .pt file", remedy="name a file")
    tensorflow = f"{path.name}.index"  # TensorFlow names a checkpoint by the beginning of its files' names
    remedy = "check the path" + ("" if path.is_absolute() else "; it is relative to the working directory")
    if os.path.isfile(f"{path}.index"):
        remedy = f"{tensorflow} is of TensorFlow: convert it to PyTorch, {CONVERSION}"
    neighbours = sorted(entry.name for entry in path.parent.glob("*.pt"))[:8]
    return InputError(
        "file not found",
        file=path,
        key="checkpoint",
        found=f"in that folder: {', '.join(neighbours)}" if neighbours else "no .pt file in that folder",
        expected="a weight file",
        remedy=remedy,
    )


def _damage_error(path: Path, error: Exception) -> InputError:
    """The error for a file that torch cannot read: its format if that is another, else torch's reason and the size."""
    if other := other_format(path):
        return InputError(
            "not a weight file of PyTorch",
            file=path,
            key="checkpoint",
            found=other[0],
            expected="a file that torch.save or safetensors wrote",
            remedy=other[1],
        )
    match = re.search(r"WeightsUnpickler error:\s*([^\n]+)", str(error))
    text = match[1] if match else (str(error).splitlines() or [""])[0]
    reason = f"{type(error).__name__}: {text[:160]}"
    size = f"{path.stat().st_size:,} bytes"
    return InputError(
        "the checkpoint is damaged or incomplete",
        file=path,
        key="checkpoint",
        found=f"{size}; {reason}",
        expected="a complete file that torch.save wrote",
        remedy="copy or write it again",
    )


def _numpy_globals() -> list[Any]:
    """The names that torch needs to read numpy arrays and numbers of plain dtypes; none runs code from the file."""
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
