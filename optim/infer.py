"""What every `inf_*.py` shares: its flags, a finished run's options and weights, predictions on any number of ranks."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evaluation.submission import split_order
from optim.precision import Precision
from optim.predict import predict
from optim.task import Task
from utils import distributed
from utils.config import load_hps, parse
from utils.distributed import World
from utils.errors import InputError
from utils.options import option

LOG = logging.getLogger("uniter")


@dataclass(kw_only=True)
class InferenceFlags:
    """What every script reads, and how it computes."""

    txt_db: str = option(help="text LMDB to predict for", path="own")
    img_db: str = option(help="its image LMDB", path="own")
    compressed_db: bool = option(False, help="the image store is the compressed one")
    fp16: bool = option(False, help="half precision: bf16 where the hardware has it, else fp16")
    precision: Literal["fp64", "fp32", "bf16", "fp16"] | None = option(None, help="decides instead of fp16")
    n_workers: int = option(4, help="loader processes; 0: none", at_least=0)
    pin_mem: bool = option(False, help="page-locked batches, for faster copies to a GPU")
    save_logits: bool = option(False, help="also write the scores behind every prediction, for scripts/ensemble.py")


@dataclass(kw_only=True)
class InferenceConfig(InferenceFlags):
    """Flags of inference under the release's names; a script redeclares what differs."""

    output_dir: str = option(help="folder of a finished run: log/hps.json, log/model.json, ckpt/", path="own")
    checkpoint: str = option("best", help="a step (RE: an epoch) of that run, `best`, or the path of a weight file")
    batch_size: int | None = option(8192, help="units of a batch; none: the run's val_batch_size", at_least=1)

    @property
    def run_dir(self) -> Path:
        """The finished run."""
        return Path(self.output_dir)

    @property
    def name(self) -> str:
        """What result files are called after: the value given, of a path its stem."""
        return Path(self.checkpoint).stem


class Inference:
    """A finished run as a task that predicts; `world` is this process's place among the ranks."""

    def __init__(
        self,
        config_type: type,
        task_type: type[Task],
        run_type: type,
        argv: list[str] | None = None,
        changes: Callable[[Any], dict[str, Any]] = lambda config: {},
    ):
        """Parse `argv` into `config_type`, restore the run's options as `run_type` and its task.

        `changes(config)`: options of the run that inference sets otherwise.
        """
        self.config, self.world = begin(config_type, argv)
        self.run = restore(self.config, run_type, task_type.saves)
        for key, value in changes(self.config).items():
            setattr(self.run, key, value)
        self.task: Any = task_type(self.run)
        self._model: Any = None

    def predict(self, data: Any) -> dict[str, np.ndarray]:
        """The task's predictions for all of `data`: the same on every rank and for any number of ranks."""
        c = self.config
        precision = Precision(c.precision, c.fp16, self.world.device)
        if self._model is None:
            self.task.stores.check_against(self.run.checkpoint)
            self._model = precision.cast(self.task.build_model())
        batch_size = c.batch_size or self.run.val_batch_size
        return predict(self.task, self._model, data, batch_size, self.world, precision, c.n_workers, c.pin_mem)

    def results(self, split: str) -> Path:
        """Where the release puts the predictions of a split: `results_{split}/results_{checkpoint}_all.json`."""
        return self.config.run_dir / f"results_{split}" / f"results_{self.config.name}_all.json"

    def answer(self, path: Path | None = None) -> Path:
        """Predict for all of the given stores and write the leaderboard's file, to `path` or `results("test")`."""
        data = self.task.dataset(self.config.txt_db, self.config.img_db)
        return self.publish(self.predict(data), data, path or self.results("test"))

    def publish(self, predictions: dict[str, np.ndarray], data: Any, path: Path) -> Path:
        """Let the task write the leaderboard's file to `path`, and with --save_logits its scores beside it."""
        if self.world.is_main:
            ids = [data.id(i) for i in range(len(data))]
            order = split_order(path, predictions["ids"].tolist(), ids, "example")  # batches came in another
            predictions = {name: values[order] for name, values in predictions.items()}
            self.task.write(predictions, path, ids)
            if self.config.save_logits:
                name = path.stem.replace("results", "logits", 1)
                self.task.write_logits(predictions, path.with_name(f"{name}.npz"))
            LOG.info("%d predictions in %s", len(data), path)
            scores = self.task.score(predictions, data)  # {} where there are no labels
            if scores:
                LOG.info(", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        return path


def begin(config_type: type, argv: list[str] | None) -> tuple[Any, World]:
    """The options, with what is to be said of them said, and this process's place among the ranks."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config: Any
    config, notes = parse(config_type, argv)
    world = distributed.start()
    LOG.setLevel(logging.INFO if world.is_main else logging.WARNING)
    for note in notes:
        LOG.info(note)
    return config, world


def weight_file(run_dir: Path, checkpoint: str, saves: str) -> Path:
    """The weight file that `checkpoint` means: of a run's step or epoch, its best, or a path."""
    if checkpoint.isdigit() or checkpoint == "best":
        return run_dir / "ckpt" / f"model_{saves}_{checkpoint}.pt"
    return Path(checkpoint)


def run_options(path: Path, run_type: type) -> Any:
    """The options in `path`, a run's `log/hps.json`; the log says which of its keys nothing reads."""
    run: Any
    run, unknown = load_hps(path, run_type)
    if unknown:
        LOG.info(f"{path}: keys that nothing reads: {', '.join(unknown)}")
    return run


def restore(config: Any, run_type: type, saves: str) -> Any:
    """The options of the finished run, set to run on `config`'s data and weights."""
    log = config.run_dir / "log"
    if not (log / "hps.json").exists():
        raise InputError(
            "not the output folder of a run",
            file=log / "hps.json",
            found="no such file",
            expected="log/hps.json and log/model.json, as training leaves them",
            remedy="give the folder that the training script wrote to",
        )
    run = run_options(log / "hps.json", run_type)
    for key, value in {
        "model_config": str(log / "model.json"),
        "checkpoint": str(weight_file(config.run_dir, config.checkpoint, saves)),
        "compressed_db": config.compressed_db,
        "fp16": config.fp16,
        "precision": config.precision,
    }.items():
        setattr(run, key, value)
    return run
