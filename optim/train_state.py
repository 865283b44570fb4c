"""The train state of a run, and the checkpoint files in `ckpt/` that a run resumes from."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from model.weight_files import read_weights
from model.weight_names import some
from model.weights import load_weights
from optim.run_record import DATA, check_differences, record_of_hps
from optim.update import Updater
from utils import checkpoint
from utils.errors import InputError
from utils.files import atomic_write, read_bytes
from utils.output_dir import check_checkpoints, mark_checkpoint

LOG = logging.getLogger("uniter")
NEEDED = ("stream", "best", "num_threads", "optimizer", "scaler", "skipped")  # keys of every train state


@dataclass(kw_only=True)
class TrainState:
    """Everything that resuming needs besides the weights and the optimiser."""

    valid_steps: int  # optimiser steps between validations
    step: int = 0  # optimiser steps taken
    stream: dict[str, Any] | None = None  # the position in the training data (`BatchPlan.state`); None: the beginning
    best: tuple[float | None, int] | None = None  # main metric and step of the best weights
    best_sum: str | None = None  # `checkpoint.values_sum` of the best weights, known on rank 0; old states have none
    refresh_arrays: dict[str, np.ndarray] | None = None  # the arrays of the task's last `refresh`

    def is_better(self, metric: float | None) -> bool:
        """Whether weights with this main metric become the best weights. Without a metric, the newest are the best."""
        if self.best is None or self.best[0] is None or metric is None or math.isnan(self.best[0]):
            return True
        return metric > self.best[0]

    def to_dict(self, updater: Updater) -> dict[str, Any]:
        """The contents of `train_state_N.pt`."""
        return {
            "step": self.step,
            "stream": self.stream,
            "best": self.best,
            "best_sum": self.best_sum,
            "refreshed": self.refresh_arrays,
            "valid_steps": self.valid_steps,
            "num_threads": torch.get_num_threads(),
            **updater.state_dict(),
        }


class Checkpoints:
    """Saves and loads the weights and train states of one run.

    Weight files are numbered by step, or by epoch for a task that validates once an epoch (`Task.numbered_by`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        numbered_by: Literal["step", "epoch"],
        final_weights: bool,
        valid_steps: int,
        keep_states: int,
        record: dict[str, Any],
    ):
        """`folder`: the run's `ckpt/`; `valid_steps`: optimiser steps of an epoch where files are numbered by epochs.

        `final_weights`: also save the last weights as `model_{numbered_by}_{STEP}_final.pt`. `keep_states`: how many of
        the newest train states to keep. `record`: what decides the numbers of this run (`optim.run_record`).
        """
        self.folder, self.numbered_by, self.final_weights = folder, numbered_by, final_weights
        self.valid_steps, self.keep_states, self.record = valid_steps, keep_states, record

    def weights_path(self, step: int) -> Path:
        """The path of the weight file of a step."""
        if self.numbered_by == "step":
            return self.folder / f"model_step_{step}.pt"
        if step % self.valid_steps:
            return self.folder / f"model_epoch_{step}_final.pt"
        return self.folder / f"model_epoch_{step // self.valid_steps}.pt"

    @property
    def best_path(self) -> Path:
        """The path of the best weights."""
        return self.folder / f"model_{self.numbered_by}_best.pt"

    def final_path(self, step: int) -> Path:
        """The path of the last weights, for tasks that save them under a name of their own."""
        return self.folder / f"model_{self.numbered_by}_{step}_final.pt"

    def save(self, state: TrainState, model: nn.Module, updater: Updater, *, is_best: bool, is_last: bool) -> None:
        """Write the weights, then the train state, so that a run killed at any moment leaves a complete state."""
        paths = [self.weights_path(state.step)]
        weights = model.state_dict()
        weights_sum = checkpoint.values_sum(weights)
        if is_best:
            state.best_sum = weights_sum
            paths.append(self.best_path)
        if is_last and self.final_weights:
            paths.append(self.final_path(state.step))
        for path in dict.fromkeys(paths):
            checkpoint.save(path, weights)
        contents = state.to_dict(updater) | {"record": self.record, "weights_sum": weights_sum}
        checkpoint.save_train_state(self.folder, state.step, contents, keep_states=self.keep_states)
        mark_checkpoint(self.folder.parent, state.step)

    def restore_copies(self, state: TrainState, *, is_last: bool) -> None:
        """Write the best and the last weights again, where a resumed run has lost them or has others, with a warning.

        They are copies of weight files with numbers. A best file of other values is of steps that a killed run took
        after `state`. Where no file has the best weights, the next validation is the best. Rank 0 calls it.
        """
        final = (self.final_path(state.step), state.step, None)
        copies: list[tuple[Path, int, str | None]] = [final] if is_last and self.final_weights else []
        copies += [(self.best_path, state.best[1], state.best_sum)] if state.best else []
        for path, step, expected_sum in copies:
            source = self.weights_path(step)
            if path == source or checkpoint.is_usable(path, expected_sum):
                continue
            if checkpoint.is_usable(source, expected_sum):
                LOG.warning("%s is missing or has other weights; it is written again from %s", path, source.name)
                atomic_write(path, read_bytes(source))
                continue
            LOG.warning("no file has the best weights, of step %d; the next validation will be the best", step)
            state.best = state.best_sum = None

    def resume(self, model: nn.Module, updater: Updater, allow_changes: Sequence[str] = ()) -> TrainState | None:
        """Load the newest complete train state and its weights into the model and the optimiser.

        `allow_changes`: names of differences from the interrupted run that are wanted (see `optim.run_record`). Returns
        the state, or None where a run starts. Raises `InputError` where none can be used, where other things differ,
        and where the model or the length of an epoch is not that of the interrupted run.
        """
        changes = self._compare(model, allow_changes)
        newest = checkpoint.newest_train_state(self.folder, self.weights_path, LOG)
        check_checkpoints(self.folder.parent, newest[0] if newest else 0)
        if newest is None:
            return None
        step, path = newest
        contents = checkpoint.load_train_state(path)
        missing = [key for key in NEEDED if key not in contents]
        if missing:
            remedy = "start a new run in another output_dir, with the weights beside it as --checkpoint"
            raise InputError("the train state is not complete", file=path, key=", ".join(missing), remedy=remedy)
        self._load_weights(model, self.weights_path(step))
        updater.load_state_dict(contents)
        LOG.info("resumed from %s", path)
        for name, text in changes:
            LOG.warning("resumed with a change of %s: %s", name, text)
        if contents["num_threads"] != torch.get_num_threads():
            LOG.warning(
                "this run uses %d CPU threads, the interrupted one used %d: results will agree up to float rounding, "
                "but not bit for bit; set num_threads for that",
                torch.get_num_threads(),
                contents["num_threads"],
            )
        return TrainState(
            valid_steps=self.valid_steps,
            step=step,
            stream=contents["stream"],
            best=contents["best"],
            best_sum=contents.get("best_sum"),
            # Arrays made from other data would name other texts and images.
            refresh_arrays=None if DATA in dict(changes) else contents.get("refreshed"),
        )

    def _load_weights(self, model: nn.Module, path: Path) -> None:
        """Load the weights of the interrupted run; `InputError` unless they fit the model and are finite."""
        state, names = read_weights(path), model.state_dict().keys()
        missing_keys, unexpected_keys = ([*names - state.keys()], [*state.keys() - names])
        if missing_keys or unexpected_keys:
            raise InputError(
                "the run to resume has another model",
                file=path,
                key="checkpoint",
                found=f"without {some(sorted(missing_keys))}; with {some(sorted(unexpected_keys))}",
                expected="weights of the same task and model_config",
                remedy="resume with the same script and options, or start a new run in another output_dir",
            )
        load_weights(model, state, path, complete=True)

    def _compare(self, model: nn.Module, allow_changes: Sequence[str]) -> list[tuple[str, str]]:
        """Compare this run with the record in the newest train state that can be read; returns what differs.

        Raises `InputError` for differences that are not allowed, and if an epoch has another number of steps: weight
        files numbered by epochs can be found only if the number is the same.
        """
        for step, path in checkpoint.train_states(self.folder):
            try:
                contents = checkpoint.load_train_state(path, mmap=True)
            except InputError:
                continue  # `newest_train_state` skips it later, with a log line
            old = contents.get("record") or record_of_hps(self.folder.parent / "log" / "hps.json")
            try:
                changes = check_differences(old, self.record, allow_changes, path)
            except InputError:
                is_of_this_script = old.get("options", {}).keys() == self.record["options"].keys()
                if not is_of_this_script and self.weights_path(step).is_file():
                    self._load_weights(model, self.weights_path(step))  # that it is another model says more
                raise
            valid_steps = contents.get("valid_steps", self.valid_steps)
            if self.numbered_by == "epoch" and valid_steps != self.valid_steps:
                raise InputError(
                    "an epoch has another number of steps than in the run to resume",
                    file=path,
                    key="valid_steps, train_batch_size, gradient_accumulation_steps, ranks",
                    found=f"{self.valid_steps} steps an epoch",
                    expected=f"{valid_steps} steps, because weight files are numbered by epochs",
                    remedy="resume with the same options and ranks, or start a new run in another output_dir",
                )
            return changes
        return []
