"""Train UNITER on the toy task: name the last word of a caption (docs/ADD_A_TASK.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from data.batch import PackedBatch
from data.dataset import Dataset
from evaluation.metrics import accuracy
from examples.toy.data import LastWord
from examples.toy.head import UniterForLastWord
from optim.run import run_training
from optim.task import Task
from prepare.tokenizer import WordPiece
from utils.distributed import launch
from utils.files import write_json
from utils.options import option
from utils.run_config import RunConfig
from utils.store_options import SplitStoreOptions


@dataclass(kw_only=True)
class ToyConfig(SplitStoreOptions, RunConfig):
    """Options of the toy task, besides those of every run."""

    vocab: str = option(path=True, help="vocab.txt that the captions were prepared with")


class ToyTask(Task[ToyConfig]):
    """An image and a caption without its last word → the word."""

    name = "toy"
    metric = "acc"

    def dataset(self, txt_db: str, img_db: str, train: bool = False) -> LastWord:
        """The captions of a text store and the images of an image store."""
        return LastWord(self.stores.texts(txt_db, train), self.stores.images(img_db))

    def new_model(self) -> UniterForLastWord:
        """UNITER with a classifier over the vocabulary."""
        return UniterForLastWord(self.model_config, self.img_dim)

    def loss(self, model: UniterForLastWord, batch: PackedBatch) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(model(batch), batch.targets["labels"])

    def predict(self, model: UniterForLastWord, batch: PackedBatch) -> dict[str, np.ndarray]:
        """Scores (E, V) and true tokens (E,)."""
        logits, labels = model(batch).float().cpu().numpy(), batch.targets["labels"].cpu().numpy()
        return {"ids": np.array(batch.ids), "logits": logits, "labels": labels}

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Accuracy."""
        return {"acc": accuracy(predictions["logits"].argmax(1), predictions["labels"])}

    def write(self, predictions: dict[str, np.ndarray], path: Path, ids: Sequence[str]) -> None:
        """A JSON object: the predicted word of each caption, by id."""
        words = np.array(WordPiece(self.config.vocab).pieces)[predictions["logits"].argmax(1)]
        write_json(path, dict(zip(predictions["ids"].tolist(), words.tolist())), indent=0)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return run_training(ToyTask, ToyConfig, argv)


if __name__ == "__main__":
    launch(main)
