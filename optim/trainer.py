"""THE training loop: accumulation, schedule, logging, validation, checkpoints, resume. It knows no task.

A task (`Task`) decides what is learned from what; everything else about a run is decided here, once.
"""

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
from utils.log import RunLog


class Task(Protocol):
    """The contract of DESIGN section 3: what an entry script gives the loop."""

    head: str | None  # the part of the model that learns `lr_mul` times faster

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


class Trainer:
    """One run: a task, its options, its output folder, this process's place among the ranks."""

    def __init__(self, task: Task, config: Any, world: Any, log: RunLog):
        self.task, self.config, self.world, self.log = task, config, world, log
        self.precision = Precision(config.precision, config.fp16, world.device)
        self.ckpt = Path(config.output_dir) / "ckpt"
        torch.manual_seed(config.seed)
        self.eval_sets = task.eval_data()
        self.model = self.precision.cast(task.build_model())
        self.step, self.best, self.stream_state = 0, None, None
        self._window: list[tuple[int, Tensor, Tensor]] = []  # since the last log record: entry, loss, gradient norm
        self._seen = np.zeros(2, np.int64)  # since then, of this rank: units, examples

    def train(self) -> dict[str, float]:
        """Run to `num_train_steps`, from the newest train state if there is one; returns the last scores."""
        c, entries = self.config, self.task.train_data()
        self._names = [entry.name for entry in entries]
        self.updater = Updater(self.model, c, self.precision, self.world, self.task.head)
        self._resume()
        scores: dict[str, float] = {}
        stream = TrainStream(
            entries,
            c.seed,
            c.train_batch_size,
            c.batching,
            c.gradient_accumulation_steps,
            self.world.rank,
            self.world.size,
            self.stream_state,
        )
        maker = Maker([entry.data for entry in entries], by_id=False)
        made = to_device(batches(maker, stream, c.n_workers, c.pin_mem), self.world.device)
        self.model.train()
        self._started = time.perf_counter()
        with self.log.progress(c.num_train_steps, self.step) as self.bar:
            while self.step < c.num_train_steps:
                self._train_step(made)
                due = self.step % c.valid_steps == 0 or self.step == c.num_train_steps
                if due or self.step % c.log_steps == 0:
                    self._log()
                if due:
                    scores = self._validate_and_save()
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
        self.bar.update(1)

    def _log(self) -> None:
        """One record of the steps since the last: mean loss by entry, over all ranks. The only wait for the device."""
        if not self._window:
            return
        numbers = torch.stack([torch.stack((loss.double(), norm.double())) for _, loss, norm in self._window])
        seen = torch.tensor(self._seen, dtype=torch.float64, device=self.world.device)
        numbers = (self.world.sum_(numbers) / self.world.size).cpu()
        units, examples = self.world.sum_(seen).tolist()
        entries = [self._names[source] for source, _, _ in self._window]
        by_name = {n: [k for k, other in enumerate(entries) if other == n] for n in sorted(set(entries))}
        record: dict[str, Any] = {
            "step": self.step,
            "lr": self.updater.learning_rate(self.step),
            **{f"loss/{n}": float(numbers[at, 0].mean()) for n, at in by_name.items()},
            "grad_norm": float(numbers[:, 1].mean()),
            "skipped_steps": self.updater.check_skipped(self.step, entries[-1]),
            "units": int(units),
            "examples": int(examples),
        }
        seconds, self._started = time.perf_counter() - self._started, time.perf_counter()
        times = {"units_per_s": units / seconds, "examples_per_s": examples / seconds}
        self.log.metrics(record, times)
        self.bar.show(loss=float(numbers[:, 0].mean()), **times)
        self._window, self._seen = [], np.zeros(2, np.int64)

    def evaluate(self) -> dict[str, float]:
        """The scores of every evaluation set, named `set/metric`, the same on every rank."""
        c, scores = self.config, {}
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
        self.log.metrics({"step": self.step, **scores}, {})
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
        found = checkpoint.newest_train_state(self.ckpt) if self.config.resume else None
        if self.config.resume:
            self.log.cut_back(found[0] if found else 0)
        if found is None:
            return
        self.step, state, weights = found
        self.model.load_state_dict(weights)
        self.updater.load_state_dict(state)
        self.best, self.stream_state = state["best"], state["stream"]
        self.log.info(f"resumed from step {self.step} of {self.ckpt}")
        if state["num_threads"] != torch.get_num_threads():
            self.log.info(
                f"this run computes on {torch.get_num_threads()} threads, the resumed one on {state['num_threads']}: "
                "results agree to float rounding, not bit for bit (set num_threads)"
            )
