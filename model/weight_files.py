"""Reading of weight files: from a path to a flat state dict under the names that the file has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from utils import checkpoint
from utils.errors import InputError
from utils.os_errors import open_input

# Keys under which some files keep the state dict, tried in this order; one may lie in another.
WRAPPERS = ("model_state", "model_state_dict", "model", "state_dict", "module")
WRAPPER_DEPTH = 4
BERT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pt")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a flat state dict from a file or a local Hugging Face folder. No code in it is run.

    `InputError` when the file is missing or damaged, or holds anything else than tensors by name.
    """
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    state = _safetensors(path) if path.suffix == ".safetensors" else checkpoint.load(path)
    for _ in range(WRAPPER_DEPTH):
        inner = next((state[key] for key in WRAPPERS if _is_wrapper(state, key)), None)
        state = state if inner is None else inner
    if not isinstance(state, Mapping) or not state:
        raise _no_state_dict(path, f"{state!r}, of the type {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str):
            raise _no_state_dict(path, f"the name {key!r}, of the type {type(key).__name__}")
        if not isinstance(value, Tensor):
            names = ", ".join(map(str, list(state)[:5]))
            raise _no_state_dict(path, f"{key} is of the type {type(value).__name__}; the file has {names}, …", key)
    return dict(state)


def _is_wrapper(state: Any, key: str) -> bool:
    return isinstance(state, Mapping) and isinstance(state.get(key), Mapping)


def _no_state_dict(path: Path, content: str, key: str = "checkpoint") -> InputError:
    content = " ".join(content.split())
    return InputError(
        "the file has no state dict",
        file=path,
        key=key,
        found=content if len(content) < 200 else f"{content[:97]} … {content[-97:]}",
        expected="a map from names to tensors, at the top or under " + ", ".join(WRAPPERS),
        remedy="give a file of model weights, such as ckpt/model_step_best.pt of a run",
    )


def _safetensors(path: Path) -> dict[str, Tensor]:
    if path.exists():
        open_input(path).close()  # refuses a pipe, which would be waited for
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own, OSError, and KeyError for an unknown number format
        raise InputError(
            "not a safetensors file",
            file=path,
            key="checkpoint",
            found=str(error) or type(error).__name__,
            expected="a file that safetensors wrote",
            remedy="check the path, or copy the file again",
        ) from None


def _weights_in(folder: Path) -> Path:
    for name in BERT_FILES:
        if (folder / name).exists():
            return folder / name
    names = sorted(entry.name for entry in folder.iterdir())[:8]
    raise InputError(
        "the folder has no weights",
        file=folder,
        key="checkpoint",
        found=", ".join(names) or "an empty folder",
        expected=" or ".join(BERT_FILES),
        remedy="give the weight file itself",
    )
