"""The main job on generated data, end to end, with the commands a user would type (`scripts/demo.sh` calls this).

    pictures and texts → region features → stores → pre-training → VQA finetuning → answers → scores

`--all` finetunes and tests all other tasks too and prints one table, `--all --table` with the columns of models that
are not pre-trained and that see nothing. What is finished is not done again; an interrupted training run is resumed.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from scripts.demo_world import demo_tasks
from scripts.demo_world.demo_tasks import IMG_NAME, SPLITS, TASKS, Command
from utils.config import parse
from utils.errors import InputError, exit_on_input_error
from utils.files import read_json, write_json
from utils.options import option

SEEDS = (42, 43, 44)  # of the comparison
MICROS = 2  # micro-batches of a step, on one rank or two: the same result


@dataclass(kw_only=True)
class DemoConfig:
    """Options of the demo."""

    output: str = option("demo", help="folder of everything it makes")
    all: bool = option(False, help="finetune and test every task")
    table: bool = option(False, help="with --all: also from scratch, and seeing nothing")
    compare: bool = option(False, help="add the controls over three seeds: blind, and from scratch")
    n_train: int = option(4000, help="pictures to train on", at_least=8)
    n_val: int = option(200, help="pictures to validate on", at_least=8)
    n_test: int = option(400, help="pictures to test on", at_least=8)
    pretrain_steps: int = option(0, help="optimiser steps of pre-training; 0: as in config/demo-pretrain.json")
    vqa_steps: int = option(0, help="optimiser steps of finetuning; 0: as in config/demo-vqa.json")
    compare_steps: int = option(700, help="optimiser steps of every finetuning of the comparison", at_least=1)


class Demo:
    """Runs the commands, each printed before."""

    BOUNDS = ("--conf_th", "0.2", "--max_bb", "12", "--min_bb", "3")  # of detected boxes

    def __init__(self, config: DemoConfig, ranks: int | None = None, log: TextIO | None = None):
        """`ranks` of a training run, by default one a core; what commands say goes to `log`, else to the terminal."""
        self.config, self.root, self.log = config, Path(config.output), log
        self.ranks = ranks or min(MICROS, os.cpu_count() or 1)

    def call(self, done: Path, *command: str | Path) -> None:
        """Run a module or script of this checkout, unless `done`, which it writes last, is there."""
        if done.exists():
            return
        line = [str(part) for part in command]
        print("\n$ python " + shlex.join(line), file=self.log, flush=True)
        started = time.monotonic()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as many processes as cores, one thread each
        if subprocess.run([sys.executable, *line], env=environment, stdout=self.log, stderr=self.log).returncode:
            remedy = f"its own message is in {self.log.name}" if self.log else "its own message is above"
            raise InputError("a step of the demo failed", key=shlex.join(line), remedy=remedy)
        print(f"({time.monotonic() - started:.0f} s)", file=self.log, flush=True)

    def make_data(self) -> None:
        """Raw files, region features, image stores, text stores."""
        c, root = self.config, self.root
        raw, vocab = root / "raw", root / "raw" / "vocab.txt"
        sizes: Command = [f"--n_{split}={getattr(c, f'n_{split}')}" for split in SPLITS]
        self.call(vocab, "-m", "scripts.demo_world.make_demo_data", "--output", raw, *sizes)
        for split in SPLITS:
            boxes: Command = ["--imitate_detector", raw / f"instances_{split}.json"]
            naming: Command = ["--img_name", IMG_NAME, "--split", split]
            self.images(f"demo_{split}", [raw / "images" / split], boxes, naming, *self.BOUNDS)
        for split in ("train", "val"):
            naming = ["--img_name", IMG_NAME, "--split", split]
            self.prepare("captions", split, "--annotations", raw / f"captions_{split}.json", *naming)
        answers = root / "txt_db" / "vqa_train.db" / "ans2label.json"
        for split in SPLITS:
            told: Command = [] if split == "test" else ["--annotations", raw / f"annotations_{split}.json"]
            known: Command = ["--ans2label", answers] if split == "val" else []
            naming = ["--img_name", IMG_NAME, "--split", split]
            self.prepare("vqa", split, "--questions", raw / f"questions_{split}.json", *told, *known, *naming)

    def images(self, name: str, pictures: Command, boxes: Command, naming: Command, *bounds: str) -> None:
        """One image store."""
        npz, store = self.root / "npz" / name, self.root / "img_db" / name
        described: Command = ["-m", "scripts.describe_regions", "--images", *pictures, *boxes, *naming, "--output", npz]
        self.call(npz / "provenance.json", *described)
        converted: Command = ["--img_dir", npz, "--output", store, *bounds, "--nproc", "2"]
        self.call(store, "scripts/convert_imgdir.py", *converted)

    def prepare(self, task: str, split: str, *inputs: str | Path) -> None:
        """One text store."""
        store = self.root / "txt_db" / f"{task}_{split}.db"
        vocab: Command = ["--vocab", self.root / "raw" / "vocab.txt"]
        self.call(store / "meta.json", "prepro.py", task, *inputs, *vocab, "--output", store)

    def train(self, script: str, config: str, output: Path, steps: int, *flags: str | Path) -> None:
        """A training script on all ranks, resumed where it was interrupted."""
        steps = steps or read_json(config)["num_train_steps"]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.ranks)]
        accumulation = ["--gradient_accumulation_steps", str(MICROS // self.ranks)]
        where: Command = ["--config", config, "--data_root", self.root, "--output_dir", output]
        resume = ["--resume"] if output.exists() else []
        counted = ["--num_train_steps", str(steps)]
        done = output / "ckpt" / f"train_state_{steps}.pt"  # written last
        self.call(done, *launcher, script, *where, *counted, *accumulation, *flags, *resume)

    def vqa(self, name: str, steps: int, *flags: str | Path) -> dict[str, Any]:
        """Finetune, answer the test split, score: official accuracies of one run."""
        output, raw = self.root / "output" / name, self.root / "raw"
        self.train("train_vqa.py", "config/demo-vqa.json", output, steps, *flags)
        results = output / "results_test" / "results_best_all.json"
        stores: Command = [
            "--txt_db",
            self.root / "txt_db" / "vqa_test.db",
            "--img_db",
            self.root / "img_db" / "demo_test",
        ]
        self.call(results, "inf_vqa.py", *stores, "--output_dir", output, "--checkpoint", "best", "--n_workers", "1")
        scores = output / "results_test" / "scores.json"
        self.call(scores, "-m", "scripts.eval_vqa", results, raw / "annotations_test.json", "--json", scores)
        return read_json(scores)

    def pretrain(self) -> Path:
        """Pre-train; returns the last weights."""
        output, config = self.root / "output" / "pretrain", "config/demo-pretrain.json"
        self.train("pretrain.py", config, output, self.config.pretrain_steps)
        return max((output / "ckpt").glob("model_step_[0-9]*.pt"), key=lambda path: int(path.stem.split("_")[-1]))

    def all_tasks(self, weights: Path, vqa: dict[str, Any]) -> None:
        """Finetune and test every task; one table."""
        demo_tasks.describe(self)
        demo_tasks.prepare(self)
        kinds: dict[str, Command] = {"pre-trained": ["--checkpoint", weights.absolute()]}
        if self.config.table:
            kinds |= {"blind": [*kinds["pre-trained"], "--blind"], "scratch": ["--checkpoint", "None"]}
        rows: dict[str, dict[str, float | None]] = {}
        rows["vqa accuracy"] = {"pre-trained": vqa["overall"], "chance": demo_tasks.vqa_chance(self)}
        sizes = ["--model_config", "config/demo-model.json", *self.BOUNDS]
        zero_shot = demo_tasks.retrieve(self, self.root / "output" / "itm_zero_shot", weights, *sizes)
        for metric in ("img_r1", "txt_r1"):
            rows[f"itm {metric}, zero-shot"] = {"pre-trained": zero_shot[metric], "chance": 1.0}
        for kind, flags in kinds.items():
            if kind != "pre-trained":
                rows["vqa accuracy"][kind] = self.vqa(f"vqa_{kind}", self.config.vqa_steps, *flags)["overall"]
            for task in TASKS:
                name = task.name if kind == "pre-trained" else f"{task.name}_{kind}"
                run = self.root / "output" / name
                self.train(f"train_{task.name}.py", f"config/demo-{task.name}.json", run, 0, *flags)
                scores = task.test(self, run)
                for metric, chance in task.metrics.items():
                    guessing = {"chance": chance(self) if callable(chance) else chance}
                    rows.setdefault(f"{task.name} {metric}", guessing)[kind] = scores[metric]
        write_json(self.root / "table.json", rows, indent=2)
        print_table(rows)

    def compare(self, weights: Path) -> None:
        """Three paired seeds: pre-trained, from scratch, blind; the same finetuning steps."""
        kinds: dict[str, Command] = {
            "pre-trained": ["--checkpoint", weights.absolute()],
            "from scratch": ["--checkpoint", "None"],
            "blind": ["--checkpoint", weights.absolute(), "--blind"],
        }
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for seed in SEEDS:
            for kind, flags in kinds.items():
                name = f"compare_{kind.replace(' ', '_')}_{seed}"
                steps = self.config.compare_steps
                found[kind].append(self.vqa(name, steps, *flags, "--seed", str(seed))["overall"])
        print(f"\nVQA test accuracy after {self.config.compare_steps} steps, seeds {SEEDS}, mean ± standard error:")
        best = np.array(found["pre-trained"])
        for kind, values in found.items():
            lost = best - np.array(values)
            below = "" if kind == "pre-trained" else f"; below pre-trained by {_spread(lost)} (paired)"
            print(f"  {kind:<13}{_spread(np.array(values))}{below}")
        (self.root / "compare.json").write_text(json.dumps(found, indent=2) + "\n")

    def report(self, scores: dict[str, Any]) -> None:
        """What was learned, and where everything is."""
        lines = (self.root / "output" / "pretrain" / "log" / "metrics.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        right, wrong = last["mlm_demo/acc"], last["mlm_demo@wrong_picture/acc"]
        print("\nPre-training, validation:")
        for name in sorted(key.removesuffix("/loss") for key in last if key.endswith("/loss") and "@" not in key):
            accuracy = f", accuracy {100 * last[f'{name}/acc']:.1f} %" if f"{name}/acc" in last else ""
            print(f"  {name:<12} loss {last[f'{name}/loss']:.4f}{accuracy}")
        print(f"  masked words with the right picture {100 * right:.1f} %, with another picture {100 * wrong:.1f} %")
        print(f"\nVQA test accuracy: {scores['overall']:.1f} % of {scores['questions']} questions")
        for kind, value in scores["question_type"].items():
            print(f"  {kind:<24}{value:.1f} %")
        print(f"\nEverything is under {self.root}/:")
        for what, where in (
            ("pictures, captions, questions, annotations", "raw/"),
            ("stores", "img_db/ txt_db/"),
            ("pre-training: curves, weights", "output/pretrain/log/metrics.jsonl, output/pretrain/ckpt/"),
            ("VQA: curves, weights", "output/vqa/log/metrics.jsonl, output/vqa/ckpt/"),
            ("the leaderboard's file of the test split", "output/vqa/results_test/results_best_all.json"),
        ):
            print(f"  {what + ':':<46}{where}")


def print_table(rows: dict[str, dict[str, float | None]]) -> None:
    """One line a metric of the test splits, in percent."""
    columns = ("scratch", "pre-trained", "blind", "chance")
    print(f"\n{'test split, %':<32}" + "".join(f"{name:>13}" for name in columns))
    for name, row in rows.items():
        cells = [row.get(column) for column in columns]
        print(f"{name:<32}" + "".join(f"{'–':>13}" if cell is None else f"{cell:13.1f}" for cell in cells))


def _spread(values: np.ndarray) -> str:
    """Mean ± standard error in percent."""
    return f"{values.mean():.1f} ± {values.std(ddof=1) / np.sqrt(len(values)):.1f} %"


def main(argv: list[str] | None = None) -> None:
    config, _ = parse(DemoConfig, argv)
    demo, started = Demo(config), time.monotonic()
    demo.make_data()
    weights = demo.pretrain()
    scores = demo.vqa("vqa", config.vqa_steps, "--checkpoint", weights.absolute())
    demo.report(scores)
    if config.all:
        demo.all_tasks(weights, scores)
    if config.compare:
        demo.compare(weights)
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    exit_on_input_error(main)
