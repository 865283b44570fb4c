"""The demo: the whole pipeline on generated data, with the commands that a user would type (for `scripts/demo.sh`).

    images and texts → region features → stores → pre-training → VQA finetuning → answers → scores

`--all` also finetunes and tests all other tasks and prints one table. `--all --table` adds two baselines to it: models
trained from scratch, and models that see no image. Finished steps are not repeated; interrupted training is resumed.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().with_name("by_path.py")))

import time
from dataclasses import dataclass

from scripts.demo_world import demo_tasks
from scripts.demo_world.report import Table, print_report, print_table
from scripts.demo_world.runner import DETECTED_BOXES, Command, DemoRunner
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import write_json
from utils.options import MOST, option


@dataclass(kw_only=True)
class DemoConfig:
    """Options of the demo, which runs the whole pipeline on generated data."""

    output: str = option("demo", help="folder for all results")
    all: bool = option(False, help="also finetune and test all other tasks")
    table: bool = option(False, help="with --all: also train every task from scratch, and without images")
    n_train: int = option(4000, help="number of training images", at_least=8, at_most=MOST)
    n_val: int = option(200, help="number of validation images", at_least=8, at_most=MOST)
    n_test: int = option(400, help="number of test images", at_least=8, at_most=MOST)
    pretrain_steps: int = option(
        0, help="optimiser steps of pre-training; 0: as in config/demo-pretrain.json", at_least=0, at_most=MOST
    )
    vqa_steps: int = option(
        0, help="optimiser steps of VQA finetuning; 0: as in config/demo-vqa.json", at_least=0, at_most=MOST
    )


def test_all_tasks(runner: DemoRunner, config: DemoConfig, weights: Path, vqa_accuracy: float) -> None:
    """Finetune and test every task, print one table and write `table.json`.

    `weights`: the pre-trained weights. `vqa_accuracy`: the VQA accuracy after finetuning from them, in percent.
    """
    demo_tasks.make_image_stores(runner)
    demo_tasks.make_text_stores(runner)
    models: dict[str, Command] = {"pre-trained": ["--checkpoint", weights.absolute()]}
    if config.table:
        models |= {"blind": [*models["pre-trained"], "--blind"], "scratch": ["--checkpoint", "None"]}
    table: Table = {"vqa accuracy": {"pre-trained": vqa_accuracy, "chance": demo_tasks.vqa_chance(runner.root)}}
    sizes: Command = ["--model_config", "config/demo-model.json", *DETECTED_BOXES]
    zero_shot = demo_tasks.retrieve(runner, runner.root / "output" / "itm_zero_shot", weights=weights, flags=sizes)
    for metric in ("img_r1", "txt_r1"):
        table[f"itm {metric}, zero-shot"] = {"pre-trained": zero_shot[metric], "chance": 1.0}
    for model, flags in models.items():
        if model != "pre-trained":
            vqa_scores = runner.finetune_vqa(f"vqa_{model}", steps=config.vqa_steps, flags=flags)
            table["vqa accuracy"][model] = vqa_scores["overall"]
        for task in demo_tasks.TASKS:
            output = runner.root / "output" / (task.name if model == "pre-trained" else f"{task.name}_{model}")
            task_config = f"config/demo-{task.name}.json"
            runner.train(f"train_{task.name}.py", config=task_config, output=output, steps=0, flags=flags)
            scores = task.test(runner, output)
            for metric, chance in task.metrics.items():
                guessing = chance(runner.root) if callable(chance) else chance
                table.setdefault(f"{task.name} {metric}", {"chance": guessing})[model] = scores[metric]
    write_json(runner.root / "table.json", table, indent=2)
    print_table(table)


def main(argv: list[str] | None = None) -> None:
    """Run the demo."""
    config, _ = parse(DemoConfig, argv)
    if config.table and not config.all:
        raise InputError(
            "--table needs --all", key="--all", found="--table without --all", remedy="add --all, or drop --table"
        )
    runner, started = DemoRunner(config.output), time.monotonic()
    runner.make_data(n_pictures={"train": config.n_train, "val": config.n_val, "test": config.n_test})
    weights = runner.pretrain(steps=config.pretrain_steps)
    scores = runner.finetune_vqa("vqa", steps=config.vqa_steps, flags=["--checkpoint", weights.absolute()])
    print_report(runner.root, scores)
    if config.all:
        test_all_tasks(runner, config, weights, scores["overall"])
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    exit_on_input_error(main)
