"""What the scripts' tasks have in common (DESIGN section 3): options, stores, model, weights.

A task says what is learned from what; `optim.trainer` runs it and knows nothing of it but the methods below.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from torch import Tensor, nn

from data.batch import PackedBatch
from data.concat import Concat
from data.dataset import Dataset
from data.sampler import Entry
from data.stores import Stores
from evaluation.submission import write_logits_npz
from model.uniter import UniterConfig, set_dropout
from model.weights import LoadReport, load_checkpoint
from utils.config import RunConfig, load_hps
from utils.formats import IMG_DIM

LOG = logging.getLogger("uniter")

C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True)
class MicroBatches:
    """What one rank computes for one optimiser step."""

    batch_size: int  # units or examples of a micro-batch
    per_step: int  # micro-batches of a rank in a step
    accumulation: Literal["sum", "mean"]  # of their gradients; over ranks it is always the mean

    def gradient_divisor(self, ranks: int) -> int:
        """What the summed gradients of a step, of all ranks and micro-batches, are divided by (DESIGN section 5)."""
        return ranks * self.per_step if self.accumulation == "mean" else ranks


class Task(Generic[C]):
    """The contract. A subclass gives at least `dataset`, `new_model`, `loss`, `predict` and `score`.

    `model` is in every method what `new_model` returns.
    """

    name: ClassVar[str] = ""  # of its training entry in the log
    metric: ClassVar[str] = ""  # the score of "val", higher is better, that decides which checkpoint is the best
    head: ClassVar[str | None] = None  # the part of the model that learns `lr_mul` times faster
    saves: ClassVar[Literal["step", "epoch"]] = "step"  # what weight files are numbered by
    validated: ClassVar[tuple[str, ...]] = ("val",)  # splits scored at every validation
    tested: ClassVar[tuple[str, ...]] = ()  # splits scored once, after the last step
    img_dim: ClassVar[int] = IMG_DIM  # feature width of its image stores
    final_weights: ClassVar[bool] = False  # also leave model_{saves}_{STEP}_final.pt
    refresh_steps: int = 0  # every so many steps `refresh` rebuilds the training data; 0: never

    def __init__(self, config: C):
        self.config = config
        self.model_config: UniterConfig = load_hps(config.model_config, UniterConfig)[0]
        self.stores = Stores(config, self.model_config, self.img_dim)

    # Data

    def dataset(self, txt_db: str, img_db: str, train: bool = False) -> Dataset:
        """The dataset of a text store about the pictures of an image store."""
        raise NotImplementedError

    def train_data(self) -> Sequence[Entry]:
        """Training data by name and weight: here all stores of the options, end to end, as one entry."""
        parts = [self.dataset(txt_db, img_db, train=True) for txt_db, img_db in self.config.db_pairs("train")]
        self.stores.check_against(self.config.checkpoint)
        return [Entry(self.name, parts[0] if len(parts) == 1 else Concat(parts))]

    def eval_data(self) -> dict[str, Dataset]:
        """Evaluation data by name, scored at every validation."""
        return self._labelled_splits(*self.validated)

    def final_data(self) -> dict[str, Dataset]:
        """Evaluation data by name, scored once, after the last step."""
        return self._labelled_splits(*self.tested)

    def split_datasets(self, *splits: str) -> dict[str, Any]:
        """The datasets of those of the splits that the options name stores for."""
        return {
            split: self.dataset(txt_db, img_db) for split in splits for txt_db, img_db in self.config.db_pairs(split)
        }

    def _labelled_splits(self, *splits: str) -> dict[str, Dataset]:
        """Those of the splits that have labels; the log names the others."""
        datasets = self.split_datasets(*splits)
        for split in [split for split, dataset in datasets.items() if not dataset.has_labels]:
            LOG.info("the %s split has no labels: it is not scored", split)
            del datasets[split]
        return datasets

    def micro_batches(self) -> MicroBatches:
        """How much of the training data a step takes: here as the options say."""
        c = self.config
        return MicroBatches(c.train_batch_size, c.gradient_accumulation_steps, c.accumulation)

    def refresh(
        self, model: Any, step: int, predict: Callable[[Dataset], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Rebuild the training data from the model as it is at `step`; returns the same arrays on every rank.

        `predict(dataset)` gives `Task.predict` over a whole dataset. The arrays are kept in the train state, and given
        to `apply_refresh`.
        """
        raise NotImplementedError

    def apply_refresh(self, arrays: dict[str, np.ndarray]) -> None:
        """Put what `refresh` returned into the training data: after each refresh, and when a run is resumed."""
        raise NotImplementedError

    # Model

    def new_model(self) -> nn.Module:
        """The model with its head, as initialised."""
        raise NotImplementedError

    def build_model(self) -> nn.Module:
        """The model with the options' dropout and weights."""
        model = self.new_model()
        set_dropout(model, self.config.dropout)
        self.after_loading(model, load_checkpoint(model, self.config.checkpoint))
        return model

    def after_loading(self, model: Any, report: LoadReport) -> None:
        """What depends on the weights that the checkpoint had; here nothing."""

    def loss(self, model: Any, batch: PackedBatch) -> Tensor:
        """The scalar whose gradient a micro-batch gives."""
        raise NotImplementedError

    # Evaluation and output

    def predict(self, model: Any, batch: PackedBatch) -> dict[str, np.ndarray]:
        """What `score` and `write` need of a batch: arrays that join along their first axis, `ids` among them."""
        raise NotImplementedError

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Metrics of the predictions for a whole dataset; {} where it has no labels."""
        raise NotImplementedError

    def main_metric(self, scores: dict[str, float]) -> float | None:
        """The number, higher is better, that decides which checkpoint is the best; None: the newest is."""
        return scores.get(f"val/{self.metric}")

    def write(self, predictions: dict[str, np.ndarray], path: Path, ids: Sequence[str]) -> None:
        """The leaderboard's own file, of exactly the examples `ids`, or an error and no file."""
        raise NotImplementedError

    def write_logits(self, predictions: dict[str, np.ndarray], path: Path) -> None:
        """The scores behind the predictions, for ensembles: here one row of `logits` an id."""
        write_logits_npz(path, predictions["ids"].tolist(), predictions["logits"], np.float32)

    def write_inference_files(self, output_dir: Path) -> None:
        """Write to the output folder what later runs on its weights need: here the vocabulary's marks."""
        self.stores.write_vocabulary(output_dir / "log" / "vocab.json")
