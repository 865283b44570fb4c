"""The numbers of a log record: losses, gradient norm and speed of the steps since the last record."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.batch import PackedBatch
from utils.distributed import World


@dataclass(kw_only=True)
class WindowSummary:
    """The steps since the last log record: means over steps and ranks, sums of counts over steps and ranks."""

    losses: dict[str, float]  # mean loss of each entry of the training data
    loss: float  # mean loss of all steps
    grad_norm: float  # mean gradient norm before clipping
    skipped: dict[str, str]  # entries with skipped steps, whose gradient norm is not finite: how many of how many
    steps: int  # optimiser steps
    units: int  # text tokens plus image regions, of all ranks
    examples: int  # number of examples, of all ranks
    seconds: float  # time of training, without validation


class LogWindow:
    """Collects the numbers of every step on the device. Only `summarize` waits for the device."""

    def __init__(self) -> None:
        """Start an empty window, and its clock."""
        self._steps: list[tuple[str, Tensor, Tensor]] = []  # entry, loss, gradient norm
        self._counts = np.zeros(2, np.int64)  # units and examples of this rank
        self._start = time.perf_counter()

    def __len__(self) -> int:
        """The number of optimiser steps since the last summary."""
        return len(self._steps)

    def restart_clock(self) -> None:
        """Restart the clock of the rates, so that the time of validation is not counted."""
        self._start = time.perf_counter()

    def add_batch(self, batch: PackedBatch) -> None:
        """Count the units and examples of a micro-batch of this rank."""
        self._counts += (batch.units, len(batch))

    def add_step(self, entry: str, loss: Tensor, grad_norm: Tensor) -> None:
        """Add an optimiser step: the mean loss of this rank's micro-batches, and the gradient norm before clipping.

        `entry`: the name of the entry of the training data. `loss` and `grad_norm`: scalars on the device.
        """
        self._steps.append((entry, loss, grad_norm))

    def summarize(self, world: World) -> WindowSummary:
        """Summarise over all ranks and start a new window. All ranks must call it. It waits for the device."""
        numbers = torch.stack([torch.stack((loss.double(), norm.double())) for _, loss, norm in self._steps])
        counts = torch.tensor(self._counts, dtype=torch.float64, device=world.device)
        numbers = (world.sum_(numbers) / world.size).cpu()
        units, examples = world.sum_(counts).tolist()
        entries = [entry for entry, _, _ in self._steps]
        steps_of = {name: [k for k, entry in enumerate(entries) if entry == name] for name in sorted(set(entries))}
        bad = ~torch.isfinite(numbers[:, 1])
        now = time.perf_counter()
        summary = WindowSummary(
            losses={name: float(numbers[steps, 0].mean()) for name, steps in steps_of.items()},
            loss=float(numbers[:, 0].mean()),
            grad_norm=float(numbers[:, 1].mean()),
            skipped={
                name: f"{int(bad[steps].sum())} of {len(steps)}" for name, steps in steps_of.items() if bad[steps].any()
            },
            steps=len(entries),
            units=int(units),
            examples=int(examples),
            seconds=now - self._start,
        )
        self._steps, self._counts, self._start = [], np.zeros(2, np.int64), now
        return summary
