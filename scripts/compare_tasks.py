"""Paired comparisons on the demo's tasks over three seeds: mean difference ± standard error.

    python -m scripts.compare_tasks            # after scripts/demo.sh --all; finished runs are not repeated

The pairs: NLVR2's `paired-attn` and `triplet`; retrieval with and without hard negatives; VCR with and without a second
stage of pre-training. (`scripts.compare_seeds` has pre-trained and from scratch, at full length.) Both sides of a pair
have the same seed and number of steps. The runs are short (`--steps`) and see only a part of their training data. They
are not validated: the last weights are scored on the test split. There is one run per CPU core at a time, on one
thread, with its output in its own `.log`.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().with_name("by_path.py")))

from dataclasses import dataclass

import numpy as np

from scripts.demo_world.demo_tasks import TASKS
from scripts.demo_world.runner import SEEDS, Command, DemoRunner
from scripts.demo_world.side_by_side import side_by_side
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import write_json
from utils.options import MOST, option

METRICS = {"nlvr2": "accuracy", "vcr": "acc", "itm": "r_mean"}  # task → metric
SECOND_STAGE = "stage"  # the side of VCR that starts from its second stage
# With the default number of candidates, scoring them would take longer than the training. A step learns from 16
# examples of four negatives, as without hard negatives: online, all four are hard; mined, two are.
HARD_NEGATIVES: dict[str, Command] = {
    "online": ["--train_batch_size", "16", "--negative_size", "7", "--hard_neg_size", "2"],
    "mined": ["--negative_size", "1", "--mine_images", "8", "--mine_keep", "2"],
}


@dataclass(kw_only=True)
class CompareConfig:
    """Options of the paired comparisons on the demo's tasks."""

    demo: str = option("demo", help="output folder of a finished scripts/demo.sh --all")
    steps: int = option(350, help="optimiser steps of each finetuning run", at_least=1, at_most=MOST)
    stage_steps: int = option(400, help="optimiser steps of VCR's second stage", at_least=1, at_most=MOST)


@dataclass(frozen=True)
class Finetuning:
    """One finetuning run: its task, the side of a pair that it is, and its seed."""

    task: str
    side: str
    seed: int

    @property
    def name(self) -> str:
        """The name of the run's folder and log."""
        return f"{self.task}_{self.side}_{self.seed}"


# Each pair: a title, a task and two sides; the first is expected to be better.
PAIRS = (
    ("nlvr2: paired-attn, triplet", "nlvr2", "pre", "triplet"),
    *((f"itm: {search} hard negatives, none", "itm", search, "pre") for search in HARD_NEGATIVES),
    ("vcr: second stage, none", "vcr", SECOND_STAGE, "pre"),
)


class Comparison:
    """Trains and tests every side of every pair, once per seed; a side of several pairs is finetuned once."""

    def __init__(self, config: CompareConfig):
        self.config, demo = config, Path(config.demo)
        self.weights = demo.absolute() / "output" / "pretrain" / "ckpt" / "model_step_best.pt"
        # The folder's name contains the numbers of steps, so that runs of other lengths are not reused.
        self.root = demo / "output" / f"compare_{config.steps}_{config.stage_steps}"
        self.tests = {task.name: task.test for task in TASKS}

    def flags(self, finetuning: Finetuning) -> Command:
        """The flags of the training script that make this side."""
        side = finetuning.side
        if side == SECOND_STAGE:
            weights = self.second_stage_weights(finetuning.seed)
            return ["--checkpoint", weights, "--checkpoint_from", "vcr_pretrain"]
        flags: Command = ["--checkpoint", self.weights]
        if side == "triplet":
            flags += ["--model", "triplet"]
        if side in HARD_NEGATIVES:
            flags += ["--hard_negatives", side, *HARD_NEGATIVES[side]]
        return flags

    def second_stage_weights(self, seed: int) -> Path:
        """The path of the weights of VCR's second stage."""
        steps = self.config.stage_steps
        return self.root.absolute() / f"second_stage_{seed}" / "ckpt" / f"model_step_{steps}.pt"

    def score(self, finetuning: Finetuning) -> float:
        """Train and test one side; returns the score in percent."""
        self.root.mkdir(parents=True, exist_ok=True)
        task, output = finetuning.task, self.root / finetuning.name
        with open(self.root / f"{finetuning.name}.log", "a", encoding="utf-8") as log:
            runner = DemoRunner(self.config.demo, ranks=1, log=log)
            if finetuning.side == SECOND_STAGE:
                self.train_second_stage(runner, finetuning.seed)
            flags = [*self.flags(finetuning), *schedule(finetuning.seed, self.config.steps)]
            for split in ("val", "test") if task == "itm" else ("val",):  # no validation
                flags += [f"--{split}_txt_db", "None", f"--{split}_img_db", "None"]
            config = f"config/demo-{task}.json"
            runner.train(f"train_{task}.py", config=config, output=output, steps=self.config.steps, flags=flags)
            return self.tests[task](runner, output)[METRICS[task]]

    def train_second_stage(self, runner: DemoRunner, seed: int) -> None:
        """Pre-train on VCR, starting from the demo's pre-trained weights."""
        output, steps = self.root / f"second_stage_{seed}", self.config.stage_steps
        flags: Command = ["--checkpoint", self.weights, *schedule(seed, steps)]
        config = "config/demo-pretrain-vcr.json"
        runner.train("pretrain_vcr.py", config=config, output=output, steps=steps, flags=flags)

    def compare(self) -> None:
        """Run all finetunings in parallel, print a line for each pair and write `compare_tasks.json`."""
        if not self.weights.exists():
            raise InputError(
                "the demo's pre-trained weights are missing",
                file=self.weights,
                key="--demo",
                remedy="run ./scripts/demo.sh --all first, or set --demo to its output folder",
            )
        finetunings = [Finetuning(task, side, seed) for seed in SEEDS for _, task, *sides in PAIRS for side in sides]
        scores = side_by_side(list(dict.fromkeys(finetunings)), self.score, lambda score: f"{score:.1f} %")
        table = {
            title: {side: [scores[Finetuning(task, side, seed)] for seed in SEEDS] for side in sides}
            for title, task, *sides in PAIRS
        }
        write_json(Path(self.config.demo) / "compare_tasks.json", table, indent=2)
        print(f"\nTest split, %, {self.config.steps} steps, seeds {SEEDS}; difference ± standard error:")
        for title, scores_by_side in table.items():
            first, second = (np.array(values) for values in scores_by_side.values())
            gap = first - second
            error = gap.std(ddof=1) / np.sqrt(len(gap))
            print(f"  {title:<36}{first.mean():6.1f} {second.mean():6.1f}   {gap.mean():+.1f} ± {error:.1f}")


def schedule(seed: int, steps: int) -> Command:
    """The flags for the seed and the learning-rate schedule of a short training run."""
    return ["--seed", str(seed), "--valid_steps", str(steps), "--warmup_steps", str(steps // 10)]


def main(argv: list[str] | None = None) -> None:
    """Run the comparisons."""
    config, _ = parse(CompareConfig, argv)
    Comparison(config).compare()


if __name__ == "__main__":
    exit_on_input_error(main)
