"""Weights in: checkpoints of this framework, of the 2020 release, and of BERT (DESIGN section 4)."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from utils.errors import InputError

LOG = logging.getLogger("uniter")

# Wrappers under which weight files circulate, tried in this order.
WRAPPERS = ("model_state", "model", "state_dict")
BERT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pt")


@dataclass
class LoadReport:
    """What a checkpoint did not bring (`missing`) and what the model has no place for (`unexpected`), by name."""

    missing: list[str]
    unexpected: list[str]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A flat state dict under our names, from a file or a local Hugging Face folder. No code in it is run."""
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    if not path.exists():
        raise InputError(
            "checkpoint not found", file=path, remedy="check `checkpoint` and `data_root`; nothing is downloaded"
        )
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _torch_load(path)
    except Exception as error:
        raise InputError(
            "not a weight file that can be read safely",
            file=path,
            found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            expected="a state dict of tensors (.pt, .bin, .safetensors), with no other objects in it",
            remedy="re-save it with torch.save(model.state_dict(), FILE), or download it again",
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError("no state dict in the file", file=path, found=type(state).__name__, expected="name → tensor")
    return {_rename(key): value for key, value in state.items() if not key.endswith("position_ids")}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: object) -> LoadReport:
    """Copy `state` into `model`, cast to the model's own precision.

    A shape that differs is an error naming the key and both shapes; so is a checkpoint of which nothing fits. Of two
    names of one tied tensor, the one later in the model wins; a tied name that is absent is not missing.
    """
    own = model.state_dict(keep_vars=True)
    for key in own.keys() & state.keys():
        if own[key].shape != state[key].shape:
            raise InputError(
                "a weight of the checkpoint has another shape than the model's",
                file=source,
                key=key,
                found=tuple(state[key].shape),
                expected=tuple(own[key].shape),
                remedy="use the `model_config` and vocabulary that the checkpoint was trained with",
            )
    if not own.keys() & state.keys():
        raise InputError(
            "no weight of the checkpoint fits the model",
            file=source,
            found=", ".join(list(state)[:3]) + ", …",
            expected=", ".join(list(own)[:3]) + ", …",
        )
    present = {id(own[key]) for key in own.keys() & state.keys()}
    with torch.no_grad():
        for key, parameter in own.items():
            if key in state:
                parameter.copy_(state[key])
    return LoadReport(
        missing=[key for key in own if key not in state and id(own[key]) not in present],
        unexpected=[key for key in state if key not in own],
    )


def load_checkpoint(model: nn.Module, path: str | Path | None) -> None:
    """Load a checkpoint into `model`, if one is given, and log by name what it lacks and what is left over."""
    if not path:
        LOG.info("no checkpoint: weights are as initialised")
        return
    report = load_weights(model, read_weights(path), path)
    LOG.info("loaded %s", path)
    for what, keys in (("not in the checkpoint", report.missing), ("left over", report.unexpected)):
        if keys:
            LOG.info("%s: %d weights: %s", what, len(keys), ", ".join(keys))


def _torch_load(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def _weights_in(folder: Path) -> Path:
    for name in BERT_FILES:
        if (folder / name).exists():
            return folder / name
    raise InputError("no weights in the folder", file=folder, expected=" or ".join(BERT_FILES))


def _rename(key: str) -> str:
    """BERT's names → ours: `gamma`, `beta` of its norms, and the `bert.` prefix."""
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        if key.endswith(f"LayerNorm.{old}"):
            key = key.removesuffix(old) + new
    return "uniter." + key.removeprefix("bert.") if key.startswith("bert.") else key
