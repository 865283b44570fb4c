"""Predictions and scores over whole datasets, on any number of ranks."""

import logging
from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from data.dataset import Dataset
from data.loader import BatchBuilder, Planned, load_batches
from data.sampler import eval_plans
from optim.gather import Collector, Part, Predictions, from_main
from optim.precision import Precision
from optim.prefetch import to_device
from optim.task import Task
from utils.distributed import World

LOG = logging.getLogger("uniter")


class Predictor:
    """Runs a task's model over datasets. The result is the same for any number of ranks."""

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

    def predict(self, dataset: Dataset, everywhere: bool = False) -> Predictions:
        """Run `task.predict` over all of `dataset`; returns its arrays by name, joined along their first axis.

        All ranks must call it. Rank 0 gets the result, other ranks {}, unless `everywhere` asks for it on every rank.
        Rows are in the order of the batches: the array `ids` says which row belongs to which example. `InputError` when
        batches have arrays that do not fit together.
        """
        plans = eval_plans(dataset, self.batch_size)
        collector = Collector(self.world, len(plans), f"predictions of {dataset.task}", everywhere)
        own_plans = plans[self.world.rank :: self.world.size]
        batches = load_batches(BatchBuilder([dataset], by_id=True), own_plans, self.n_workers, self.pin_mem)
        training = self.model.training
        self.model.eval()
        with closing(to_device(batches, self.world.device)) as on_device:
            for _ in range(collector.n_rounds):
                collector.add(self._predict_batches(islice(on_device, collector.per_round)))
        self.model.train(training)
        return collector.join()

    def _predict_batches(self, planned: Iterable[Planned]) -> list[Part]:
        """The predictions of the next batches, each with the number of its batch."""
        with torch.inference_mode(), self.precision.autocast():
            return [(plan.step, self.task.predict(self.model, batch)) for plan, batch in planned]

    def evaluate(self, datasets: Mapping[str, Dataset]) -> dict[str, float]:
        """Predict and score evaluation sets (name to dataset); returns scores by name, `set/metric`, on every rank.

        Rank 0 scores. When it fails, all ranks raise.
        """
        scores: dict[str, float] = {}
        for name, dataset in datasets.items():
            score = partial(self._score, name, self.predict(dataset), dataset)
            scores |= from_main(self.world, score, f"the scores of {name}")
        return scores

    def _score(self, name: str, predictions: Predictions, dataset: Dataset) -> dict[str, float]:
        """The scores of one evaluation set by `set/metric`, with a warning where predictions are NaN."""
        warn_of_nan(name, predictions)
        metrics = self.task.score(predictions, dataset)
        return {f"{name}/{metric}": value for metric, value in metrics.items()}


def warn_of_nan(name: str, predictions: Predictions) -> None:
    """Log a warning where predictions are NaN: the largest of NaN is the first, which would look like an answer."""
    for key, values in predictions.items():
        if values.dtype.kind == "f" and len(values):
            n_nan = int(np.isnan(values).reshape(len(values), -1).any(1).sum())
            if n_nan:
                text = "%s: %d of %d predictions (%s) are NaN: its scores say nothing; look at weights and precision"
                LOG.warning(text, name, n_nan, len(values), key)
