"""From a command line to a training run: options, ranks, output folder, log, then the training loop."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from optim.precision import Precision
from optim.predict import Predictor
from optim.run_record import check_names
from optim.task import Task
from optim.trainer import Trainer
from utils import distributed
from utils.config import parse
from utils.distributed import World
from utils.errors import InputError
from utils.formats import IMG_DIM
from utils.log import open_log, write_run_files
from utils.output_dir import claimed, keep_old_metrics
from utils.run_config import RunConfig


def run_training(
    task_type: Callable[[Any], Task[Any]], config_type: type[RunConfig], argv: list[str] | None = None
) -> dict[str, float]:
    """Run a training script: parse `argv` into `config_type`, build the task, train (or, with --eval_only, evaluate).

    Returns the last scores by name. Works the same as one process or as one of many under a launcher. Raises
    `InputError` for wrong options, stores or checkpoints, before the first step where possible.
    """
    config, notes = parse(config_type, argv)
    if config.eval_only:
        check_eval_only(config)
    check_names(config)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    world = distributed.start(backend=config.backend)
    log = open_log(None, world.rank)
    for note in notes if world.size == 1 else [world.origin, *notes]:
        log.info(note)
    if config.eval_only:
        scores = evaluate_only(task_type(config), config, world)
    else:
        with claimed(config.output_dir, config.resume) if world.is_main else nullcontext():
            world.barrier()
            scores = train(task_type(config), config, world)
    for name, value in scores.items():
        log.info(f"{name} = {value:.4f}")
    return scores


def check_eval_only(config: RunConfig) -> None:
    """`InputError` unless the options say which weights to score: with --eval_only that is --checkpoint alone."""
    if config.checkpoint and not config.resume:
        return
    weights = sorted((Path(config.output_dir) / "ckpt").glob("model_*.pt"))
    best = [path for path in weights if path.stem.endswith("best")]
    raise InputError(
        "--eval_only scores the weights that --checkpoint names, and "
        + ("--resume has no meaning with it" if config.resume else "no checkpoint was given"),
        file=config.output_dir if weights else None,
        key="eval_only, resume" if config.resume else "eval_only, checkpoint",
        found="resume and eval_only" if config.resume else "no checkpoint, which would score random numbers",
        expected="a weight file as --checkpoint" + (", without --resume" if config.resume else ""),
        remedy=f"give --eval_only --checkpoint {[*best, *weights, 'FILE'][0]}",
    )


def model_sizes(task: Task[Any]) -> dict[str, Any]:
    """The contents of `log/model.json`: the keys of the release, and `img_dim` where it is not the release's 2048."""
    sizes = asdict(task.model_config) | {"img_dim": task.img_dim}
    return {key: value for key, value in sizes.items() if key != "img_dim" or value != IMG_DIM}


def train(task: Task[Any], config: RunConfig, world: World) -> dict[str, float]:
    """Prepare everything, then open the files of the output folder and train; returns the last scores by name.

    Nothing is written before all ranks have checked their options, data, weights and train states.
    """
    trainer = Trainer(task, config, world)
    world.barrier()
    log = open_log(config.output_dir, world.rank)
    log.info(describe_batches(trainer))
    if task.head is None and config.lr_mul != 1:
        log.warning("the option lr_mul has no effect: this script has no head that it applies to")
    if world.is_main:
        folder = Path(config.output_dir)
        if config.resume and trainer.state.step == 0 and (old_metrics := keep_old_metrics(folder)):
            log.warning("the interrupted run had saved no checkpoint and starts again; its metrics: %s", old_metrics)
        for change in write_run_files(folder, config, model_sizes(task)):
            log.warning(change)
        task.write_inference_files(folder)
    return trainer.train()


def evaluate_only(task: Task[Any], config: RunConfig, world: World) -> dict[str, float]:
    """Score the checkpoint on the task's validation data; returns scores by name. No file is written."""
    datasets = task.eval_data()
    if not datasets:
        raise InputError(
            "--eval_only has nothing to score, because there is no validation data with labels",
            key="eval_only, val_txt_db or val_datasets",
            found="no validation data, or a split without labels",
            expected="one or more validation sets with labels",
            remedy="name the stores of a validation split; the inf_* scripts write the predictions of a test split",
        )
    task.stores.check_against(config.checkpoint)
    torch.manual_seed(config.seed)
    precision = Precision(config.precision, config.fp16, world.device)
    log = logging.getLogger("uniter")
    log.info("%d ranks, precision %s on %s", world.size, precision.name, world.device)
    predictor = Predictor(
        task,
        precision.cast(task.build_model(complete=True)),
        batch_size=config.val_batch_size,
        world=world,
        precision=precision,
        n_workers=config.n_workers,
        pin_mem=config.pin_mem,
    )
    return predictor.evaluate(datasets)


def describe_batches(trainer: Trainer) -> str:
    """The log line about the size of the global batch, over all ranks and micro-batches, and the precision."""
    config, world, micro_batches = trainer.config, trainer.world, trainer.micro_batches
    unit = trainer.entries[0].dataset.batch_unit if trainer.entries else "units"
    size = world.size * micro_batches.per_step * micro_batches.batch_size
    return (
        f"{world.size} ranks × {micro_batches.per_step} micro-batches × {micro_batches.batch_size} {unit}: "
        f"a global batch of at most {size} {unit}; accumulation {micro_batches.accumulation}, "
        f"batching {config.batching}, precision {trainer.precision.name} on {world.device}"
    )
