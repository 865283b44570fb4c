"""Weights in: checkpoints of this framework, of the 2020 release, and of BERT (DESIGN section 4)."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.growth import Growth
from utils import checkpoint
from utils.errors import InputError

LOG = logging.getLogger("uniter")

# Wrappers under which weight files circulate, tried in this order.
WRAPPERS = ("model_state", "model", "state_dict")
BERT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pt")


@dataclass
class LoadReport:
    """By name: what a checkpoint did not bring, what the model has no place for, what came with fewer rows."""

    missing_keys: list[str]
    unexpected_keys: list[str]
    grown_keys: list[str] = field(default_factory=list)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A flat state dict under our names, from a file or a local Hugging Face folder. No code in it is run."""
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    state = _safetensors(path) if path.suffix == ".safetensors" else checkpoint.load(path)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError("no state dict in the file", file=path, found=type(state).__name__, expected="name → tensor")
    return {_rename(key): value for key, value in state.items() if not key.endswith("position_ids")}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: object) -> LoadReport:
    """Copy `state` into `model`, cast to the model's own precision; `source`: where it is from, for messages.

    A shape that differs is an error naming the key and both shapes, unless the model expects that weight to grow (its
    `growth`, where it has one); so is a checkpoint of which nothing fits. Of two names of one tied tensor, the one
    later in the model wins; a tied name that is absent is not missing.
    """
    weights = model.state_dict(keep_vars=True)
    common = [key for key in weights if key in state]
    growth: Mapping[str, Growth] = getattr(model, "growth", {})
    grown_keys = [key for key in common if weights[key].shape != state[key].shape]
    for key in grown_keys:
        _check_growth(key, weights[key], state[key], growth.get(key), source)
    if not common:
        raise InputError(
            "no weight of the checkpoint fits the model",
            file=source,
            key="checkpoint",
            found=", ".join(list(state)[:3]) + ", …",
            expected=", ".join(list(weights)[:3]) + ", …",
            remedy="give a checkpoint of UNITER, or of BERT under its own names",
        )
    filled = {id(weights[key]) for key in common}
    with torch.no_grad():
        for key in common:
            if key in grown_keys:
                _grow(key, weights[key], state[key], growth[key])
            else:
                weights[key].copy_(state[key])
    return LoadReport(
        missing_keys=[key for key in weights if key not in state and id(weights[key]) not in filled],
        unexpected_keys=[key for key in state if key not in weights],
        grown_keys=grown_keys,
    )


def _check_growth(key: str, weight: Tensor, value: Tensor, growth: Growth | None, source: object) -> None:
    """`InputError` unless `value` has exactly the rows that `weight` may grow from."""
    if growth is None or value.shape != (growth.old_rows, *weight.shape[1:]):
        raise InputError(
            "a weight of the checkpoint has another shape than the model's",
            file=source,
            key=key,
            found=tuple(value.shape),
            expected=tuple(weight.shape),
            remedy="use the `model_config` and vocabulary that the checkpoint was trained with",
        )


def _grow(key: str, weight: Tensor, value: Tensor, growth: Growth) -> None:
    """Fill the first rows of `weight`; the new ones copy a row of `value`, or stay as they are."""
    weight[: len(value)] = value
    new_rows = "stay as initialised"
    if growth.source_row is not None:
        weight[len(value) :] = value[growth.source_row]
        new_rows = f"copy row {growth.source_row}"
    LOG.info("%s: %d rows became %d, the new ones %s", key, len(value), len(weight), new_rows)


def load_checkpoint(model: nn.Module, path: str | Path | None) -> LoadReport:
    """Load a checkpoint into `model`, if one is given, and log by name what it lacks and what is left over."""
    if not path:
        LOG.info("no checkpoint: weights are as initialised")
        return LoadReport(missing_keys=list(model.state_dict()), unexpected_keys=[])
    report = load_weights(model, read_weights(path), path)
    LOG.info("loaded %s", path)
    for what, keys in (("not in the checkpoint", report.missing_keys), ("left over", report.unexpected_keys)):
        if keys:
            LOG.info("%s: %d weights: %s", what, len(keys), ", ".join(keys))
    return report


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError("not a safetensors file", file=path, found=error, remedy="copy it again") from None


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
