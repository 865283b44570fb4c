"""Steps that were skipped because a loss or gradient was not finite, counted for each entry of the training data."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from utils.errors import InputError

MAX_SKIPPED_IN_A_ROW = 20


class SkippedSteps:
    """Counters on the device, for each entry: skipped steps in all, in a row, and the most in a row.

    A finite step ends only the row of its own entry, so that an objective which always fails cannot hide behind the
    others. Only `totals` and `check` wait for the device.
    """

    def __init__(self, entries: Sequence[str], device: torch.device):
        """`entries`: the names of the entries of the training data."""
        self.entries = list(entries)
        self.counts = torch.zeros(len(self.entries), 3, dtype=torch.int64, device=device)
        self.earlier = 0  # skipped steps of a resumed run whose entry is not known or not there any more

    def add(self, entry: int, bad: Tensor) -> None:
        """Count a step of the entry with this number. `bad`: a bool on the device, whether the step was skipped."""
        total, row, longest = self.counts[entry]
        row = (row + 1) * bad
        self.counts[entry] = torch.stack([total + bad, row, torch.maximum(longest, row)])

    def totals(self) -> dict[str, int]:
        """The skipped steps of each entry so far; waits for the device."""
        return dict(zip(self.entries, self.counts[:, 0].tolist(), strict=True))

    def check(self, step: int) -> None:
        """Raise `InputError` if `MAX_SKIPPED_IN_A_ROW` steps of one entry were skipped in a row by optimiser `step`."""
        rows = self.counts[:, 2].tolist()
        name, longest = max(zip(self.entries, rows, strict=True), key=lambda pair: pair[1])
        if longest >= MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"the loss or gradient of {longest} steps of {name} in a row was not finite",
                key=f"{name}, an entry of the training data, by step {step}",
                found="NaN or infinity",
                expected="a finite loss and gradient",
                remedy="lower learning_rate, set grad_norm, or use precision bf16 or fp32; scripts/check.py finds NaN",
            )

    def state_dict(self) -> dict[str, Any]:
        """The counters by the name of the entry."""
        return {"earlier": self.earlier, "entries": dict(zip(self.entries, self.counts.tolist(), strict=True))}

    def load_state_dict(self, state: dict[str, Any] | Tensor) -> None:
        """Restore what `state_dict` returned. States before 2026-12 are a tensor: the number in all, and in a row."""
        if isinstance(state, Tensor):
            state = {"earlier": int(state[0]), "entries": {}}
        rows = dict(state["entries"])
        for number, name in enumerate(self.entries):
            if name in rows:
                self.counts[number] = torch.tensor(rows.pop(name))
        self.earlier = state["earlier"] + sum(row[0] for row in rows.values())
