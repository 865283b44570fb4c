"""Does it help? Paired comparisons on the demo's tasks over three seeds: mean difference ± standard error.

    python -m scripts.compare_tasks            # after scripts/demo.sh --all; what is finished is not done again

Pre-trained against from scratch, NLVR2's `paired-attn` against `triplet`, retrieval with hard negatives against
without, VCR after a second stage of pre-training against without. Both sides of a pair have the same seed and number of
steps; runs are short (`--steps`), so that each sees a part of its training data.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.demo import Demo, DemoConfig
from scripts.demo_tasks import TASKS, Command
from utils.config import parse
from utils.errors import InputError, run
from utils.files import write_json
from utils.options import option

SEEDS = (42, 43, 44)
SHOWN = {"nlvr2": "accuracy", "ve": "accuracy", "vcr": "acc", "re": "accuracy_gt", "itm": "r_mean"}


@dataclass(kw_only=True)
class CompareConfig:
    """Options of the comparison."""

    demo: str = option("demo", help="folder of a finished scripts/demo.sh --all")
    steps: int = option(500, help="optimiser steps of every finetuning", at_least=1)
    stage_steps: int = option(800, help="optimiser steps of VCR's second stage", at_least=1)


@dataclass(frozen=True)
class Pair:
    """One comparison: the task, and the flags of both sides besides seed and steps."""

    title: str
    task: str
    sides: dict[str, Command]  # two, the first expected to be better


def pairs(weights: Path, stage: Path) -> list[Pair]:
    """What is compared. `weights`: of pre-training; `stage`: of VCR's second stage, a path with {seed}."""
    start: Command = ["--checkpoint", weights]
    scratch: Command = ["--checkpoint", "None"]
    made = [Pair(f"{name}: pre-trained, scratch", name, {"pre": start, "scratch": scratch}) for name in SHOWN]
    made.append(Pair("nlvr2: paired-attn, triplet", "nlvr2", {"pre": start, "triplet": [*start, "--model", "triplet"]}))
    # Few candidates: scoring all that the defaults say would take longer than the training itself.
    pools: dict[str, Command] = {
        "online": ["--negative_size", "15", "--hard_neg_size", "4"],
        "mined": ["--mine_images", "12"],
    }
    for kind, pool in pools.items():
        hard: Command = [*start, "--hard_negatives", kind, *pool]
        made.append(Pair(f"itm: {kind} hard negatives, none", "itm", {kind: hard, "pre": start}))
    second: Command = ["--checkpoint", stage, "--checkpoint_from", "vcr_pretrain"]
    made.append(Pair("vcr: second stage, none", "vcr", {"stage": second, "pre": start}))
    return made


class Comparison:
    """Runs the sides of every pair once a seed; a side of several pairs is one run."""

    def __init__(self, config: CompareConfig):
        self.config = config
        self.demo = Demo(DemoConfig(output=config.demo))
        # A folder for these numbers of steps: results of others are not taken for theirs.
        self.root = self.demo.root / "output" / f"compare_{config.steps}_{config.stage_steps}"
        self.tests = {task.name: task.test for task in TASKS}

    def score(self, pair: Pair, side: str, seed: int) -> float:
        """The score of one side of a pair, in percent."""
        output = self.root / f"{pair.task}_{side}_{seed}"
        steps = self.config.steps
        flags = [str(flag).format(seed=seed) for flag in pair.sides[side]]
        timing: Command = ["--seed", str(seed), "--valid_steps", str(steps), "--warmup_steps", str(steps // 10)]
        self.demo.train(f"train_{pair.task}.py", f"config/demo-{pair.task}.json", output, steps, *flags, *timing)
        return self.tests[pair.task](self.demo, output)[SHOWN[pair.task]]

    def second_stage(self, weights: Path) -> Path:
        """VCR's second stage once a seed; the path of its weights, with {seed}."""
        steps = self.config.stage_steps
        for seed in SEEDS:
            output = self.root / f"vcr_stage_{seed}"
            timing: Command = ["--seed", str(seed), "--valid_steps", str(steps), "--warmup_steps", str(steps // 10)]
            flags: Command = ["--checkpoint", weights, *timing]
            self.demo.train("pretrain_vcr.py", "config/demo-pretrain-vcr.json", output, steps, *flags)
        return self.root.absolute() / "vcr_stage_{seed}" / "ckpt" / f"model_step_{steps}.pt"

    def run(self) -> None:
        """All pairs; prints a line for each and writes `compare_tasks.json`."""
        weights = self.demo.root.absolute() / "output" / "pretrain" / "ckpt" / "model_step_best.pt"
        if not weights.exists():
            raise InputError("no pre-trained weights", file=weights, remedy="run ./scripts/demo.sh --all before")
        found: dict[str, dict[str, list[float]]] = {}
        for pair in pairs(weights, self.second_stage(weights)):
            found[pair.title] = {side: [self.score(pair, side, seed) for seed in SEEDS] for side in pair.sides}
            write_json(self.demo.root / "compare_tasks.json", found, indent=2)
        print(f"\nTest split, %, {self.config.steps} steps, seeds {SEEDS}; difference ± its standard error:")
        for title, sides in found.items():
            first, second = (np.array(values) for values in sides.values())
            gap = first - second
            error = gap.std(ddof=1) / np.sqrt(len(gap))
            print(f"  {title:<36}{first.mean():6.1f} {second.mean():6.1f}   {gap.mean():+.1f} ± {error:.1f}")


def main(argv: list[str] | None = None) -> None:
    config, _ = parse(CompareConfig, argv)
    Comparison(config).run()


if __name__ == "__main__":
    run(main)
