"""Parameter groups, optimisers and the learning-rate schedule under the release's names."""

from collections.abc import Sequence

import torch
from torch import nn

MIN_LR = 1e-8  # the release's floor, reached when the schedule has run out


def parameter_groups(model: nn.Module, weight_decay: float, head: str | None = None, lr_mul: float = 1.0) -> list[dict]:
    """Groups by decay and by learning-rate factor; each carries its `lr_mul`.

    No decay on any bias or norm weight, that is, on any parameter that is a vector. `head`: the name under the model
    whose parameters learn `lr_mul` times faster.
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
    """`adamw` (eps 1e-6 as in BERT's; fused), `adam` (decay added to the gradient; fused) or `adamax`."""
    if name == "adamw":
        return torch.optim.AdamW(list(groups), lr=lr, betas=betas, eps=1e-6, fused=True)
    if name == "adam":
        return torch.optim.Adam(list(groups), lr=lr, betas=betas, fused=True)
    assert name == "adamax", name
    return torch.optim.Adamax(list(groups), lr=lr, betas=betas)


def learning_rate(step: int, base: float, warmup_steps: int, num_train_steps: int, decay: str = "linear") -> float:
    """The learning rate of optimiser step `step`, counted from 1: linear warm-up, then `decay`.

    `linear` falls to `MIN_LR` at the last step, `invsqrt` with the inverse square root of the step, `constant` stays.
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
    """Give every group `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mul"]
