"""Weights in: checkpoints of this framework, of the 2020 release, and of BERT (DESIGN section 4)."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.uniter import Growth
from utils import checkpoint
from utils.errors import InputError

LOG = logging.getLogger("uniter")

# Wrappers under which weight files circulate, tried in this order.
WRAPPERS = ("model_state", "model", "state_dict")
BERT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pt")


@dataclass
class LoadReport:
    """By name: what a checkpoint did not bring, what the model has no place for, what came with fewer rows."""

    missing: list[str]
    unexpected: list[str]
    grown: list[str] = field(default_factory=list)


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
    """Copy `state` into `model`, cast to the model's own precision.

    A shape that differs is an error naming the key and both shapes, unless the model expects that weight to grow (its
    `growth`, where it has one); so is a checkpoint of which nothing fits. Of two names of one tied tensor, the one
    later in the model wins; a tied name that is absent is not missing.
    """
    own = model.state_dict(keep_vars=True)
    shared = [key for key in own if key in state]
    growth: Mapping[str, Growth] = getattr(model, "growth", {})
    differ = [key for key in shared if own[key].shape != state[key].shape]
    for key in differ:
        if key not in growth or state[key].shape != (growth[key].rows, *own[key].shape[1:]):
            raise InputError(
                "a weight of the checkpoint has another shape than the model's",
                file=source,
                key=key,
                found=tuple(state[key].shape),
                expected=tuple(own[key].shape),
                remedy="use the `model_config` and vocabulary that the checkpoint was trained with",
            )
    if not shared:
        raise InputError(
            "no weight of the checkpoint fits the model",
            file=source,
            key="checkpoint",
            found=", ".join(list(state)[:3]) + ", …",
            expected=", ".join(list(own)[:3]) + ", …",
            remedy="give a checkpoint of UNITER, or of BERT under its own names",
        )
    present = {id(own[key]) for key in shared}
    with torch.no_grad():
        for key in shared:
            if key in differ:
                _grow(own[key], state[key], growth[key].copied)
                source = "stay as initialised" if growth[key].copied is None else f"copy row {growth[key].copied}"
                LOG.info("%s: %d rows became %d, the new ones %s", key, len(state[key]), len(own[key]), source)
            else:
                own[key].copy_(state[key])
    return LoadReport(
        missing=[key for key in own if key not in state and id(own[key]) not in present],
        unexpected=[key for key in state if key not in own],
        grown=differ,
    )


def _grow(own: Tensor, given: Tensor, copied: int | None) -> None:
    """Fill the first rows of `own`; the new ones copy a given row, or stay as they are."""
    own[: len(given)] = given
    if copied is not None:
        own[len(given) :] = given[copied]


def load_checkpoint(model: nn.Module, path: str | Path | None) -> LoadReport:
    """Load a checkpoint into `model`, if one is given, and log by name what it lacks and what is left over."""
    if not path:
        LOG.info("no checkpoint: weights are as initialised")
        return LoadReport(missing=list(model.state_dict()), unexpected=[])
    report = load_weights(model, read_weights(path), path)
    LOG.info("loaded %s", path)
    for what, keys in (("not in the checkpoint", report.missing), ("left over", report.unexpected)):
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
