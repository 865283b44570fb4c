"""Loading of weights: the one door from a checkpoint to a model (DESIGN section 4).

It takes checkpoints of this framework, of the 2020 release, and of BERT. A weight of the model that the checkpoint does
not fill is never silent: inference needs all of them, and no others but heads of other tasks. Training needs the text
embedder and the encoder; another part of the model (the image embedder, the pooler, a head) may be new as a whole, and
a warning says so.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from model.growth import Growth
from model.weight_checks import LoadReport, check_coverage, check_kind, check_shape, check_values, report_of
from model.weight_files import read_weights
from model.weight_names import our_names, part_of, some
from utils.errors import InputError

LOG = logging.getLogger("uniter")


def load_checkpoint(model: nn.Module, path: str | Path | None, complete: bool = False) -> LoadReport:
    """Load a checkpoint into `model`, and log the names that did not match; `InputError` as `load_weights`.

    Without a `path` the model keeps its initial weights.
    """
    if not path:
        LOG.info("no checkpoint: all weights stay as initialised")
        return LoadReport(missing_keys=list(model.state_dict()), unexpected_keys=[])
    report = load_weights(model, read_weights(path), path, complete)
    LOG.info("loaded %s", path)
    if report.new_keys:
        parts = ", ".join(f"{part} ({len(list(keys))} weights)" for part, keys in groupby(report.new_keys, part_of))
        LOG.warning("not in the checkpoint %s, so these start from random numbers: %s", path, parts)
    for what, keys in (("not in the checkpoint", report.missing_keys), ("not in the model", report.unexpected_keys)):
        if keys:
            LOG.info("%s: %d weights: %s", what, len(keys), ", ".join(keys))
    return report


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: object, complete: bool = False) -> LoadReport:
    """Copy `state` into `model`, cast to the model's precision, and report the names that did not match.

    `complete`: `state` must have every weight of the model, as inference needs. `source`: where `state` is from, for
    messages. `InputError` when `state` does not fill the model (`check_coverage`), a shape differs (in training a
    weight in the model's `growth` may have fewer rows), or a value is not a finite floating-point number.
    """
    weights = model.state_dict(keep_vars=True)
    state = our_names(state, weights, source)
    common = [key for key in weights if key in state]
    if not common:
        raise InputError(
            "no weight of the checkpoint fits the model",
            file=source,
            key="checkpoint",
            found=some(list(state)),
            expected=some(list(weights)),
            remedy="give a checkpoint of UNITER, or of BERT with BERT's own names",
        )
    growth: Mapping[str, Growth] = {} if complete else getattr(model, "growth", {})
    for key in common:
        check_kind(key, state[key], source)  # first of all: a nested tensor has no shape
    report = report_of(model, state)
    for key in common:
        check_shape(key, weights[key], state[key], growth.get(key), source)
    check_coverage(report, weights, state, complete, source)
    with torch.no_grad():
        for key in common:
            if key in report.grown_keys:
                _grow(key, weights[key], state[key], growth[key])
            else:
                weights[key].copy_(state[key])
        copies = Counter(id(weights[key]) for key in common)
        for key in common:
            check_values(key, weights[key], state[key], copies[id(weights[key])] > 1, source)
    return report


def _grow(key: str, weight: Tensor, value: Tensor, growth: Growth) -> None:
    """Copy `value` into the first rows of `weight`; new rows are copies of one of its rows, or stay as they are."""
    weight[: len(value)] = value
    new_rows = "stay as initialised"
    if growth.source_row is not None:
        weight[len(value) :] = value[growth.source_row]
        new_rows = f"copy row {growth.source_row}"
    LOG.info("%s: %d rows became %d, the new ones %s", key, len(value), len(weight), new_rows)
