"""THE training loop: accumulation, schedule, logging, validation, checkpoints, resume. It knows no task.

A task (`Task`) decides what is learned from what; everything else about a run is decided here, once.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from data.batch import PackedBatch
from data.loader import Maker, batches
from data.rng import torch_seed
from data.sampler import Entry, TrainStream
from optim.evaluate import predict
from optim.precision import Precision
from optim.prefetch import to_device
from optim.update import Updater
from utils import checkpoint
from utils.log import Metrics, Progress

LOG = logging.getLogger("uniter")


class Task(Protocol):
    """The contract of DESIGN section 3: what an entry script gives the loop."""

    head: str | None  # the part of the model that learns `lr_mul` times faster
    model_config: Any  # a dataclass, kept as log/model.json

    def train_data(self) -> Sequence[Entry]:
        """Training data by name and weight."""

    def eval_data(self) -> Mapping[str, Any]:
        """Evaluation data by name."""

    def build_model(self) -> nn.Module:
        """The model with its head, weights loaded."""

    def loss(self, model: nn.Module, batch: PackedBatch) -> Tensor:
        """The scalar whose gradient a micro-batch gives."""

    def predict(self, model: nn.Module, batch: PackedBatch) -> dict[str, np.ndarray]:
        """What is kept of a batch for `score` and `write`: arrays that join along their first axis."""

    def score(self, predictions: dict[str, np.ndarray], data: Any) -> dict[str, float]:
        """Metrics of one evaluation set."""

    def main_metric(self, scores: dict[str, float]) -> float:
        """The number, higher is better, that decides which checkpoint is the best."""

    def keep(self, output_dir: Path) -> None:
        """Leave in the output folder what later runs on its weights need."""


class Trainer:
    """One run: a task, its options, its output folder, this process's place among the ranks."""

    def __init__(self, task: Task, config: Any, world: Any):
        self.task, self.config, self.world = task, config, world
        self.precision = Precision(config.precision, config.fp16, world.device)
        self.ckpt = Path(config.output_dir) / "ckpt"
        torch.manual_seed(config.seed)
        self.entries = [] if config.eval_only else list(task.train_data())
        self.eval_sets = task.eval_data()
        self.model = self.precision.cast(task.build_model())
        self.step = 0
        self.best: tuple[float, int] | None = None  # main metric and step
        self.stream_state: dict[str, Any] | None = None
        self._window: list[tuple[int, Tensor, Tensor]] = []  # since the last log record: entry, loss, gradient norm
        self._seen = np.zeros(2, np.int64)  # since then, of this rank: units, examples

    def train(self) -> dict[str, float]:
        """Run to `num_train_steps`, from the newest train state if there is one; returns the last scores."""
        c = self.config
        self.updater = Updater(self.model, c, self.precision, self.world, self.task.head)
        self._resume()
        scores: dict[str, float] = {}
        stream = TrainStream(
            self.entries,
            c.seed,
            c.train_batch_size,
            c.batching,
            c.gradient_accumulation_steps,
            self.world.rank,
            self.world.size,
            self.stream_state,
        )
        maker = Maker([entry.data for entry in self.entries], by_id=False)
        made = to_device(batches(maker, stream, c.n_workers, c.pin_mem), self.world.device)
        self.model.train()
        self.bar = Progress(c.num_train_steps, self.step, self.world.rank)
        self._started = time.perf_counter()
        while self.step < c.num_train_steps:
            self._train_step(made)
            due = self.step % c.valid_steps == 0 or self.step == c.num_train_steps
            if due or self.step % c.log_steps == 0:
                self._log()
            if due:
                scores = self._validate_and_save()
        self.bar.close()
        self.metrics.close()
        return scores or self.evaluate()

    def _train_step(self, made: Any) -> None:
        """One optimiser step over this rank's micro-batches, all of one entry."""
        losses = []
        for _ in range(self.config.gradient_accumulation_steps):
            work, batch = next(made)
            # Dropout belongs to the micro-batch, not to the rank or process that computes it.
            torch.manual_seed(torch_seed(self.config.seed, "dropout", work.step, work.micro))
            with self.precision.autocast():
                loss = self.task.loss(self.model, batch)
            self.precision.backward(loss)
            losses.append(loss.detach())
            self._seen += (batch.units, len(batch))
        self.stream_state = work.state
        self.step += 1
        norm = self.updater.step(self.step, losses)
        self._window.append((work.source, torch.stack(losses).mean(), norm))
        self.bar.advance()

    def _log(self) -> None:
        """One record of the steps since the last: mean loss by entry, over all ranks. The only wait for the device."""
        if not self._window:
            return
        numbers = torch.stack([torch.stack((loss.double(), norm.double())) for _, loss, norm in self._window])
        seen = torch.tensor(self._seen, dtype=torch.float64, device=self.world.device)
        numbers = (self.world.sum_(numbers) / self.world.size).cpu()
        units, examples = self.world.sum_(seen).tolist()
        names = [self.entries[source].name for source, _, _ in self._window]
        by_name = {name: [k for k, other in enumerate(names) if other == name] for name in sorted(set(names))}
        record: dict[str, Any] = {
            "step": self.step,
            "lr": self.updater.learning_rate(self.step),
            **{f"loss/{name}": float(numbers[at, 0].mean()) for name, at in by_name.items()},
            "grad_norm": float(numbers[:, 1].mean()),
            "skipped_steps": self.updater.check_skipped(self.step, names[-1]),
            "units": int(units),
            "examples": int(examples),
        }
        seconds, self._started = time.perf_counter() - self._started, time.perf_counter()
        times = {"units_per_s": units / seconds, "examples_per_s": examples / seconds}
        self.metrics.write(record | times)
        shown = float(numbers[:, 0].mean()), seconds / len(self._window), *times.values()
        LOG.info(self.bar.show(self.step, *shown))
        self._window, self._seen = [], np.zeros(2, np.int64)

    def evaluate(self) -> dict[str, float]:
        """The scores of every evaluation set, named `set/metric`, the same on every rank."""
        c = self.config
        scores: dict[str, float] = {}
        for name, data in self.eval_sets.items():
            found = predict(
                self.task, self.model, data, c.val_batch_size, self.world, self.precision, c.n_workers, c.pin_mem
            )
            scores |= {f"{name}/{key}": value for key, value in self.task.score(found, data).items()}
        return scores

    def _validate_and_save(self) -> dict[str, float]:
        """Scores, then weights, then the train state: whatever instant a kill comes at, the last state is whole."""
        scores = self.evaluate()
        main = self.task.main_metric(scores)
        self.metrics.write({"step": self.step, **scores})
        LOG.info("step %d: %s", self.step, ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        if self.world.is_main:
            weights = self.model.state_dict()
            checkpoint.save(self.ckpt / f"model_step_{self.step}.pt", weights)
            if self.best is None or main > self.best[0]:
                checkpoint.save(self.ckpt / "model_step_best.pt", weights)
        if self.best is None or main > self.best[0]:
            self.best = (main, self.step)
        if self.world.is_main:
            checkpoint.save_train_state(self.ckpt, self.step, self._state(), keep=self.config.keep_states)
        self.world.barrier()
        self._started = time.perf_counter()
        return scores

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "stream": self.stream_state,
            "best": self.best,
            "num_threads": torch.get_num_threads(),
            **self.updater.state_dict(),
        }

    def _resume(self) -> None:
        """Continue from the newest whole train state, with its weights, and cut the metrics back to it."""
        found = checkpoint.newest_train_state(self.ckpt, LOG) if self.config.resume else None
        if found is not None:
            self.step, path = found
            state = checkpoint.load(path)
            self.model.load_state_dict(checkpoint.load(self.ckpt / f"model_step_{self.step}.pt"))
            self.updater.load_state_dict(state)
            self.best, self.stream_state = state["best"], state["stream"]
            LOG.info("resumed from %s", path)
            if state["num_threads"] != torch.get_num_threads():
                LOG.warning(
                    "this run computes on %d threads, the resumed one on %d: results agree to float rounding, not bit "
                    "for bit (set num_threads)",
                    torch.get_num_threads(),
                    state["num_threads"],
                )
        resume_step = self.step if self.config.resume else None
        self.metrics = Metrics(self.config.output_dir, self.world.rank, resume_step)
