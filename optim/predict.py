"""Predictions over a whole dataset, on any number of ranks."""

from typing import Any

import numpy as np
import torch
from torch import nn

from data.loader import BatchBuilder, batches
from data.sampler import eval_plans
from optim.precision import Precision
from optim.prefetch import to_device


def predict(
    task: Any, model: nn.Module, data: Any, budget: int, world: Any, precision: Precision, n_workers: int, pin: bool
) -> dict[str, np.ndarray]:
    """`task.predict` over every example of `data`, joined in one order whatever the ranks and workers.

    `budget`: units in a batch. Returns, on every rank, the arrays that `task.predict` names, along their first axis.
    """
    works = eval_plans(data, 0, budget, world.rank, world.size)
    maker = BatchBuilder([data], by_id=True)
    training, parts = model.training, []
    model.eval()
    with torch.inference_mode(), precision.autocast():
        for work, batch in to_device(batches(maker, works, n_workers, pin), world.device):
            parts.append((work.step, task.predict(model, batch)))
    model.train(training)
    everyones = sorted((part for rank in world.gather_objects(parts) for part in rank), key=lambda part: part[0])
    return {name: np.concatenate([part[name] for _, part in everyones]) for name in everyones[0][1]}
