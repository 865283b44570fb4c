"""THE training loop: accumulation, schedule, logging, validation, checkpoints. It knows no task.

A task (`optim.task.Task`) decides what is learned from which data; everything else about a run is decided here, once.
Beside the loop: the optimiser step with clipping and schedule (`optim.update`), the train state and the weight files
(`optim.train_state`), the numbers of a log record (`optim.log_window`).
"""

import logging
from collections.abc import Generator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data.batch import PackedBatch
from data.loader import BatchBuilder, load_batches
from data.rng import torch_seed
from data.sampler import BatchPlan, TrainStream, check_eval
from optim.log_window import LogWindow
from optim.precision import Precision
from optim.predict import Predictor
from optim.prefetch import to_device
from optim.run_record import check_ranks, run_record
from optim.task import Task
from optim.train_state import Checkpoints, TrainState
from optim.update import Updater
from utils.distributed import World
from utils.errors import InputError
from utils.log import Metrics, Progress
from utils.run_config import RunConfig

LOG = logging.getLogger("uniter")

Batches = Generator[tuple[BatchPlan, PackedBatch]]


class Trainer:
    """One training run of a task on this rank.

    `__init__` opens all data, builds the model and, with the option `resume`, loads the state of an interrupted run; it
    writes nothing to the output folder. `train` does the rest.
    """

    def __init__(self, task: Task[Any], config: RunConfig, world: World):
        """Prepare everything. Raises `InputError` for wrong options, stores, checkpoints and train states."""
        self.task, self.config, self.world = task, config, world
        self.precision = Precision(config.precision, config.fp16, world.device)
        torch.manual_seed(config.seed)
        self.entries = list(task.train_data())
        task.stores.check_against(config.checkpoint)  # the texts must have the vocabulary of the weights
        self.eval_sets, self.final_sets = task.eval_data(), task.final_data()
        self.model = self.precision.cast(task.build_model())
        self.predictor = Predictor(
            task,
            self.model,
            batch_size=config.val_batch_size,
            world=world,
            precision=self.precision,
            n_workers=config.n_workers,
            pin_mem=config.pin_mem,
        )
        self.micro_batches = task.micro_batches()
        divisor = self.micro_batches.gradient_divisor(world.size)
        self.updater = Updater(
            self.model,
            config,
            precision=self.precision,
            world=world,
            entries=[entry.name for entry in self.entries],
            head=task.head,
            gradient_divisor=divisor,
        )
        self.state = TrainState(valid_steps=config.valid_steps)
        if config.valid_steps == 0:
            self.state.valid_steps = self._stream().steps_per_epoch()
        self.checkpoints = self._checkpoints()
        if config.resume:
            self._resume()
        self.first_stream: TrainStream | None = self._stream()
        if config.num_train_steps > self.state.step:
            self.first_stream.plan_epochs()
        for dataset in (*self.eval_sets.values(), *self.final_sets.values()):
            check_eval(dataset, config.val_batch_size)
        self.window = LogWindow()

    def _checkpoints(self) -> Checkpoints:
        """The checkpoint files of this run, with the record of what decides its numbers."""
        config, task = self.config, self.task
        record = run_record(
            config,
            micro_batches=self.micro_batches,
            ranks=self.world.size,
            precision=self.precision.name,
            model_config=task.model_config,
            entries=self.entries,
        )
        check_ranks(record, config, self.world)
        return Checkpoints(
            Path(config.output_dir) / "ckpt",
            numbered_by=task.numbered_by,
            final_weights=task.final_weights,
            valid_steps=self.state.valid_steps,
            keep_states=config.keep_states,
            record=record,
        )

    def _resume(self) -> None:
        """Go on from the newest train state, if there is one; `InputError` if the ranks do not find the same one."""
        c = self.config
        self.state = self.checkpoints.resume(self.model, self.updater, c.allow_changes) or self.state
        steps = self.world.gather_objects(self.state.step)
        if len(set(steps)) > 1:
            raise InputError(
                "the ranks found different train states",
                file=c.output_dir,
                key="output_dir",
                found=f"steps {', '.join(map(str, steps))} by rank",
                expected="one folder, on a disk that all machines share",
                remedy="name a folder on a shared disk",
            )
        if self.task.refresh_steps and self.state.refresh_arrays is not None:
            self.task.apply_refresh(self.state.refresh_arrays)

    def train(self) -> dict[str, float]:
        """Train from the current step to `num_train_steps`; returns the scores of the last validation and test."""
        c, state, task = self.config, self.state, self.task
        if c.resume and state.step and self.world.is_main:
            self.checkpoints.restore_copies(state, is_last=state.step == c.num_train_steps)
        metrics = Metrics(c.output_dir, self.world.rank, state.step if c.resume else None)
        progress = Progress(c.num_train_steps, state.step, self.world.rank)
        scores: dict[str, float] = {}
        batches: Batches | None = None
        self.model.train()
        self.window.restart_clock()
        with closing(metrics), closing(progress), ExitStack() as loading:
            while state.step < c.num_train_steps:
                due = task.refresh_steps and state.step % task.refresh_steps == 0
                if due or (task.refresh_steps and state.refresh_arrays is None):
                    predict = partial(self.predictor.predict, everywhere=True)
                    state.refresh_arrays = task.refresh(self.model, state.step, predict)
                    task.apply_refresh(state.refresh_arrays)
                    loading.close()
                    batches = None  # they were made from the old training data
                batches = batches or loading.enter_context(closing(self._batches()))
                self._train_step(batches)
                progress.advance()
                validate = state.step % state.valid_steps == 0 or state.step == c.num_train_steps
                if validate or state.step % c.log_steps == 0:
                    self._log(metrics, progress)
                if validate:
                    scores = self._validate_and_save(metrics)
            scores = scores or self.predictor.evaluate(self.eval_sets)
            if self.final_sets:
                scores |= self.predictor.evaluate(self.final_sets)
                metrics.write({"step": state.step, "final": True, **scores})
        return scores

    def _stream(self) -> TrainStream:
        """The plans of this rank's micro-batches, from the current step on."""
        return TrainStream(
            self.entries,
            seed=self.config.seed,
            budget=self.micro_batches.batch_size,
            batching=self.config.batching,
            accumulation=self.micro_batches.per_step,
            rank=self.world.rank,
            size=self.world.size,
            state=self.state.stream,
        )

    def _batches(self) -> Batches:
        """This rank's micro-batches on the device, each with its plan, from the current step on."""
        builder = BatchBuilder([entry.dataset for entry in self.entries], by_id=False)
        stream, self.first_stream = self.first_stream or self._stream(), None
        batches = load_batches(builder, stream, self.config.n_workers, self.config.pin_mem)
        return to_device(batches, self.world.device)

    def _train_step(self, batches: Batches) -> None:
        """Take one optimiser step over this rank's micro-batches, which are all of one entry of the training data."""
        losses = []
        for _ in range(self.micro_batches.per_step):
            plan, batch = next(batches)
            # Dropout, and what else is random in a loss, depends on the micro-batch, not on the rank that computes it.
            torch.manual_seed(torch_seed(self.config.seed, "dropout", plan.step, plan.micro))
            with self.precision.autocast():
                loss = self.task.loss(self.model, batch)
            self.precision.backward(loss)
            losses.append(loss.detach())
            self.window.add_batch(batch)
        self.state.stream = plan.state  # the last plan of a step carries the position of the training data
        self.state.step += 1
        # All-reduce, clip, optimiser step, zero gradients.
        grad_norm = self.updater.step(self.state.step, losses, plan.source)
        self.window.add_step(self.entries[plan.source].name, torch.stack(losses).mean(), grad_norm)

    def _log(self, metrics: Metrics, progress: Progress) -> None:
        """Write one log record of the steps since the last one, over all ranks."""
        if not len(self.window):  # this step is logged already
            return
        step, summary = self.state.step, self.window.summarize(self.world)
        skipped = self.updater.skipped.totals()
        units_per_s, examples_per_s = summary.units / summary.seconds, summary.examples / summary.seconds
        record: dict[str, Any] = {
            "step": step,
            "lr": self.updater.learning_rate(step),
            **{f"loss/{name}": loss for name, loss in summary.losses.items()},
            "grad_norm": summary.grad_norm,
            "skipped_steps": self.updater.skipped.earlier + sum(skipped.values()),
            **{f"skipped_steps/{name}": skipped[name] for name in summary.skipped},
            "units": summary.units,
            "examples": summary.examples,
            "units_per_s": units_per_s,
            "examples_per_s": examples_per_s,
        }
        metrics.write(record)
        line = progress.show(
            step,
            loss=summary.loss,
            seconds_per_step=summary.seconds / summary.steps,
            units=units_per_s,
            examples=examples_per_s,
        )
        LOG.info(line)
        for name, share in summary.skipped.items():
            LOG.log(
                logging.WARNING if self.world.is_main else logging.INFO,
                "step %d: skipped %s steps of %s since the last record, %d in all: its loss or gradient was not finite",
                step,
                share,
                name,
                skipped[name],
            )
        self.updater.skipped.check(step)

    def _validate_and_save(self, metrics: Metrics) -> dict[str, float]:
        """Score the evaluation sets, then save the weights and the train state."""
        state = self.state
        scores = self.predictor.evaluate(self.eval_sets)
        metrics.write({"step": state.step, **scores})
        LOG.info("step %d: %s", state.step, ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        metric = self.task.main_metric(scores)
        is_best = state.is_better(metric)
        if is_best:
            state.best = (metric, state.step)
        if self.world.is_main:
            is_last = state.step == self.config.num_train_steps
            self.checkpoints.save(state, self.model, self.updater, is_best=is_best, is_last=is_last)
        self.world.barrier()
        self.window.restart_clock()
        return scores
