"""One optimiser step: average the gradients over ranks, clip them, update the weights; skip it if not finite."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optim.optimizer import build_optimizer, learning_rate, parameter_groups, set_learning_rate
from optim.precision import Precision
from optim.skipped import SkippedSteps
from utils.distributed import World
from utils.run_config import RunConfig

LOG = logging.getLogger("uniter")


class Updater:
    """The optimiser with schedule, clipping and skipping of non-finite steps.

    With Adamax, `step` waits for the device; otherwise it does not.
    """

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        *,
        precision: Precision,
        world: World,
        entries: Sequence[str],
        head: str | None,
        gradient_divisor: int,
    ):
        """`entries`: names of the entries of the training data. `head`: the submodule whose learning rate is multiplied
        by `lr_mul`. `gradient_divisor`: the number that divides the gradients of a step, which are summed over
        micro-batches and ranks."""
        self.config, self.precision, self.world, self.divisor = config, precision, world, gradient_divisor
        self.params = [p for p in model.parameters() if p.requires_grad]
        groups = parameter_groups(model, config.weight_decay, head, config.lr_mul)
        self.optimizer = build_optimizer(groups, config.optim, config.learning_rate, config.betas)
        self.skipped = SkippedSteps(entries, world.device)

    def learning_rate(self, step: int) -> float:
        """The learning rate of optimiser step `step`, counted from 1."""
        c = self.config
        return learning_rate(step, c.learning_rate, c.warmup_steps, c.num_train_steps, c.decay)

    def step(self, step: int, losses: Sequence[Tensor], entry: int = 0) -> Tensor:
        """Take optimiser step `step` with the present gradients; returns their norm before clipping, on the device.

        `losses`: the scalar losses of this rank's micro-batches, which are all of the entry with the number `entry`. If
        a loss or gradient of any rank is not finite, then the norm is NaN or infinite on every rank, and all ranks skip
        the step.
        """
        _carry_nonfinite(next(p for p in self.params if p.grad is not None), losses)
        self.world.average_gradients(self.params, self.divisor)
        if self.precision.scaler.is_enabled():
            self.precision.scaler.unscale_(self.optimizer)
        limit = self.config.grad_norm if self.config.grad_norm > 0 else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.params, limit)
        bad = ~torch.isfinite(norm)
        self.skipped.add(entry, bad)
        set_learning_rate(self.optimizer, self.learning_rate(step))
        self._apply(bad)
        self.optimizer.zero_grad(set_to_none=True)  # a head that the next step does not use must not move or decay
        return norm

    def _apply(self, bad: Tensor) -> None:
        """Update the weights, unless `bad`, a bool on the device, is true."""
        if self.precision.scaler.is_enabled():
            self.precision.scaler.step(self.optimizer)
            self.precision.scaler.update()
        elif self.config.optim == "adamax":  # it has no fused kernel that reads the flag on the device
            if not bad.item():
                self.optimizer.step()
        else:
            self.optimizer.found_inf = bad.to(torch.float32)  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, besides the weights: optimiser, loss scale, skipped steps."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "skipped": self.skipped.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Learning rates, decay rates and weight decay stay as the options say."""
        needed = "exp_inf" if self.config.optim == "adamax" else "exp_avg_sq"
        moments = state["optimizer"]["state"]
        if all(needed in values for values in moments.values()):
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        else:
            LOG.warning("the optimiser %s starts anew: the interrupted run had another one", self.config.optim)
        if self.precision.scaler.is_enabled() and state["scaler"]:  # empty: the run had no loss scale until now
            self.precision.scaler.load_state_dict(state["scaler"])
        self.skipped.load_state_dict(state["skipped"])


def _carry_nonfinite(parameter: nn.Parameter, losses: Sequence[Tensor]) -> None:
    """Add 0 × loss to one gradient: no change if all losses are finite, else NaN, which the all-reduce spreads."""
    assert parameter.grad is not None
    parameter.grad.view(-1)[0].add_(0.0 * torch.stack(list(losses)).sum())
