"""The main job on generated data, end to end, with the commands a user would type (`scripts/demo.sh` calls this).

pictures and texts → region features → stores → pre-training → VQA finetuning → answers → scores
"""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from utils.errors import InputError
from utils.options import option

SPLITS = ("train", "val", "test")
SEEDS = (42, 43, 44)


@dataclass(kw_only=True)
class DemoConfig:
    """Options of the demo."""

    output: str = option("demo", help="folder of everything it makes")
    compare: bool = option(False, help="add the controls: blind, and from scratch, over three seeds")
    n_train: int = option(3000, help="pictures to train on", at_least=8)
    n_val: int = option(200, help="pictures to validate on", at_least=8)
    n_test: int = option(400, help="pictures to test on", at_least=8)


class Demo:
    """Runs commands one after the other, each printed before; what is finished is not done again."""

    def __init__(self, config: DemoConfig):
        self.config, self.root, self.times = config, Path(config.output), {}

    def call(self, done: str, *command: str) -> None:
        """Run a module or script of this checkout unless `done`, a path below the root, is there already."""
        if (self.root / done).exists():
            return
        print("\n$ python " + shlex.join(command), flush=True)
        started = time.monotonic()
        status = subprocess.run([sys.executable, *command]).returncode
        if status:
            raise InputError("a step of the demo failed", key=shlex.join(command), found=f"exit status {status}")
        self.times[done] = time.monotonic() - started

    def data(self) -> None:
        """Raw files, region features, image stores, text stores."""
        c, root = self.config, self.root
        sizes = [f"--n_{split}={getattr(c, f'n_{split}')}" for split in SPLITS]
        self.call("raw", "-m", "scripts.make_demo_data", "--output", f"{root}/raw", *sizes)
