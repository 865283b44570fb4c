"""The demo over three seeds at full length: what pre-training brings to each task, and whether it holds for every seed.

    python -m scripts.compare_seeds      # after scripts/demo.sh --all --table, whose runs are its first seed

For each seed it pre-trains, then finetunes and tests every task from these weights and from scratch, with the demo's
configs. Finished runs are not repeated, interrupted ones are resumed. There is one run per CPU core at a time, on one
thread, with its output in its own `.log`. The table has the mean ± standard error over the seeds, the lowest seed, and
the paired difference to training from scratch. The exit status is 1 if a line does not hold: the mean is below what is
expected, a seed is more than 3 points below it, or the difference is below -1 point and below -2 standard errors.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().with_name("by_path.py")))

import json
import sys
from dataclasses import dataclass
from itertools import product

import numpy as np

from scripts.demo_world import demo_tasks
from scripts.demo_world.runner import DETECTED_BOXES, SEEDS, Command, DemoRunner
from scripts.demo_world.side_by_side import side_by_side
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import read_json, write_json
from utils.options import option
from utils.paths import find_file

Scores = dict[str, float]  # metric → percent
PRETRAINED, SCRATCH = "pre-trained", "scratch"
SLACK = 3.0  # points by which one seed may stay below what is expected of the mean
VQA_PATTERNS = "what pattern is on the"  # a question type


@dataclass(kw_only=True)
class SeedsConfig:
    """Options of the comparison over seeds."""

    demo: str = option("demo", help="output folder of a finished scripts/demo.sh --all")


@dataclass(frozen=True)
class SeedRun:
    """Pre-training (`task` is "pretrain"), or finetuning of a task on one side, with one seed."""

    task: str
    side: str
    seed: int

    @property
    def name(self) -> str:
        """The run's folder below `output`: for the first seed, that of `scripts/demo.sh --all --table`."""
        name = self.task if self.side == PRETRAINED else f"{self.task}_{self.side}"
        return name if self.seed == SEEDS[0] else f"seeds/{name}_{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table: a metric of a task, what its mean is expected to reach, and whether it is paired."""

    title: str
    task: str
    metric: str
    expected: float | None = None  # percent, of the pre-trained side
    main: bool = False  # whether pre-training must not lose against training from scratch here


LINES = (
    Line(title="masked words: right minus wrong image", task="pretrain", metric="mlm_gap", expected=10),
    Line(title="image-text matching, validation", task="pretrain", metric="itm_acc", expected=73),
    Line(title="zero-shot R@1 of images", task="pretrain", metric="img_r1", expected=12),
    Line(title="zero-shot R@1 of captions", task="pretrain", metric="txt_r1", expected=12),
    Line(title="VQA", task="vqa", metric="overall", expected=78, main=True),
    Line(title="VQA: what pattern …", task="vqa", metric=VQA_PATTERNS, expected=60),
    Line(title="NLVR2", task="nlvr2", metric="accuracy", expected=78, main=True),
    Line(title="visual entailment", task="ve", metric="accuracy", expected=78, main=True),
    Line(title="VCR Q→AR", task="vcr", metric="acc", expected=55, main=True),
    Line(title="referring expressions, gt boxes", task="re", metric="accuracy_gt", expected=97, main=True),
    Line(title="retrieval R@1, mean of both", task="itm", metric="r1", main=True),
    Line(title="retrieval R@1 of images", task="itm", metric="img_r1", expected=80),
    Line(title="retrieval R@1 of captions", task="itm", metric="txt_r1", expected=80),
)


