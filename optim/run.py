"""From a command line to a run: options, ranks, output folder, log, then the loop."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from optim.trainer import Trainer
from utils import checkpoint, distributed
from utils.config import parse
from utils.log import open_log, write_run_files


def run_training(
    task_type: Callable[[Any], Any], config_type: type[Any], argv: list[str] | None = None
) -> dict[str, float]:
    """Run a training script: parse `argv` into `config_type`, build the task, train (or only evaluate).

    Returns the last scores. Works the same as one process or as one of many under torchrun.
    """
    config, notes = parse(config_type, argv)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    world = distributed.start()
    if not config.eval_only and world.is_main:
        checkpoint.check_output_dir(config.output_dir, config.resume)
    world.barrier()
    task = task_type(config)
    settings = task.config  # the options as the task reads them
    log = open_log(None if config.eval_only else config.output_dir, world.rank)
    for note in notes:
        log.info(note)
    trainer = Trainer(task, settings, world)
    accumulated = settings.gradient_accumulation_steps
    micros = world.size * accumulated
    batch_unit = trainer.entries[0].data.batch_unit if trainer.entries else "units"
    log.info(
        f"{world.size} ranks × {accumulated} micro-batches × {settings.train_batch_size} {batch_unit}: a global batch "
        f"of at most {micros * settings.train_batch_size} {batch_unit}; accumulation {settings.accumulation}, "
        f"batching {config.batching}, precision {trainer.precision.name} on {world.device}"
    )
    if config.eval_only:
        scores = trainer.evaluate(trainer.eval_sets)
    else:
        trainer.begin()
        if world.is_main:
            for change in write_run_files(config.output_dir, config, asdict(task.model_config)):
                log.warning(change)
            task.write_inference_files(Path(config.output_dir))
        scores = trainer.train()
    for name, value in scores.items():
        log.info(f"{name} = {value:.4f}")
    return scores
