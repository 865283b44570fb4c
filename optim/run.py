"""From a command line to a run: options, ranks, output folder, log, then the loop."""

from collections.abc import Callable
from typing import Any

import torch

from optim.trainer import Trainer
from utils import distributed
from utils.checkpoint import check_output_dir
from utils.config import parse
from utils.log import RunLog


def run_training(
    task_type: Callable[[Any], Any], config_type: type, argv: list[str] | None = None
) -> dict[str, float]:
    """Run a training script: parse `argv` into `config_type`, build the task, train (or only evaluate).

    Returns the last scores. Works the same as one process or as one of many under torchrun.
    """
    config, notes = parse(config_type, argv)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    world = distributed.start()
    if not config.eval_only:
        check_output_dir(config.output_dir, config.resume)
    world.barrier()
    task = task_type(config)
    log = RunLog(config.output_dir, world.rank, config.resume or config.eval_only)
    trainer = Trainer(task, config, world, log)
    log.start(config, task.model_config, notes)
    micros = world.size * config.gradient_accumulation_steps
    log.info(
        f"{world.size} ranks × {config.gradient_accumulation_steps} micro-batches × {config.train_batch_size} units: "
        f"a global batch of at most {micros * config.train_batch_size} units; accumulation {config.accumulation}, "
        f"batching {config.batching}, precision {trainer.precision.name} on {world.device}"
    )
    task.keep(config.output_dir, world.is_main)
    scores = trainer.evaluate() if config.eval_only else trainer.train()
    for name, value in scores.items():
        log.info(f"{name} = {value:.4f}")
    log.close()
    return scores
