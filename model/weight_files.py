"""Reading of weight files: from a path to a flat state dict under the names that the file has."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from utils import checkpoint
from utils.errors import InputError
from utils.files import read_json
from utils.os_errors import open_input
from utils.weight_formats import CONVERSION, is_safetensors

# Keys under which some files keep the state dict, tried in this order; one may lie in another.
WRAPPERS = ("model_state", "model_state_dict", "model", "state_dict", "module")
WRAPPER_DEPTH = 4
BERT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pt")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # of weights in several files, shards
SHARD = re.compile(r".*-\d+-of-0*([2-9]|[1-9]\d+)\.(safetensors|bin)")
OTHER_FRAMEWORKS = re.compile(r"tf_model\.h5|.*\.ckpt\..*|.*\.ckpt|flax_model\.msgpack|.*\.(onnx|h5)")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a flat state dict from a file or a local Hugging Face folder. No code in it is run.

    `InputError` when the file is missing or damaged, or holds anything else than tensors by name.
    """
    path = Path(path)
    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        path = _weights_in(path)
    if path.name.endswith(".index.json"):
        return _shards(path)
    if SHARD.fullmatch(path.name):
        remedy = "give the folder: its *.index.json says which weight is in which file"
        raise InputError("the file has only some of the weights", file=path, key="checkpoint", remedy=remedy)
    return _state_dict(path)


def _state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, taken out of its wrappers."""
    state = _safetensors(path) if is_safetensors(path) else checkpoint.load(path)
    for _ in range(WRAPPER_DEPTH):
        wrappers = [key for key in WRAPPERS if isinstance(state, Mapping) and isinstance(state.get(key), Mapping)]
        for key in wrappers[1:]:
            if not _equal(state[wrappers[0]], state[key]):
                raise InputError(
                    "the file has two state dicts, and they differ",
                    file=path,
                    key="checkpoint",
                    found=f"{wrappers[0]} and {key}",
                    expected="one model",
                    remedy="save the one that you want alone, with torch.save",
                )
        state = state[wrappers[0]] if wrappers else state
    if not isinstance(state, Mapping) or not state:
        raise _no_state_dict(path, f"{state!r}, of the type {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str):
            raise _no_state_dict(path, f"the name {key!r}, of the type {type(key).__name__}")
        if not isinstance(value, Tensor):
            names = ", ".join(map(str, list(state)[:5]))
            raise _no_state_dict(path, f"{key} is of the type {type(value).__name__}; the file has {names}, …", key)
    return dict(state)


def _equal(one: Any, other: Any) -> bool:
    """Whether two contents of a file are the same."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.dtype == other.dtype and torch.equal(one, other))
    return type(one) is type(other) and bool(one == other)


def _shards(index: Path) -> dict[str, Tensor]:
    """The weights in the files that `index` names. `InputError` where it is no index, or a file lacks a weight."""
    contents = read_json(index)
    names = contents.get("weight_map") if isinstance(contents, dict) else None
    files = set(names.values()) if isinstance(names, dict) and all(isinstance(n, str) for n in names.values()) else ()
    if not names or not files or any("/" in file or file in ("", ".", "..") for file in files):
        raise InputError(
            "not the index of weights in several files",
            file=index,
            key="weight_map",
            found=repr(names)[:80],
            expected="an object of weights and the files beside the index that have them",
            remedy="copy the index again from where it comes from",
        )
    state: dict[str, Tensor] = {}
    for file in sorted(files):
        shard = _state_dict(index.parent / file)
        own_names = [name for name in names if names[name] == file]
        for name in own_names:
            if name not in shard:
                remedy = "copy the file again, with the index of the same model"
                found, path = ", ".join(list(shard)[:5]), index.parent / file
                raise InputError(
                    "a weight of the index is not in its file", file=path, key=name, found=found, remedy=remedy
                )
        state |= {name: shard[name] for name in own_names}
    return state


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
    """The file of weights in a folder, or the index of several."""
    for name in (*BERT_FILES, *INDEX_FILES):
        if (folder / name).exists():
            return folder / name
    names = sorted(entry.name for entry in folder.iterdir())
    remedy = "give the weight file itself"
    if any(map(OTHER_FRAMEWORKS.fullmatch, names)):
        remedy = "convert the weights to PyTorch where they come from: " + CONVERSION
    raise InputError(
        "the folder has no weights that PyTorch wrote",
        file=folder,
        key="checkpoint",
        found=", ".join(names[:8]) or "an empty folder",
        expected=" or ".join(BERT_FILES),
        remedy=remedy,
    )
