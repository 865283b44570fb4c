"""Parameter groups, optimisers and learning-rate schedules, under the release's names."""

from collections.abc import Sequence

import torch
from torch import nn

MIN_LR = 1e-8  # the learning rate when the schedule has reached zero, as in the release


def parameter_groups(model: nn.Module, weight_decay: float, head: str | None = None, lr_mul: float = 1.0) -> list[dict]:
    """Group the parameters by weight decay and by learning-rate factor, the key `lr_mul` of each group.

    Biases and norm weights, which are all parameters that are vectors, have no weight decay. `head`: the name of the
    submodule whose learning rate is multiplied by `lr_mul`; None: there is none.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_head = head is not None and name.split(".")[0] == head
            groups.setdefault((in_head, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_mul": lr_mul if in_head else 1.0,
        }
        for (in_head, decays), parameters in sorted(groups.items())
    ]


def build_optimizer(groups: Sequence[dict], name: str, lr: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """Make the optimiser `name`: `adamw` (eps 1e-6 as in BERT; fused), `adam` (fused) or `adamax`.

    `adam` and `adamax` add the weight decay to the gradient. `groups`: see `parameter_groups`.
    """
    if name == "adamw":
        return torch.optim.AdamW(list(groups), lr=lr, betas=betas, eps=1e-6, fused=True)
    if name == "adam":
        return torch.optim.Adam(list(groups), lr=lr, betas=betas, fused=True)
    assert name == "adamax", name
    return torch.optim.Adamax(list(groups), lr=lr, betas=betas)


def learning_rate(step: int, base: float, warmup_steps: int, num_train_steps: int, decay: str = "linear") -> float:
    """The learning rate of optimiser step `step`, counted from 1: linear warm-up to `base`, then the schedule `decay`.

    `linear`: falls to `MIN_LR` at the last step. `invsqrt`: falls with the inverse square root of the step.
    `constant`: stays at `base`.
    """
    if step < warmup_steps:
        factor = step / warmup_steps
    elif decay == "linear":
        factor = (num_train_steps - step) / max(1, num_train_steps - warmup_steps)
    elif decay == "invsqrt":
        factor = (max(1, warmup_steps) / step) ** 0.5
    else:
        assert decay == "constant", decay
        factor = 1.0
    lr = base * factor
    return lr if lr > 0 else MIN_LR


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times its factor `lr_mul`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mul"]
