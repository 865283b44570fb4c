"""What a run logs of the steps since its last log record."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.batch import PackedBatch
from utils.distributed import World


@dataclass(kw_only=True)
class WindowSummary:
    """Means over the steps of a window and over all ranks; counts and seconds of the whole window."""

    losses: dict[str, float]  # by entry
    loss: float  # over all steps
    grad_norm: float
    steps: int
    units: int
    examples: int
    seconds: float
    last_entry: str  # of the last step


class LogWindow:
    """Collects numbers of every step on the device; only `summarize` waits for them."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Tensor, Tensor]] = []  # entry, loss, gradient norm
        self._counts = np.zeros(2, np.int64)  # units and examples of this rank
        self._start = time.perf_counter()

    def __len__(self) -> int:
        """Steps since the last summary."""
        return len(self._steps)

    def restart_clock(self) -> None:
        """Leave the time until now out of the rates: validation is not training."""
        self._start = time.perf_counter()

    def add_batch(self, batch: PackedBatch) -> None:
        """Count a micro-batch of this rank."""
        self._counts += (batch.units, len(batch))

    def add_step(self, entry: str, loss: Tensor, grad_norm: Tensor) -> None:
        """Note an optimiser step: the mean loss of this rank's micro-batches, and the gradient norm before clipping."""
        self._steps.append((entry, loss, grad_norm))

    def summarize(self, world: World) -> WindowSummary:
        """Sum up over all ranks and begin a new window. Every rank must call it. The only wait for the device."""
        numbers = torch.stack([torch.stack((loss.double(), norm.double())) for _, loss, norm in self._steps])
        counts = torch.tensor(self._counts, dtype=torch.float64, device=world.device)
        numbers = (world.sum_(numbers) / world.size).cpu()
        units, examples = world.sum_(counts).tolist()
        entries = [entry for entry, _, _ in self._steps]
        steps_of = {name: [k for k, entry in enumerate(entries) if entry == name] for name in sorted(set(entries))}
        now = time.perf_counter()
        summary = WindowSummary(
            losses={name: float(numbers[steps, 0].mean()) for name, steps in steps_of.items()},
            loss=float(numbers[:, 0].mean()),
            grad_norm=float(numbers[:, 1].mean()),
            steps=len(entries),
            units=int(units),
            examples=int(examples),
            seconds=now - self._start,
            last_entry=entries[-1],
        )
        self._steps, self._counts, self._start = [], np.zeros(2, np.int64), now
        return summary
