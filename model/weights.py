"""Loading of weights: checkpoints of this framework, of the 2020 release, and of BERT (DESIGN section 4)."""

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

# Keys under which some files keep the state dict, tried in this order.
WRAPPERS = ("model_state", "model", "state_dict")
BERT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pt")


@dataclass
class LoadReport:
    """The names of weights that did not match when a checkpoint was loaded."""

    missing_keys: list[str]  # in the model, but not in the checkpoint
    unexpected_keys: list[str]  # in the checkpoint, but not in the model
    grown_keys: list[str] = field(default_factory=list)  # with fewer rows in the checkpoint than in the model


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a flat state dict, under our names, from a file or a local Hugging Face folder. No code in it is run.

    `InputError` when the file is missing or damaged, or holds no state dict.
    """
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    state = _safetensors(path) if path.suffix == ".safetensors" else checkpoint.load(path)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(
            "the file has no state dict",
            file=path,
            found=type(state).__name__,
            expected="a map from names to tensors",
            remedy="give a file of model weights",
        )
    return {_rename(key): value for key, value in state.items() if not key.endswith("position_ids")}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: object) -> LoadReport:
    """Copy `state` into `model`, cast to the model's precision, and report the names that did not match.

    `InputError` when nothing fits, or a shape differs; a weight in the model's `growth` may have fewer rows.
    Of two names of one tied tensor, the later one in the model wins, and an absent one does not count as missing.
    `source`: where `state` is from, for messages.
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
            remedy="give a checkpoint of UNITER, or of BERT with BERT's own names",
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
    """`InputError` unless `value` has exactly the number of rows from which `weight` may grow."""
    if growth is None or value.shape != (growth.old_rows, *weight.shape[1:]):
        raise InputError(
            "a weight of the checkpoint has another shape than the model's",
            file=source,
            key=key,
            found=tuple(value.shape),
            expected=tuple(weight.shape),
            remedy="use the model_config and vocabulary that the checkpoint was trained with",
        )


def _grow(key: str, weight: Tensor, value: Tensor, growth: Growth) -> None:
    """Copy `value` into the first rows of `weight`; new rows are copies of one of its rows, or stay as they are."""
    weight[: len(value)] = value
    new_rows = "stay as initialised"
    if growth.source_row is not None:
        weight[len(value) :] = value[growth.source_row]
        new_rows = f"copy row {growth.source_row}"
    LOG.info("%s: %d rows became %d, the new ones %s", key, len(value), len(weight), new_rows)


def load_checkpoint(model: nn.Module, path: str | Path | None) -> LoadReport:
    """Load a checkpoint into `model`, and log the names that did not match; `InputError` as `load_weights`.

    Without a `path` the model keeps its initial weights.
    """
    if not path:
        LOG.info("no checkpoint: all weights stay as initialised")
        return LoadReport(missing_keys=list(model.state_dict()), unexpected_keys=[])
    report = load_weights(model, read_weights(path), path)
    LOG.info("loaded %s", path)
    for what, keys in (("not in the checkpoint", report.missing_keys), ("not in the model", report.unexpected_keys)):
        if keys:
            LOG.info("%s: %d weights: %s", what, len(keys), ", ".join(keys))
    return report


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            "not a safetensors file",
            file=path,
            found=error,
            expected="a file that safetensors wrote",
            remedy="copy it again",
        ) from None


def _weights_in(folder: Path) -> Path:
    for name in BERT_FILES:
        if (folder / name).exists():
            return folder / name
    raise InputError(
        "the folder has no weights",
        file=folder,
        found="none of the known file names",
        expected=" or ".join(BERT_FILES),
        remedy="give the weight file itself",
    )


def _rename(key: str) -> str:
    """Our name of a weight of BERT: `gamma` and `beta` of its norms and the prefix `bert.` are replaced."""
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        if key.endswith(f"LayerNorm.{old}"):
            key = key.removesuffix(old) + new
    return "uniter." + key.removeprefix("bert.") if key.startswith("bert.") else key
