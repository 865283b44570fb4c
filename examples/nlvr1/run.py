"""The whole benchmark in one command: stores, pre-training, finetuning, and dev, looked at once a seed.

python -m examples.nlvr1.run --data nlvr1 --output nlvr1/run --seeds 42 43 44
"""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.config import parse
from utils.errors import exit_on_input_error
from utils.files import read_json, write_json
from utils.options import option

CONFIG = "examples/nlvr1/nlvr1.json"
FINETUNE = ("--learning_rate", "0.0006", "--statements_weight", "4")  # what finetuning does otherwise
DEV = ("txt_db/dev.db", "img_db/dev")


@dataclass(kw_only=True)
class BenchmarkConfig:
    """Options of the benchmark."""

    data: str = option(help="folder of the official files (docs/ADD_A_TASK.md lists them)")
    output: str = option("nlvr1", help="folder of everything it makes; what is there already is not made again")
    seeds: list[int] = option([42, 43, 44], help="one pre-training and finetuning each")
    pretrain_steps: int = option(4000, help="optimiser steps of pre-training", at_least=1)
    finetune_steps: int = option(1000, help="optimiser steps of finetuning", at_least=1)
    valid_steps: int = option(200, help="steps between two looks at the held-out sentences", at_least=1)
    statements: int = option(100_000, help="generated statements to pre-train on", at_least=1)
    num_threads: int = option(1, help="CPU threads of a run", at_least=0)


class Benchmark:
    """Runs the commands, each printed before."""

    def __init__(self, config: BenchmarkConfig):
        self.config, self.root = config, Path(config.output)
        self.stores = self.root / "stores"

    def call(self, done: Path, module: str, *flags: str | Path) -> None:
        """Run a module of this folder, unless `done`, which it writes last, is there."""
        if done.exists():
            return
        line = ["-m", f"examples.nlvr1.{module}", *map(str, flags)]
        print("$ python", shlex.join(line), flush=True)
        subprocess.run([sys.executable, *line], check=True)

    def prepare(self) -> None:
        count = str(self.config.statements)
        flags = "--data", self.config.data, "--output", self.stores, "--statements", count
        self.call(self.stores / "scale.npz", "prepare", *flags)

    def train(self, phase: str, seed: int, steps: int, *flags: str | Path) -> Path:
        """One phase; returns the folder of its weights."""
        c, output = self.config, self.root / f"{phase}_{seed}"
        options: list[str | Path] = ["--config", CONFIG, "--data_root", self.stores.resolve(), "--phase", phase]
        options += ["--seed", str(seed)]
        options += ["--num_train_steps", str(steps), "--valid_steps", str(c.valid_steps), *flags, "--resume"]
        options += ["--num_threads", str(c.num_threads), "--output_dir", output]
        self.call(output / "ckpt" / f"model_step_{steps}.pt", "train_nlvr1", *options)
        return output / "ckpt"

    def seed(self, seed: int) -> dict[str, float]:
        """Both phases and dev; the scores on dev."""
        c = self.config
        started = time.perf_counter()
        weights = self.train("pretrain", seed, c.pretrain_steps) / f"model_step_{c.pretrain_steps}.pt"
        finetune = "--checkpoint", weights.resolve(), *FINETUNE
        output = self.train("finetune", seed, c.finetune_steps, *finetune).parent
        answers = output / "results_dev" / "results_best_all.json"
        txt_db, img_db = (str(self.stores / path) for path in DEV)
        self.call(answers, "inf_nlvr1", "--txt_db", txt_db, "--img_db", img_db, "--output_dir", output)
        minutes = (time.perf_counter() - started) / 60
        scores = {name: read_json(answers)["scores"][name] for name in ("acc", "consistency")}
        return scores | {"minutes": minutes}


def main(argv: list[str] | None = None) -> None:
    config, _ = parse(BenchmarkConfig, argv)
    benchmark = Benchmark(config)
    benchmark.prepare()
    scores = {str(seed): benchmark.seed(seed) for seed in config.seeds}
    for name in ("acc", "consistency", "minutes"):
        values = np.array([found[name] for found in scores.values()])
        print(f"dev {name}: mean {values.mean():.4f}, std {values.std():.4f}, seeds {values.round(4).tolist()}")
    write_json(benchmark.root / "results.json", scores, indent=2)


if __name__ == "__main__":
    exit_on_input_error(main)
