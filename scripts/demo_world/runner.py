"""The commands of the demo: data, stores, training, inference, scores. Finished commands are not repeated."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from scripts import convert_imgdir
from utils.errors import InputError
from utils.files import read_json
from utils.paths import find_file

Command = list[str | Path]  # a command line, or a part of one
SPLITS = ("train", "val", "test")
SEEDS = (42, 43, 44)  # of the comparisons; the first is that of the configs
MICRO_BATCHES = 2  # micro-batches of a step over all ranks, so that one rank and two give the same result
IMG_NAME = "demo_{split}_{image_id:012}.npz"
DETECTED_BOXES: Command = ["--conf_th", "0.2", "--max_bb", "12", "--min_bb", "3"]


class DemoRunner:
    """Runs commands as a user would type them, and prints each one."""

    def __init__(self, root: str | Path, ranks: int | None = None, log: TextIO | None = None):
        """`root`: the demo's folder. `ranks`: number of ranks of a training run; default: one per core, at most 2.

        `log`: file for the output of the commands; default: the terminal.
        """
        self.root, self.log = Path(root), log
        self.ranks = ranks or min(MICRO_BATCHES, os.cpu_count() or 1)

    def call(self, last_output: Path, command: Command) -> None:
        """Run a module or script of this checkout, unless `last_output`, the file that it writes last, exists.

        `InputError` if the command fails.
        """
        if last_output.exists():
            return
        line = [str(part) for part in command]
        print("\n$ python " + shlex.join(line), file=self.log, flush=True)
        started = time.monotonic()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # one process per core, with one thread
        own_files = [find_file(part, "", []) if part.endswith((".py", ".json")) else part for part in line]
        if subprocess.run([sys.executable, *own_files], env=environment, stdout=self.log, stderr=self.log).returncode:
            remedy = f"read its error message {f'in {self.log.name}' if self.log else 'above'}"
            raise InputError("a command of the demo failed", key=shlex.join(line), remedy=remedy)
        print(f"({time.monotonic() - started:.0f} s)", file=self.log, flush=True)

    def make_data(self, *, n_pictures: dict[str, int]) -> None:
        """Make the raw files, and the stores of pre-training and VQA; `n_pictures`: split → number of images."""
        raw = self.root / "raw"
        sizes = [f"--n_{split}={n_pictures[split]}" for split in SPLITS]
        self.call(raw / "vocab.txt", ["-m", "scripts.demo_world.make_demo_data", "--output", raw, *sizes])
        for split in SPLITS:
            self.make_image_store(
                f"demo_{split}",
                pictures=[raw / "images" / split],
                boxes=["--imitate_detector", raw / f"instances_{split}.json"],
                naming=["--img_name", IMG_NAME, "--split", split],
                selection=DETECTED_BOXES,
            )
        for split in ("train", "val"):
            captions: Command = ["--annotations", raw / f"captions_{split}.json"]
            self.make_text_store("captions", split, flags=[*captions, "--img_name", IMG_NAME, "--split", split])
        for split in SPLITS:
            flags: Command = ["--questions", raw / f"questions_{split}.json"]
            if split != "test":
                flags += ["--annotations", raw / f"annotations_{split}.json"]
            if split == "val":
                flags += ["--ans2label", self.root / "txt_db" / "vqa_train.db" / "ans2label.json"]
            self.make_text_store("vqa", split, flags=[*flags, "--img_name", IMG_NAME, "--split", split])

    def make_image_store(
        self, name: str, *, pictures: list[Path], boxes: Command, naming: Command, selection: Command
    ) -> None:
        """Make region features of images and convert them to an image store.

        `pictures`: folders of images. `boxes`, `naming`, `selection`: command-line flags that say where boxes come
        from, how records are named, and which boxes are kept.
        """
        npz, store = self.root / "npz" / name, self.root / "img_db" / name
        source: Command = ["--images", *pictures, *boxes, *naming]
        self.call(npz / "provenance.json", ["-m", "scripts.describe_regions", *source, "--output", npz])
        conversion: Command = ["--img_dir", npz, "--output", store, *selection, "--nproc", "2"]
        variant = convert_imgdir.variant(convert_imgdir.command_line().parse_args([str(part) for part in conversion]))
        self.call(store / variant, ["scripts/convert_imgdir.py", *conversion])

    def make_text_store(self, task: str, split: str, *, flags: Command) -> None:
        """Make the text store of one split; `flags` name the annotations and the images."""
        store, vocab = self.root / "txt_db" / f"{task}_{split}.db", self.root / "raw" / "vocab.txt"
        self.call(store / "meta.json", ["prepro.py", task, *flags, "--vocab", vocab, "--output", store])

    def train(self, script: str, *, config: str, output: Path, steps: int, flags: Command) -> None:
        """Run a training script on all ranks, or resume it; `steps` 0: the number in `config`."""
        steps = steps or read_json(find_file(config, "", []))["num_train_steps"]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.ranks)]
        command: Command = [*launcher, script, "--config", config, "--data_root", self.root, "--output_dir", output]
        command += ["--num_train_steps", str(steps)]
        command += ["--gradient_accumulation_steps", str(MICRO_BATCHES // self.ranks), *flags]
        if output.exists():
            command.append("--resume")
        self.call(output / "ckpt" / f"train_state_{steps}.pt", command)

    def pretrain(self, name: str = "pretrain", *, steps: int = 0, flags: Command | None = None) -> Path:
        """Pre-train; returns the path of the last weights."""
        output = self.root / "output" / name
        self.train("pretrain.py", config="config/demo-pretrain.json", output=output, steps=steps, flags=flags or [])
        return max((output / "ckpt").glob("model_step_[0-9]*.pt"), key=lambda path: int(path.stem.split("_")[-1]))

    def finetune_vqa(self, name: str, *, steps: int, flags: Command) -> dict[str, Any]:
        """Finetune VQA, answer the test split and score it; returns the official accuracies, in percent."""
        output = self.root / "output" / name
        self.train("train_vqa.py", config="config/demo-vqa.json", output=output, steps=steps, flags=flags)
        results = output / "results_test" / "results_best_all.json"
        texts, images = self.root / "txt_db" / "vqa_test.db", self.root / "img_db" / "demo_test"
        inference: Command = ["inf_vqa.py", "--txt_db", texts, "--img_db", images, "--output_dir", output]
        self.call(results, [*inference, "--checkpoint", "best", "--n_workers", "1"])
        scores, annotations = results.with_name("scores.json"), self.root / "raw" / "annotations_test.json"
        self.call(scores, ["-m", "scripts.eval_vqa", results, annotations, "--json", scores])
        return read_json(scores)
