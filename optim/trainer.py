"""THE training loop: accumulation, schedule, logging, validation, checkpoints, resume. It knows no task.

A task (`optim.task.Task`) decides what is learned from what; everything else about a run is decided here, once.
"""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.loader import BatchBuilder, batches
from data.rng import torch_seed
from data.sampler import TrainStream
from optim.precision import Precision
from optim.predict import predict
from optim.prefetch import to_device
from optim.task import Task
from optim.update import Updater
from utils import checkpoint
from utils.errors import InputError
from utils.log import Metrics, Progress

LOG = logging.getLogger("uniter")


class Trainer:
    """One run: a task, its options, its output folder, this process's place among the ranks."""

    def __init__(self, task: Task, config: Any, world: Any):
        self.task, self.config, self.world = task, config, world
        self.precision = Precision(config.precision, config.fp16, world.device)
        self.ckpt = Path(config.output_dir) / "ckpt"
        torch.manual_seed(config.seed)
        self.entries = [] if config.eval_only else list(task.train_data())
        self.eval_sets = task.eval_data()
        self.final_sets = {} if config.eval_only else task.final_data()
        self.model = self.precision.cast(task.build_model())
        self.step = 0
        self.best: tuple[float | None, int] | None = None  # main metric and step
        self.stream_state: dict[str, Any] | None = None
        self.refreshed: dict[str, np.ndarray] | None = None  # what the task's last refresh made
        self._window: list[tuple[int, Tensor, Tensor]] = []  # since the last log record: entry, loss, gradient norm
        self._seen = np.zeros(2, np.int64)  # since then, of this rank: units, examples

    def begin(self) -> None:
        """The optimiser, and all of the newest train state if there is one. Writes nothing."""
        c = self.config
        self.updater = Updater(self.model, c, self.precision, self.world, self.task.head)
        self.valid_steps = c.valid_steps or self._stream().steps_per_epoch()
        self._resume()

    def train(self) -> dict[str, float]:
        """Run to `num_train_steps` from where `begin` stands; returns the last scores."""
        c = self.config
        self.metrics = Metrics(c.output_dir, self.world.rank, self.step if c.resume else None)
        scores: dict[str, float] = {}
        made = None
        self.model.train()
        self.bar = Progress(c.num_train_steps, self.step, self.world.rank)
        self._started = time.perf_counter()
        while self.step < c.num_train_steps:
            if self.task.refresh_steps and self.step % self.task.refresh_steps == 0:
                made = self._refresh()
            made = made or self._batches()
            self._train_step(made)
            due = self.step % self.valid_steps == 0 or self.step == c.num_train_steps
            if due or self.step % c.log_steps == 0:
                self._log()
            if due:
                scores = self._validate_and_save()
        self.bar.close()
        scores = scores or self.evaluate(self.eval_sets)
        if self.final_sets:
            scores |= self.evaluate(self.final_sets)
            self.metrics.write({"step": self.step, "final": True, **scores})
        self.metrics.close()
        return scores

    def _stream(self) -> TrainStream:
        c, world = self.config, self.world
        sizes = c.train_batch_size, c.batching, c.gradient_accumulation_steps, world.rank, world.size
        return TrainStream(self.entries, c.seed, *sizes, self.stream_state)

    def _batches(self) -> Any:
        """This rank's micro-batches from where the stream stands."""
        maker = BatchBuilder([entry.data for entry in self.entries], by_id=False)
        made = batches(maker, self._stream(), self.config.n_workers, self.config.pin_mem)
        return to_device(made, self.world.device)

    def _refresh(self) -> Any:
        """Let the task rebuild its training data; returns batches of the new."""
        self.refreshed = self.task.refresh(self.model, self.step, self._predict)
        self.task.apply_refresh(self.refreshed)
        return self._batches()

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

    def _predict(self, data: Any) -> dict[str, np.ndarray]:
        c = self.config
        budget = c.val_batch_size
        return predict(self.task, self.model, data, budget, self.world, self.precision, c.n_workers, c.pin_mem)

    def evaluate(self, sets: dict[str, Any]) -> dict[str, float]:
        """The scores of evaluation sets, named `set/metric`, the same on every rank."""
        scores: dict[str, float] = {}
        for name, data in sets.items():
            found = self.task.score(self._predict(data), data)
            scores |= {f"{name}/{key}": value for key, value in found.items()}
        return scores

    def _weights(self, step: int) -> Path:
        """The weight file of a step: numbered by steps, or by epochs where the task's are."""
        if self.task.saves == "step":
            return self.ckpt / f"model_step_{step}.pt"
        if step % self.valid_steps:
            return self.ckpt / f"model_epoch_{step}_final.pt"
        return self.ckpt / f"model_epoch_{step // self.valid_steps}.pt"

    def _validate_and_save(self) -> dict[str, float]:
        """Scores, then weights, then the train state: whatever instant a kill comes at, the last state is whole."""
        scores = self.evaluate(self.eval_sets)
        main = self.task.main_metric(scores)
        better = self.best is None or self.best[0] is None or main is None or main > self.best[0]
        self.metrics.write({"step": self.step, **scores})
        LOG.info("step %d: %s", self.step, ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        if self.world.is_main:
            weights = self.model.state_dict()
            files = [self._weights(self.step)]
            if better:
                files.append(self.ckpt / f"model_{self.task.saves}_best.pt")
            if self.task.final_weights and self.step == self.config.num_train_steps:
                files.append(self.ckpt / f"model_{self.task.saves}_{self.step}_final.pt")
            for file in dict.fromkeys(files):
                checkpoint.save(file, weights)
        if better:
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
            "refreshed": self.refreshed,
            "valid_steps": self.valid_steps,
            "num_threads": torch.get_num_threads(),
            **self.updater.state_dict(),
        }

    def _load(self, weights: Path) -> None:
        """The weights of the run to resume, which must be of this model."""
        try:
            self.model.load_state_dict(checkpoint.load(weights))
        except RuntimeError as error:
            raise InputError(
                "the run to resume has another model",
                file=weights,
                found="; ".join(line.strip()[:200] for line in str(error).splitlines()[1:]),
                expected="weights that the same task and model_config saved",
                remedy="resume with the script and options of before, or start in another output_dir",
            ) from None

    def _check_epochs(self) -> None:
        """Weights numbered by epochs are found again only where an epoch has as many steps as before."""
        for _, path in checkpoint.train_states(self.ckpt):
            try:
                before = checkpoint.load(path, mmap=True).get("valid_steps", self.valid_steps)
            except InputError:
                continue  # passed over, and said, when weights are looked for
            if before != self.valid_steps:
                raise InputError(
                    "the run to resume counts other steps as an epoch, by which its weights are numbered",
                    file=path,
                    key="valid_steps, train_batch_size, gradient_accumulation_steps, ranks",
                    found=f"{self.valid_steps} steps an epoch",
                    expected=f"{before}, as before",
                    remedy="resume with the options and ranks of before, or start in another output_dir",
                )

    def _resume(self) -> None:
        """Stand where the newest whole train state, with its weights, was made."""
        if self.config.resume and self.task.saves == "epoch":
            self._check_epochs()
        found = checkpoint.newest_train_state(self.ckpt, self._weights, LOG) if self.config.resume else None
        if found is not None:
            self.step, path = found
            state = checkpoint.load(path)
            self._load(self._weights(self.step))
            self.updater.load_state_dict(state)
            self.best, self.stream_state = state["best"], state["stream"]
            self.refreshed = state.get("refreshed")
            if self.refreshed is not None:
                self.task.apply_refresh(self.refreshed)
            LOG.info("resumed from %s", path)
            if state["num_threads"] != torch.get_num_threads():
                LOG.warning(
                    "this run computes on %d threads, the resumed one on %d: results agree to float rounding, not bit "
                    "for bit (set num_threads)",
                    torch.get_num_threads(),
                    state["num_threads"],
                )
