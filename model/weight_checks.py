"""What a checkpoint must be before it is copied into a model: numbers of a kind that fits, and nothing missing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from model.growth import Growth
from model.weight_names import layers, part_of, some
from utils.errors import InputError

NEEDED_PARTS = ("uniter.embeddings", "uniter.encoder")  # what a checkpoint for training must have
ENCODER_NAME = re.compile(r"uniter\.|\w*encoder\.|(.*\.)?(encoder|embeddings)\.")
# Heads that a file may have beside the model: of pre-training, and those named after other tasks.
OTHER_HEAD = re.compile(r"(cls|feat_regress|region_classifier|\w+_output)\.")
SPARE_WEIGHTS = ("cls.seq_relationship.", "cls.predictions.decoder.bias")  # of BERT's head, in no model here
IMAGE_WIDTH = ("uniter.img_embeddings.", "feat_regress.")  # parts with weights as wide as the features
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass
class LoadReport:
    """The names of weights that did not match when a checkpoint was loaded."""

    missing_keys: list[str]  # in the model, but not in the checkpoint
    unexpected_keys: list[str]  # in the checkpoint, but not in the model
    grown_keys: list[str] = field(default_factory=list)  # with fewer rows in the checkpoint than in the model
    derived_keys: list[str] = field(default_factory=list)  # missing, but copied from another head (`head_sources`)

    @property
    def new_keys(self) -> list[str]:
        """The missing weights that stay as initialised."""
        return [key for key in self.missing_keys if key not in self.derived_keys]


def report_of(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Compare the names of a model and of a checkpoint, `state`. Of two names of one tied tensor one is enough.

    A model's `head_sources` maps a head to the head that it starts from where the checkpoint lacks it.
    """
    weights = model.state_dict(keep_vars=True)
    filled = {id(weights[key]) for key in weights if key in state}
    missing_keys = [key for key in weights if key not in state and id(weights[key]) not in filled]
    missing_parts = set(map(part_of, missing_keys))
    sources: Mapping[str, str] = getattr(model, "head_sources", {})
    derived = {head for head, source in sources.items() if head in missing_parts and source not in missing_parts}
    return LoadReport(
        missing_keys=missing_keys,
        unexpected_keys=[key for key in state if key not in weights],
        grown_keys=[key for key in weights if key in state and weights[key].shape != state[key].shape],
        derived_keys=[key for key in missing_keys if part_of(key) in derived],
    )


def check_coverage(
    report: LoadReport, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], complete: bool, source: object
) -> None:
    """`InputError` unless the checkpoint fills what it must fill, and has no other encoder or model beside.

    `complete`: every weight of the model (`weights`) must be there, and no other but heads of other tasks. Otherwise
    all of `NEEDED_PARTS`, and each other part as a whole or not at all.
    """
    known_parts = {*NEEDED_PARTS, *(part_of(key) for key in weights if key in state)}
    missing_keys = [key for key in report.new_keys if complete or part_of(key) in known_parts]
    foreign_keys = [key for key in report.unexpected_keys if ENCODER_NAME.match(key)]
    remedy = "use the model_config that the checkpoint was trained with, or another checkpoint"
    if foreign_keys:
        problem = "the checkpoint has parts of an encoder that the model does not have"
    elif complete:
        foreign_keys = _more_than_the_model(report, weights)
        problem = "the checkpoint has parts that the model does not have: another model was trained"
        remedy = (
            "use the options of the checkpoint's run (model, mlp, …), as in its log/hps.json; or another checkpoint"
        )
    if not missing_keys and not foreign_keys:
        return
    differences = []
    if missing_keys:
        problem = f"the checkpoint does not have all of {part_of(missing_keys[0])} under these names"
        differences.append(f"without {some(missing_keys)}")
    if complete and missing_keys:
        problem = "the checkpoint lacks weights of the model, which would be random numbers"
        remedy = "give a checkpoint of this task, such as ckpt/model_step_best.pt of its run"
    if foreign_keys:
        differences.append(f"with {some(foreign_keys)}, which the model does not have")
    raise InputError(
        problem,
        file=source,
        key="checkpoint",
        found="; ".join([*differences, f"its encoder: {layers(state)}"]),
        expected=f"{some(list(weights))}; its encoder: {layers(weights)}",
        remedy=remedy,
    )


