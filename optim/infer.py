"""Inference with a finished run, shared by every `inf_*.py`: flags, the run's options and weights, predictions."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from data.dataset import Dataset
from evaluation.ids import split_order
from optim.finished_run import read_run_config, weight_file
from optim.precision import Precision
from optim.predict import Predictor
from optim.task import Task
from utils import distributed
from utils.compute_options import ComputeOptions
from utils.config import parse
from utils.distributed import World
from utils.errors import InputError
from utils.files import check_output
from utils.options import MOST_UNITS, option
from utils.run_config import RunConfig

LOG = logging.getLogger("uniter")

WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


@dataclass(kw_only=True)
class InferenceFlags(ComputeOptions):
    """Flags of every inference script: the stores to predict for, and how to compute."""

    txt_db: str = option(help="text LMDB to predict for", path="own")
    img_db: str = option(help="image LMDB with the images of these texts", path="own")
    compressed_db: bool = option(
        False, help="read the compressed variant of the image LMDB, made with convert_imgdir.py --compress"
    )
    save_logits: bool = option(False, help="also write the logits of every prediction, for scripts/ensemble.py")


@dataclass(kw_only=True)
class InferenceConfig(InferenceFlags):
    """Flags of inference with a finished run, under the release's names. A script changes the flags that differ."""

    output_dir: str = option(
        help="output folder of the training run to use (log/hps.json, log/model.json, ckpt/); results go there too",
        path="own",
    )
    checkpoint: str = option(
        "best", help="weights to use: a step of that run (RE: an epoch), best, or the path of a weight file"
    )
    batch_size: int | None = option(
        8192,
        help="size of a batch, in text tokens plus image regions; None: the val_batch_size of the training run",
        at_least=1,
        at_most=MOST_UNITS,
    )

    @property
    def run_dir(self) -> Path:
        """The output folder of the finished run."""
        return Path(self.output_dir)

    @property
    def name(self) -> str:
        """The part of the names of result files that says which weights made them: `checkpoint`, or a path's stem."""
        path = Path(self.checkpoint)
        return path.stem if path.suffix in WEIGHT_SUFFIXES else path.name


F = TypeVar("F", bound=InferenceConfig)
T = TypeVar("T", bound=Task[Any])


class Inference(Generic[F, T]):
    """A finished run, ready to predict: its flags, options, task and model."""

    def __init__(
        self,
        flags_type: type[F],
        task_type: type[T],
        config_type: type[RunConfig],
        argv: list[str] | None = None,
        changes: Callable[[F], dict[str, Any]] = lambda flags: {},
    ):
        """Parse `argv` into `flags_type`, read the options of the finished run as `config_type`, and build its task.

        `changes(flags)`: options of the run, by name, that have another value in inference. Raises `InputError` for
        wrong flags and for a folder that is not the output of a run.
        """
        self.flags, self.world = parse_and_join(flags_type, argv)
        self.run_config = finished_run_config(self.flags, config_type, task_type.numbered_by)
        for key, value in changes(self.flags).items():
            setattr(self.run_config, key, value)
        self.task = task_type(self.run_config)

    @cached_property
    def predictor(self) -> Predictor:
        """The run's model with its weights. It is loaded at the first use."""
        precision = Precision(self.flags.precision, self.flags.fp16, self.world.device)
        self.task.stores.check_against(self.run_config.checkpoint)
        return Predictor(
            self.task,
            precision.cast(self.task.build_model(complete=True)),
            batch_size=self.flags.batch_size or self.run_config.val_batch_size,
            world=self.world,
            precision=precision,
            n_workers=self.flags.n_workers,
            pin_mem=self.flags.pin_mem,
        )

    def predict(self, dataset: Dataset, path: Path) -> dict[str, np.ndarray]:
        """The task's predictions for all examples of `dataset`, as arrays by name: see `Predictor.predict`.

        `path`: the file that `publish` will write. `InputError` when it could not be written, or when only some
        examples have labels.
        """
        if self.world.is_main:
            check_output(path)
        if not dataset.has_labels:
            LOG.info("no labels: there will be predictions only")
        return self.predictor.predict(dataset)

    def results(self, split: str) -> Path:
        """The release's path for the predictions of a split: `results_{split}/results_{checkpoint}_all.json`."""
        return self.flags.run_dir / f"results_{split}" / f"results_{self.flags.name}_all.json"

    def predict_split(
        self, path: Path | None = None, check_ids: Callable[[Sequence[str], object], object] | None = None
    ) -> Path:
        """Predict for the stores in the flags and write the submission file; returns its path.

        `path`: the file to write. Default: `results("test")`. `check_ids`: raises `InputError` for ids, of the
        named store, that the submission cannot hold, before anything is computed.
        """
        dataset = self.task.dataset(self.flags.txt_db, self.flags.img_db)
        if check_ids is not None:
            check_ids([dataset.id(i) for i in range(len(dataset))], self.flags.txt_db)
        path = path or self.results("test")
        return self.publish(self.predict(dataset, path), dataset, path)

    def publish(self, predictions: dict[str, np.ndarray], dataset: Dataset, path: Path) -> Path:
        """Write the submission file to `path`, and with --save_logits the logits in the same folder; log the metrics.

        Only rank 0 writes. Raises `InputError` unless there is exactly one prediction for each example.
        """
        if self.world.is_main:
            ids = [dataset.id(i) for i in range(len(dataset))]
            order = split_order(path, predictions["ids"].tolist(), ids, "example")  # from the order of the batches
            predictions = {name: values[order] for name, values in predictions.items()}
            self.task.write(predictions, path, ids)
            if self.flags.save_logits:
                name = path.stem.replace("results", "logits", 1)
                self.task.write_logits(predictions, path.with_name(f"{name}.npz"))
            LOG.info("wrote %d predictions to %s", len(dataset), path)
            scores = self.task.score(predictions, dataset)  # {} for a split without labels
            if scores:
                LOG.info(", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        return path


P = TypeVar("P", bound=InferenceFlags)
R = TypeVar("R", bound=RunConfig)


def parse_and_join(flags_type: type[P], argv: list[str] | None) -> tuple[P, World]:
    """Parse the command line, join the other ranks and log the parser's notes; returns the flags and the world."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    flags, notes = parse(flags_type, argv)
    world = distributed.start(backend=flags.backend)
    LOG.setLevel(logging.INFO if world.is_main else logging.WARNING)
    for note in notes if world.size == 1 else [world.origin, *notes]:
        LOG.info(note)
    return flags, world


def finished_run_config(flags: InferenceConfig, config_type: type[R], numbered_by: str) -> R:
    """The options of the finished run in `flags.run_dir`, with the checkpoint, compression and precision of `flags`.

    `numbered_by`: whether its weight files count steps or epochs. Raises `InputError` where the folder is not the
    output of a run.
    """
    log = flags.run_dir / "log"
    if not (log / "hps.json").exists():
        raise InputError(
            "the folder is not the output folder of a training run",
            file=log / "hps.json",
            found="no such file",
            expected="log/hps.json and log/model.json, which training writes",
            remedy="give the output_dir of the training script",
        )
    config = read_run_config(log / "hps.json", config_type)
    config.model_config = str(log / "model.json")
    config.checkpoint = str(weight_file(flags.run_dir, flags.checkpoint, numbered_by))
    config.compressed_db, config.fp16, config.precision = flags.compressed_db, flags.fp16, flags.precision
    return config
