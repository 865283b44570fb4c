"""The whole benchmark in one command: stores, pre-training, finetuning, and dev, looked at once a seed.

python -m examples.nlvr1.run --data nlvr1 --output nlvr1/run --seeds 42 43 44
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/by_path.py"))

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np

from utils.config import parse
from utils.errors import exit_on_input_error
from utils.files import read_json, write_json
from utils.options import MOST, MOST_SEED, option

CONFIG = "examples/nlvr1/nlvr1.json"
FINETUNE_FLAGS = ("--learning_rate", "0.0006", "--statements_weight", "4")  # what finetuning does otherwise
DEV_STORES = ("txt_db/dev.db", "img_db/dev")


@dataclass(kw_only=True)
class BenchmarkConfig:
    """Options of the benchmark."""

    data: str = option(help="folder of the official files (examples/nlvr1/README.md lists them)")
    output: str = option("nlvr1", help="folder for all results; finished parts are not made again")
    seeds: list[int] = option(
        [42, 43, 44], help="seeds, each of one pre-training and one finetuning", at_least=0, at_most=MOST_SEED
    )
    pretrain_steps: int = option(4000, help="optimiser steps of pre-training", at_least=1, at_most=MOST)
    finetune_steps: int = option(1000, help="optimiser steps of finetuning", at_least=1, at_most=MOST)
    valid_steps: int = option(
        200, help="steps between two validations on the held-out sentences", at_least=1, at_most=MOST
    )
    statements: int = option(100_000, help="generated statements to pre-train on", at_least=1, at_most=MOST)
    num_threads: int = option(1, help="CPU threads of a run; 0: torch decides", at_least=0, at_most=10_000)


class Benchmark:
    """Runs the commands, each printed before."""

    def __init__(self, config: BenchmarkConfig):
        self.config, self.root = config, Path(config.output)
        self.stores = self.root / "stores"

    def call(self, last_file: Path, module: str, *flags: str | Path) -> None:
        """Run a module of this folder, unless the file that it writes last exists."""
        if last_file.exists():
            return
        arguments = ["-m", f"examples.nlvr1.{module}", *map(str, flags)]
        print("$ python", shlex.join(arguments), flush=True)
        subprocess.run([sys.executable, *arguments], check=True)

    def prepare(self) -> None:
        """Make the stores from the official files."""
        count = str(self.config.statements)
        flags = "--data", self.config.data, "--output", self.stores, "--statements", count
        self.call(self.stores / "scale.npz", "prepare", *flags)

    def train(self, phase: str, seed: int, steps: int, *flags: str | Path) -> Path:
        """One phase; returns the folder of its weights."""
        config, output = self.config, self.root / f"{phase}_{seed}"
        arguments: list[str | Path] = ["--config", CONFIG, "--data_root", self.stores.resolve(), "--phase", phase]
        arguments += ["--seed", str(seed)]
        arguments += ["--num_train_steps", str(steps), "--valid_steps", str(config.valid_steps), *flags, "--resume"]
        arguments += ["--num_threads", str(config.num_threads), "--output_dir", output]
        self.call(output / "ckpt" / f"model_step_{steps}.pt", "train_nlvr1", *arguments)
        return output / "ckpt"

    def run_seed(self, seed: int) -> dict[str, float]:
        """Both phases and dev; the scores on dev."""
        config = self.config
        start = time.perf_counter()
        weights = self.train("pretrain", seed, config.pretrain_steps) / f"model_step_{config.pretrain_steps}.pt"
        flags = "--checkpoint", weights.resolve(), *FINETUNE_FLAGS
        output = self.train("finetune", seed, config.finetune_steps, *flags).parent
        answers = output / "results_dev" / "results_best_all.json"
        txt_db, img_db = (str(self.stores / path) for path in DEV_STORES)
        self.call(answers, "inf_nlvr1", "--txt_db", txt_db, "--img_db", img_db, "--output_dir", output)
        minutes = (time.perf_counter() - start) / 60
        scores = {name: read_json(answers)["scores"][name] for name in ("acc", "consistency")}
        return scores | {"minutes": minutes}


def main(argv: list[str] | None = None) -> None:
    config, _ = parse(BenchmarkConfig, argv)
    benchmark = Benchmark(config)
    benchmark.prepare()
    scores = {str(seed): benchmark.run_seed(seed) for seed in config.seeds}
    for name in ("acc", "consistency", "minutes"):
        values = np.array([seed_scores[name] for seed_scores in scores.values()])
        print(f"dev {name}: mean {values.mean():.4f}, std {values.std():.4f}, seeds {values.round(4).tolist()}")
    write_json(benchmark.root / "results.json", scores, indent=2)


if __name__ == "__main__":
    exit_on_input_error(main)