class SeedRuns:
    """Trains and tests the runs."""

    def __init__(self, demo: str):
        """`demo`: the demo's folder, with all stores."""
        self.root = Path(demo)
        self.tests = {task.name: task.test for task in demo_tasks.TASKS}

    def weights(self, seed: int) -> Path:
        """The last weights of pre-training with a seed."""
        folder = self.root / "output" / SeedRun("pretrain", PRETRAINED, seed).name / "ckpt"
        return max(folder.glob("model_step_[0-9]*.pt"), key=lambda path: int(path.stem.split("_")[-1])).absolute()

    def scores(self, run: SeedRun) -> Scores:
        """Train and test one run, unless that is done; returns its scores, in percent."""
        output = self.root / "output" / run.name
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output.with_name(f"{output.name}.log"), "a", encoding="utf-8") as log:
            runner = DemoRunner(self.root, ranks=1, log=log)
            seed: Command = ["--seed", str(run.seed)]
            if run.task == "pretrain":
                return self._pretraining_scores(runner, runner.pretrain(run.name, flags=seed), output)
            flags = ["--checkpoint", self.weights(run.seed) if run.side == PRETRAINED else "None", *seed]
            if run.task == "vqa":
                scores = runner.finetune_vqa(run.name, steps=0, flags=flags)
                return {"overall": scores["overall"], **scores["question_type"]}
            config = f"config/demo-{run.task}.json"
            runner.train(f"train_{run.task}.py", config=config, output=output, steps=0, flags=flags)
            scores = self.tests[run.task](runner, output)
            return scores | ({"r1": (scores["img_r1"] + scores["txt_r1"]) / 2} if run.task == "itm" else {})

    def _pretraining_scores(self, runner: DemoRunner, weights: Path, output: Path) -> Scores:
        """The scores of the last validation, and zero-shot retrieval."""
        last = json.loads((output / "log" / "metrics.jsonl").read_text().splitlines()[-1])
        scores = {"itm_acc": 100 * last["itm_demo/acc"], "mlm_acc": 100 * last["mlm_demo/acc"]}
        scores["mlm_gap"] = scores["mlm_acc"] - 100 * last["mlm_demo@wrong_picture/acc"]
        flags: Command = ["--model_config", "config/demo-model.json", *DETECTED_BOXES]
        zero_shot = output.with_name(output.name.replace("pretrain", "itm_zero_shot"))
        return scores | demo_tasks.retrieve(runner, zero_shot, weights=weights, flags=flags)


def judge(line: Line, pretrained: np.ndarray, scratch: np.ndarray | None) -> tuple[str, bool]:
    """A line of the table, and whether it holds. The arrays are in percent, a value for each seed."""
    text = f"{line.title:<40}{_spread(pretrained):>13}{pretrained.min():9.1f}"
    holds = True
    if line.expected is not None:
        holds = pretrained.mean() >= line.expected and pretrained.min() >= line.expected - SLACK
    text += f"{'–' if line.expected is None else f'≥ {line.expected:.0f}':>10}"
    if scratch is not None:
        difference = pretrained - scratch
        text += f"{_spread(scratch):>15}{_spread(difference, sign='+'):>15}"
        if line.main:
            holds &= difference.mean() >= -max(1.0, 2 * _standard_error(difference))
    return text + ("" if holds else "   does not hold"), bool(holds)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _spread(values: np.ndarray, sign: str = "") -> str:
    """Mean ± standard error."""
    return f"{values.mean():{sign}.1f} ± {_standard_error(values):.1f}"


def print_table(scores: dict[SeedRun, Scores]) -> bool:
    """Print one line per metric; returns whether all lines hold."""

    def over_seeds(line: Line, side: str) -> np.ndarray:
        return np.array([scores[SeedRun(line.task, side, seed)][line.metric] for seed in SEEDS])

    print(f"\n{f'seeds {SEEDS}, %':<40}{PRETRAINED:>13}{'lowest':>9}{'expected':>10}{SCRATCH:>15}{'difference':>15}")
    verdicts = []
    for line in LINES:
        scratch = None if line.task == "pretrain" else over_seeds(line, SCRATCH)
        text, holds = judge(line, over_seeds(line, PRETRAINED), scratch)
        print(text)
        verdicts.append(holds)
    return all(verdicts)


def describe(scores: Scores) -> str:
    """The scores of a run in one line."""
    return ", ".join(f"{metric} {value:.1f}" for metric, value in scores.items())


def main(argv: list[str] | None = None) -> None:
    """Run everything that is missing, write `seeds.json`, print the table."""
    config, _ = parse(SeedsConfig, argv)
    runs = SeedRuns(config.demo)
    steps = read_json(find_file("config/demo-pretrain.json", "", []))["num_train_steps"]
    weights = Path("output", SeedRun("pretrain", PRETRAINED, SEEDS[0]).name, "ckpt", f"train_state_{steps}.pt")
    for file in ("txt_db/itm_test.db", "txt_db/re_testB.db", weights):
        if not (runs.root / file).exists():
            raise InputError(
                "a file of a finished demo is missing",
                file=runs.root / file,
                key="--demo",
                remedy="run ./scripts/demo.sh --all with its own numbers of steps, or set --demo to its output folder",
            )
    pretraining = [SeedRun("pretrain", PRETRAINED, seed) for seed in SEEDS]
    tasks, sides = ["vqa", *runs.tests], (PRETRAINED, SCRATCH)
    finetuning = [SeedRun(task, side, seed) for side, seed, task in product(sides, SEEDS, tasks)]
    scores = side_by_side(pretraining, runs.scores, describe)
    scores |= side_by_side(finetuning, runs.scores, describe)
    write_json(runs.root / "seeds.json", {run.name: of_run for run, of_run in scores.items()}, indent=2)
    sys.exit(0 if print_table(scores) else 1)


if __name__ == "__main__":
    exit_on_input_error(main)
