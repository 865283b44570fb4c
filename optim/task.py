"""What all tasks share (DESIGN section 3): options, stores, model, weights, and the methods that a task overrides.

A task says what is learned from which data, and how it is scored. `optim.trainer.Trainer` does everything else.
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
from model.model_json import check_same_model, read_model_json
from model.uniter import UniterConfig, set_dropout
from model.weight_checks import LoadReport
from model.weights import load_checkpoint
from utils.formats import IMG_DIM
from utils.run_config import RunConfig

LOG = logging.getLogger("uniter")

C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True)
class MicroBatches:
    """How much of the training data one rank computes for one optimiser step: a number of micro-batches."""

    batch_size: int  # size of a micro-batch, in units or examples, whichever the dataset counts
    per_step: int  # micro-batches of a rank in a step
    accumulation: Literal["sum", "mean"]  # how their gradients are combined; over ranks it is always the mean

    def gradient_divisor(self, ranks: int) -> int:
        """The divisor of a step's gradients, which are summed over ranks and micro-batches (DESIGN section 5)."""
        return ranks * self.per_step if self.accumulation == "mean" else ranks


class Task(Generic[C]):
    """The contract. A task overrides at least `dataset`, `new_model`, `loss`, `predict` and `score`.

    `model` is, in every method, the model that `new_model` returned.
    """

    name: ClassVar[str] = ""  # the name of its training data in the log: loss/NAME
    # The score of the "val" split that decides which weights are the best; higher is better.
    metric: ClassVar[str] = ""
    head: ClassVar[str | None] = None  # the submodule whose learning rate is multiplied by `lr_mul`
    numbered_by: ClassVar[Literal["step", "epoch"]] = "step"  # what the names of weight files count
    validation_splits: ClassVar[tuple[str, ...]] = ("val",)  # scored at every validation
    test_splits: ClassVar[tuple[str, ...]] = ()  # scored once, after the last step
    final_weights: ClassVar[bool] = False  # whether model_{step,epoch}_N_final.pt is also written after the last step
    refresh_steps: int = 0  # `refresh` is called every so many steps, also before the first; 0: never

    def __init__(self, config: C):
        """Read the model's sizes from `config.model_config`; `InputError` where they are wrong or absent."""
        self.config = config
        self.model_config: UniterConfig = read_model_json(config.model_config)
        self.stores = Stores(config, self.model_config)  # opens the text and image LMDBs

    # Data

    def dataset(self, txt_db: str, img_db: str, train: bool = False) -> Dataset:
        """The dataset of a text LMDB and the image LMDB that its texts are about.

        `train`: leave out texts over `max_txt_len`, and require labels.
        """
        raise NotImplementedError

    def train_data(self) -> Sequence[Entry]:
        """The training data: entries of a name, a dataset and a weight. Default: one entry of all training stores."""
        parts = [self.dataset(txt_db, img_db, train=True) for txt_db, img_db in self.config.db_pairs("train")]
        return [Entry(self.name, parts[0] if len(parts) == 1 else Concat(parts))]

    def eval_data(self) -> dict[str, Dataset]:
        """Datasets by name, scored at every validation. Default: those of `validation_splits` that have labels."""
        return self._labelled_splits(*self.validation_splits)

    def final_data(self) -> dict[str, Dataset]:
        """Datasets by name, scored once, after the last step. Default: those of `test_splits` that have labels."""
        return self._labelled_splits(*self.test_splits)

    def split_datasets(self, *splits: str) -> dict[str, Dataset]:
        """The dataset of each of these splits (val, test) for which the options name stores."""
        return {
            split: self.dataset(txt_db, img_db) for split in splits for txt_db, img_db in self.config.db_pairs(split)
        }

    def _labelled_splits(self, *splits: str) -> dict[str, Dataset]:
        """The splits that have labels; the log names the others."""
        datasets = self.split_datasets(*splits)
        for split in [split for split, dataset in datasets.items() if not dataset.has_labels]:
            LOG.info("the %s split has no labels: it is not scored", split)
            del datasets[split]
        return datasets

    def micro_batches(self) -> MicroBatches:
        """How much of the training data one step takes. Default: as the options say."""
        c = self.config
        return MicroBatches(c.train_batch_size, c.gradient_accumulation_steps, c.accumulation)

    def refresh(
        self, model: Any, step: int, predict: Callable[[Dataset], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Make new arrays for the training data from the model as it is at `step`, the same on every rank.

        `predict(dataset)` runs `Task.predict` over a whole dataset and gives the result to every rank; all ranks must
        call it. The arrays are saved with the train state.
        """
        raise NotImplementedError

    def apply_refresh(self, arrays: dict[str, np.ndarray]) -> None:
        """Put the arrays that `refresh` returned into the training data: after each refresh, and on resume."""
        raise NotImplementedError

    # Model

    def new_model(self) -> nn.Module:
        """The model with its head, with random weights, for features of the width `img_dim`."""
        raise NotImplementedError

    @property
    def img_dim(self) -> int:
        """The feature width of the run's image stores; 2048 before the first is opened."""
        return self.stores.img_dim or IMG_DIM

    def build_model(self, complete: bool = False) -> nn.Module:
        """A new model with the options' dropout and the checkpoint's weights.

        `complete`: every weight must come from the checkpoint, as for inference; `InputError` otherwise.
        """
        check_same_model(self.model_config, self.config.model_config, self.config.checkpoint)
        model, dropout = self.new_model(), self.config.dropout
        set_dropout(model, dropout)
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not complete and getattr(self.model_config, key) != dropout:
                LOG.info("the option dropout, %s, overrides %s of the model's JSON", dropout, key)
        self.after_loading(model, load_checkpoint(model, self.config.checkpoint, complete))
        return model

    def after_loading(self, model: Any, report: LoadReport) -> None:
        """Called after the checkpoint is loaded; `report` lists the weights that it lacked. Default: do nothing."""

    def loss(self, model: Any, batch: PackedBatch) -> Tensor:
        """The loss of one micro-batch, a scalar. Called in training mode, under autocast in half precision."""
        raise NotImplementedError

    # Evaluation and output

    def predict(self, model: Any, batch: PackedBatch) -> dict[str, np.ndarray]:
        """The predictions for one batch that `score` and `write` need: arrays, to be joined along their first axis.

        Called in evaluation mode, without gradients. Where `write` is used, `ids` (E,) says which row is whose. Arrays
        hold numbers, texts, or arrays of numbers (`optim.gather.ragged`), of the same row shape in every batch.
        """
        raise NotImplementedError

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Metrics by name of the predictions for a whole dataset; {} where it has no labels.

        Only rank 0 calls it. Rows come in any order: that of batches, or that of the dataset.
        """
        raise NotImplementedError

    def main_metric(self, scores: dict[str, float]) -> float | None:
        """The number, higher is better, that decides which weights are the best. None: the newest are the best."""
        return scores.get(f"val/{self.metric}")

    def write(self, predictions: dict[str, np.ndarray], path: Path, ids: Sequence[str]) -> None:
        """Write the leaderboard's file for exactly the examples `ids`; on an error write nothing."""
        raise NotImplementedError

    def write_logits(self, predictions: dict[str, np.ndarray], path: Path) -> None:
        """Write the scores behind the predictions, for ensembles. Default: a row of `logits` for each id."""
        write_logits_npz(path, predictions["ids"].tolist(), predictions["logits"], np.float32)

    def write_inference_files(self, output_dir: Path) -> None:
        """Write to the output folder what inference needs. Default: `log/vocab.json`, the ids of special tokens."""
        self.stores.write_vocabulary(output_dir / "log" / "vocab.json")
