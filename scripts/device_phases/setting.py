"""What a phase gets, and what it returns."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optim.precision import HALF

Results = dict[str, Any]  # figures by name, as JSON can hold them; the key "summary" is one line for people


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The device to check, and where to write. On a CPU all phases are reduced: small sizes, few steps."""

    device: torch.device
    folder: Path  # of the whole check; a phase may make folders of its own in it

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is checked, at full size."""
        return self.device.type == "cuda"

    @property
    def precisions(self) -> list[str]:
        """The precisions that the device computes in: fp16 needs a GPU."""
        return ["fp32", "bf16", "fp16"] if self.on_gpu else ["fp32", "bf16"]

    @property
    def halves(self) -> dict[str, torch.dtype]:
        """The half precisions of the device, with their types."""
        return {name: HALF[name] for name in self.precisions if name in HALF}

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, function: Callable[[], object], repeats: int = 3) -> float:
        """The shortest time of a call of `function`, of `repeats` calls after one that warms up, in seconds."""
        times = []
        for _ in range(repeats + 1):
            self.synchronize()
            start = time.perf_counter()
            function()
            self.synchronize()
            times.append(time.perf_counter() - start)
        return min(times[1:])


class PhaseFailure(Exception):
    """A phase measured something that is wrong. `results`: its figures up to there."""

    def __init__(self, problem: str, results: Results):
        super().__init__(problem)
        self.results = results


def require(problems: list[str], results: Results) -> Results:
    """The results of a phase; `PhaseFailure` where it collected problems."""
    if problems:
        raise PhaseFailure("; ".join(problems), results)
    return results
