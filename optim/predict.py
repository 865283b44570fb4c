"""Predictions and scores over whole datasets, on any number of ranks."""

import logging
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import nn

from data.dataset import Dataset
from data.loader import BatchBuilder, load_batches
from data.sampler import eval_plans
from optim.precision import Precision
from optim.prefetch import to_device
from optim.task import Task
from utils.distributed import World

LOG = logging.getLogger("uniter")
Predictions = dict[str, np.ndarray]


class Predictor:
    """Runs a task's model over datasets. The result is the same on every rank and for any number of ranks."""

    def __init__(
        self,
        task: Task[Any],
        model: nn.Module,
        *,
        batch_size: int,
        world: World,
        precision: Precision,
        n_workers: int,
        pin_mem: bool,
    ):
        """`batch_size`: the size of a batch, in units or examples, whichever the dataset counts."""
        self.task, self.model, self.batch_size = task, model, batch_size
        self.world, self.precision, self.n_workers, self.pin_mem = world, precision, n_workers, pin_mem

    def predict(self, dataset: Dataset) -> Predictions:
        """Run `task.predict` over all of `dataset`; returns its arrays by name, joined along their first axis.

        All ranks must call it, and all get the result. Rows are in the order of the batches: the array `ids` says which
        row belongs to which example.
        """
        plans = eval_plans(dataset, self.batch_size, self.world.rank, self.world.size)
        batches = load_batches(BatchBuilder([dataset], by_id=True), plans, self.n_workers, self.pin_mem)
        training, parts = self.model.training, []
        self.model.eval()
        on_device = to_device(batches, self.world.device)
        with closing(on_device), torch.inference_mode(), self.precision.autocast():
            for plan, batch in on_device:
                parts.append((plan.step, self.task.predict(self.model, batch)))
        self.model.train(training)
        by_rank = self.world.gather_objects(parts)
        all_parts = sorted((part for rank_parts in by_rank for part in rank_parts), key=lambda part: part[0])
        return {name: np.concatenate([part[name] for _, part in all_parts]) for name in all_parts[0][1]}

    def evaluate(self, datasets: Mapping[str, Dataset]) -> dict[str, float]:
        """Predict and score evaluation sets (name to dataset); returns scores by name, `set/metric`, on every rank."""
        scores: dict[str, float] = {}
        for name, dataset in datasets.items():
            predictions = self.predict(dataset)
            warn_of_nan(name, predictions)
            metrics = self.task.score(predictions, dataset)
            scores |= {f"{name}/{metric}": value for metric, value in metrics.items()}
        return scores


def warn_of_nan(name: str, predictions: Predictions) -> None:
    """Log a warning where predictions are NaN: the largest of NaN is the first, which would look like an answer."""
    for key, values in predictions.items():
        if values.dtype.kind == "f" and len(values):
            n_nan = int(np.isnan(values).reshape(len(values), -1).any(1).sum())
            if n_nan:
                text = "%s: %d of %d predictions (%s) are NaN: its scores say nothing; look at weights and precision"
                LOG.warning(text, name, n_nan, len(values), key)