def _more_than_the_model(report: LoadReport, weights: Mapping[str, Tensor]) -> list[str]:
    """The names in the checkpoint that are neither in the model nor in a head of another task."""
    own_parts = set(map(part_of, weights))
    return [
        key
        for key in report.unexpected_keys
        if not key.startswith(SPARE_WEIGHTS) and (part_of(key) in own_parts or not OTHER_HEAD.match(key))
    ]


def check_kind(key: str, value: Tensor, source: object) -> None:
    """`InputError` unless `value` is a plain tensor of floating-point numbers."""
    kind = str(value.dtype).removeprefix("torch.")
    if value.is_nested:
        kind = f"a nested tensor, {kind}"
    elif value.layout is not torch.strided:
        kind = f"a tensor of the layout {str(value.layout).removeprefix('torch.')}, {kind}"
    elif value.dtype in FLOATS and value.device.type == "cpu":
        return
    raise InputError(
        "a weight of the checkpoint is not a plain tensor of floating-point numbers",
        file=source,
        key=key,
        found=kind if value.device.type == "cpu" else f"{kind}, without values (device {value.device})",
        expected="float16, bfloat16, float32 or float64",
        remedy="convert the weights to float32 where they come from, and save them again",
    )


def check_shape(key: str, weight: Tensor, value: Tensor, growth: Growth | None, source: object) -> None:
    """`InputError` unless `value` has the shape of `weight`, or exactly the rows from which it may grow."""
    rows = growth.old_rows if growth is not None else len(weight)
    if value.shape == weight.shape or (weight.ndim and value.shape == (rows, *weight.shape[1:])):
        return
    problem, width = "a weight of the checkpoint has another shape than the model's", ""
    remedy = "use the model_config and vocabulary that the checkpoint was trained with"
    if key.startswith(IMAGE_WIDTH) and value.shape[:1] == weight.shape[:1]:
        problem, width = "the checkpoint was trained with image features of another width", ", from the image stores"
        remedy = "use image stores of the features that the checkpoint was trained with; a run without images: img_dim"
        remedy += " in the model's JSON"
    elif not key.startswith("uniter."):
        remedy = "use a checkpoint without this head, or the answers and model options of the checkpoint's run"
    expected = f"{tuple(weight.shape)}{width}"
    raise InputError(problem, file=source, key=key, found=tuple(value.shape), expected=expected, remedy=remedy)


def check_values(key: str, weight: Tensor, value: Tensor, is_tied: bool, source: object) -> None:
    """`InputError` unless `weight` is finite after `value` was copied into its first rows.

    `is_tied`: the checkpoint has it under another name too; then it must still hold `value` when all are copied.
    """
    first_rows = weight[: len(value)] if weight.ndim else weight
    if not torch.isfinite(first_rows.sum()) and not torch.isfinite(first_rows).all():  # a sum is faster
        raise InputError(
            "a weight of the checkpoint is not finite",
            file=source,
            key=key,
            found=f"{int((~torch.isfinite(first_rows)).sum())} of {value.numel()} are NaN, infinite or too large",
            expected="finite numbers",
            remedy="use the weights of an earlier step",
        )
    if is_tied and not torch.equal(first_rows, value.to(weight.dtype)):
        raise InputError(
            "a weight that the model uses in two places has two different values in the checkpoint",
            file=source,
            key=key,
            found="other numbers than under its second name",
            expected="the same numbers under both names",
            remedy="use the weights of a model that ties its word embedding and its decoder, as BERT and UNITER do",
        )
