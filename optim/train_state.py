"""Where a run stands, and the files under `ckpt/` that bring it back there."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from optim.update import Updater
from utils import checkpoint
from utils.errors import InputError

LOG = logging.getLogger("uniter")


@dataclass(kw_only=True)
class TrainState:
    """All that resuming needs besides the weights and the optimiser."""

    valid_steps: int  # optimiser steps between validations
    step: int = 0  # optimiser steps taken
    stream: dict[str, Any] | None = None  # where the training data stand (`BatchPlan.state`)
    best: tuple[float | None, int] | None = None  # main metric and step of the best weights
    refresh_arrays: dict[str, np.ndarray] | None = None  # what the task's last refresh returned

    def is_better(self, metric: float | None) -> bool:
        """Whether weights with this main metric become the best; without a metric the newest are."""
        return self.best is None or self.best[0] is None or metric is None or metric > self.best[0]

    def to_dict(self, updater: Updater) -> dict[str, Any]:
        """The contents of `train_state_N.pt`."""
        return {
            "step": self.step,
            "stream": self.stream,
            "best": self.best,
            "refreshed": self.refresh_arrays,
            "valid_steps": self.valid_steps,
            "num_threads": torch.get_num_threads(),
            **updater.state_dict(),
        }


class Checkpoints:
    """Weights and train states of one run.

    Weights are numbered by steps, or by epochs where the task's are: then validations come once an epoch.
    """

    def __init__(
        self,
        folder: Path,
        *,
        numbered_by: Literal["step", "epoch"],
        final_weights: bool,
        valid_steps: int,
        keep_states: int,
    ):
        """`final_weights`: the last weights are also saved as `model_{numbered_by}_{STEP}_final.pt`."""
        self.folder, self.numbered_by, self.final_weights = folder, numbered_by, final_weights
        self.valid_steps, self.keep_states = valid_steps, keep_states

    def weights_path(self, step: int) -> Path:
        """The weight file of a step."""
        if self.numbered_by == "step":
            return self.folder / f"model_step_{step}.pt"
        if step % self.valid_steps:
            return self.folder / f"model_epoch_{step}_final.pt"
        return self.folder / f"model_epoch_{step // self.valid_steps}.pt"

    def save(self, state: TrainState, model: nn.Module, updater: Updater, *, is_best: bool, is_last: bool) -> None:
        """Write the weights, then the train state: whatever instant a kill comes at, the last state is whole."""
        paths = [self.weights_path(state.step)]
        if is_best:
            paths.append(self.folder / f"model_{self.numbered_by}_best.pt")
        if is_last and self.final_weights:
            paths.append(self.folder / f"model_{self.numbered_by}_{state.step}_final.pt")
        weights = model.state_dict()
        for path in dict.fromkeys(paths):
            checkpoint.save(path, weights)
        checkpoint.save_train_state(self.folder, state.step, state.to_dict(updater), keep_states=self.keep_states)

    def resume(self, model: nn.Module, updater: Updater) -> TrainState | None:
        """Load the newest whole train state, with its weights, into model and optimiser; None: there is none."""
        if self.numbered_by == "epoch":
            self._check_epochs()
        newest = checkpoint.newest_train_state(self.folder, self.weights_path, LOG)
        if newest is None:
            return None
        step, path = newest
        contents = checkpoint.load(path)
        self._load_weights(model, self.weights_path(step))
        updater.load_state_dict(contents)
        LOG.info("resumed from %s", path)
        if contents["num_threads"] != torch.get_num_threads():
            LOG.warning(
                "this run computes on %d threads, the resumed one on %d: results agree to float rounding, not bit for "
                "bit (set num_threads)",
                torch.get_num_threads(),
                contents["num_threads"],
            )
        return TrainState(
            valid_steps=self.valid_steps,
            step=step,
            stream=contents["stream"],
            best=contents["best"],
            refresh_arrays=contents.get("refreshed"),
        )

    def _load_weights(self, model: nn.Module, path: Path) -> None:
        """The weights of the run to resume, which must be of this model."""
        try:
            model.load_state_dict(checkpoint.load(path))
        except RuntimeError as error:
            raise InputError(
                "the run to resume has another model",
                file=path,
                found="; ".join(line.strip()[:200] for line in str(error).splitlines()[1:]),
                expected="weights that the same task and model_config saved",
                remedy="resume with the script and options of before, or start in another output_dir",
            ) from None

    def _check_epochs(self) -> None:
        """Weights numbered by epochs can be found again only where an epoch has as many steps as before."""
        for _, path in checkpoint.train_states(self.folder):
            try:
                valid_steps = checkpoint.load(path, mmap=True).get("valid_steps", self.valid_steps)
            except InputError:
                continue  # passed over, and said, when weights are looked for
            if valid_steps != self.valid_steps:
                raise InputError(
                    "the run to resume counts other steps as an epoch, by which its weights are numbered",
                    file=path,
                    key="valid_steps, train_batch_size, gradient_accumulation_steps, ranks",
                    found=f"{self.valid_steps} steps an epoch",
                    expected=f"{valid_steps}, as before",
                    remedy="resume with the options and ranks of before, or start in another output_dir",
                )
