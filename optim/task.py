"""What the scripts' tasks have in common (DESIGN section 3): options, stores, model, weights.

A task says what is learned from what; `optim.trainer` runs it and knows nothing of it but the methods below.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from data.batch import PackedBatch
from data.concat import Concat
from data.sampler import Entry
from data.stores import Stores
from evaluation.submission import write_logits_npz
from model.uniter import IMG_DIM, UniterConfig, set_dropout
from model.weights import LoadReport, load_checkpoint
from utils.config import load_hps

LOG = logging.getLogger("uniter")


class Task:
    """The contract. A task subclasses it once, and gives at least `data`, `new_model`, `loss`, `predict`, `score`."""

    name: ClassVar[str] = ""  # of its training entry in the log
    metric: ClassVar[str] = ""  # the score of "val", higher is better, that decides which checkpoint is the best
    head: ClassVar[str | None] = None  # the part of the model that learns `lr_mul` times faster
    saves: ClassVar[Literal["step", "epoch"]] = "step"  # what weight files are numbered by
    validated: ClassVar[tuple[str, ...]] = ("val",)  # splits scored at every validation
    tested: ClassVar[tuple[str, ...]] = ()  # and those scored once, after the last step
    img_dim: ClassVar[int] = IMG_DIM  # feature width of its image stores
    final_weights: ClassVar[bool] = False  # also leave model_{saves}_{STEP}_final.pt
    refresh_steps: int = 0  # every so many steps `refresh` rebuilds the training data; 0: never

    def __init__(self, config: Any):
        self.config = config
        self.model_config: UniterConfig = load_hps(config.model_config, UniterConfig)[0]
        self.stores = Stores(config, self.model_config, self.img_dim)

    # What it learns from.

    def dataset(self, txt_db: str, img_db: str, train: bool = False) -> Any:
        """The dataset of a text store about the pictures of an image store."""
        raise NotImplementedError

    def train_data(self) -> Sequence[Entry]:
        """Training data by name and weight: here all stores of the options, end to end, as one entry."""
        parts = [self.dataset(texts, images, train=True) for texts, images in self.config.db_pairs("train")]
        self.stores.check_against(self.config.checkpoint)
        return [Entry(self.name, parts[0] if len(parts) == 1 else Concat(parts))]

    def eval_data(self) -> dict[str, Any]:
        """Evaluation data by name, scored at every validation."""
        return self._labelled_splits(*self.validated)

    def split_datasets(self, *names: str) -> dict[str, Any]:
        """The data of those of the splits that the options name stores for."""
        return {name: self.dataset(*pair) for name in names for pair in self.config.db_pairs(name)}

    def final_data(self) -> dict[str, Any]:
        """Evaluation data by name, scored once, after the last step."""
        return self._labelled_splits(*self.tested)

    def _labelled_splits(self, *names: str) -> dict[str, Any]:
        """Those of the splits that have labels."""
        found = self.split_datasets(*names)
        for name in [name for name, data in found.items() if not data.has_labels]:
            LOG.info("the %s split has no labels: it is not scored", name)
            del found[name]
        return found

    def refresh(self, model: nn.Module, step: int, run: Any) -> dict[str, np.ndarray]:
        """Rebuild the training data from the model as it is at `step`; the same plain arrays on every rank.

        `run(data)` gives `predict` over a dataset. They are kept in the train state, and given to `restore`.
        """
        raise NotImplementedError

    def apply_refresh(self, arrays: dict[str, np.ndarray]) -> None:
        """Put what `refresh` made into the training data: after each refresh, and when a run is resumed."""
        raise NotImplementedError

    # What learns.

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

    # What is said of it.

    def predict(self, model: Any, batch: PackedBatch) -> dict[str, np.ndarray]:
        """What is kept of a batch for `score` and `write`: arrays that join along their first axis."""
        raise NotImplementedError

    def score(self, predictions: dict[str, np.ndarray], data: Any) -> dict[str, float]:
        """Metrics of one evaluation set."""
        raise NotImplementedError

    def write(self, predictions: dict[str, np.ndarray], path: Path, ids: Sequence[str]) -> None:
        """The leaderboard's own file, of exactly the examples `ids`, or an error and no file."""
        raise NotImplementedError

    def write_logits(self, predictions: dict[str, np.ndarray], path: Path) -> None:
        """The scores behind the predictions, for ensembles: here one row of `logits` an id."""
        write_logits_npz(path, predictions["ids"].tolist(), predictions["logits"], np.float32)

    def main_metric(self, scores: dict[str, float]) -> float | None:
        """The number, higher is better, that decides which checkpoint is the best; None: the newest is."""
        return scores.get(f"val/{self.metric}")

    def write_inference_files(self, output_dir: Path) -> None:
        """Leave in the output folder what later runs on its weights need: here the vocabulary's marks."""
        self.stores.write_vocabulary(output_dir / "log" / "vocab.json")
