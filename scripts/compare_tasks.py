"""Does it help? Paired comparisons on the demo's tasks over three seeds: mean difference ± standard error.

    python -m scripts.compare_tasks            # after scripts/demo.sh --all; what is finished is not done again

Pre-trained against from scratch, NLVR2's `paired-attn` against `triplet`, retrieval with hard negatives against
without, VCR after a second stage of pre-training against without. Both sides of a pair have the same seed and number of
steps. Runs are short (`--steps`), so that each sees a part of its training data; they are not validated, and their last
weights judge the test split. As many runs as the machine has cores go side by side, each on one thread; what a run says
is in its `.log`.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.demo import SEEDS, Demo, DemoConfig
from scripts.demo_world.demo_tasks import TASKS, Command
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import write_json
from utils.options import option

SHOWN = {"nlvr2": "accuracy", "ve": "accuracy", "vcr": "acc", "re": "accuracy_gt", "itm": "r_mean"}
STAGE = "stage"  # the side of VCR that starts from its second stage
# Few candidates: scoring all that the defaults say would take longer than the training itself. As without hard
# negatives, a step has 16 examples of four negatives to learn from: online all of them hard, mined two.
POOLS: dict[str, Command] = {
    "online": ["--train_batch_size", "16", "--negative_size", "7", "--hard_neg_size", "2"],
    "mined": ["--negative_size", "1", "--mine_images", "8", "--mine_keep", "2"],
}


@dataclass(kw_only=True)
class CompareConfig:
    """Options of the comparison."""

    demo: str = option("demo", help="folder of a finished scripts/demo.sh --all")
    steps: int = option(350, help="optimiser steps of every finetuning", at_least=1)
    stage_steps: int = option(400, help="optimiser steps of VCR's second stage", at_least=1)


@dataclass(frozen=True)
class Run:
    """One finetuning: a task, what distinguishes it from others of its seed, its seed."""

    task: str
    side: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}_{self.side}_{self.seed}"


# What is compared: a title, a task, two sides, the first expected to be better.
PAIRS = (
    *((f"{task}: pre-trained, scratch", task, "pre", "scratch") for task in SHOWN),
    ("nlvr2: paired-attn, triplet", "nlvr2", "pre", "triplet"),
    *((f"itm: {kind} hard negatives, none", "itm", kind, "pre") for kind in POOLS),
    ("vcr: second stage, none", "vcr", STAGE, "pre"),
)


class Comparison:
    """Runs every side of every pair once a seed; a side of several pairs is one run."""

    def __init__(self, config: CompareConfig):
        self.config, demo = config, Path(config.demo)
        self.weights = demo.absolute() / "output" / "pretrain" / "ckpt" / "model_step_best.pt"
        # A folder for these numbers of steps: results of others are not taken for theirs.
        self.root = demo / "output" / f"compare_{config.steps}_{config.stage_steps}"
        self.tests = {task.name: task.test for task in TASKS}

    def flags(self, one: Run) -> Command:
        """What distinguishes a side."""
        if one.side == "scratch":
            return ["--checkpoint", "None"]
        if one.side == STAGE:
            return ["--checkpoint", self.staged(one.seed), "--checkpoint_from", "vcr_pretrain"]
        start: Command = ["--checkpoint", self.weights]
        if one.side == "triplet":
            return [*start, "--model", "triplet"]
        return [*start, *(["--hard_negatives", one.side, *POOLS[one.side]] if one.side in POOLS else [])]

    def staged(self, seed: int) -> Path:
        """The weights of VCR's second stage."""
        steps = self.config.stage_steps
        return self.root.absolute() / f"second_stage_{seed}" / "ckpt" / f"model_step_{steps}.pt"

    def score(self, one: Run) -> float:
        """Train and test; the score in percent."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / f"{one.name}.log", "a", encoding="utf-8") as log:
            demo = Demo(DemoConfig(output=self.config.demo), ranks=1, log=log)
            if one.side == STAGE:
                steps = self.config.stage_steps
                stage: Command = ["--checkpoint", self.weights, *timing(one.seed, steps)]
                output = self.root / f"second_stage_{one.seed}"
                demo.train("pretrain_vcr.py", "config/demo-pretrain-vcr.json", output, steps, *stage)
            steps, output = self.config.steps, self.root / one.name
            splits = ("val", "test") if one.task == "itm" else ("val",)
            unseen: Command = [part for s in splits for kind in ("txt", "img") for part in (f"--{s}_{kind}_db", "None")]
            flags = [*self.flags(one), *timing(one.seed, steps), *unseen]
            demo.train(f"train_{one.task}.py", f"config/demo-{one.task}.json", output, steps, *flags)
            return self.tests[one.task](demo, output)[SHOWN[one.task]]

    def run(self) -> None:
        """All runs, side by side; prints a line for each pair and writes `compare_tasks.json`."""
        if not self.weights.exists():
            raise InputError("no pre-trained weights", file=self.weights, remedy="run ./scripts/demo.sh --all before")
        runs = [Run(task, side, seed) for seed in SEEDS for _, task, *sides in PAIRS for side in sides]
        found = self.scores(list(dict.fromkeys(runs)))
        table = {
            title: {side: [found[Run(task, side, seed)] for seed in SEEDS] for side in sides}
            for title, task, *sides in PAIRS
        }
        write_json(Path(self.config.demo) / "compare_tasks.json", table, indent=2)
        print(f"\nTest split, %, {self.config.steps} steps, seeds {SEEDS}; difference ± its standard error:")
        for title, both in table.items():
            first, second = (np.array(values) for values in both.values())
            gap = first - second
            error = gap.std(ddof=1) / np.sqrt(len(gap))
            print(f"  {title:<36}{first.mean():6.1f} {second.mean():6.1f}   {gap.mean():+.1f} ± {error:.1f}")

    def scores(self, runs: list[Run]) -> dict[Run, float]:
        """The score of every run, one thread a core; one that fails stops those not begun."""
        started, found = time.monotonic(), {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            begun = {pool.submit(self.score, one): one for one in runs}
            try:
                for done in as_completed(begun):
                    one = begun[done]
                    found[one] = done.result()
                    minutes = (time.monotonic() - started) / 60
                    print(f"{len(found)}/{len(runs)} {one.name}: {found[one]:.1f} % ({minutes:.1f} min)", flush=True)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return found


def timing(seed: int, steps: int) -> Command:
    """Seed and schedule of a short run."""
    return ["--seed", str(seed), "--valid_steps", str(steps), "--warmup_steps", str(steps // 10)]


def main(argv: list[str] | None = None) -> None:
    config, _ = parse(CompareConfig, argv)
    Comparison(config).run()


if __name__ == "__main__":
    exit_on_input_error(main)
