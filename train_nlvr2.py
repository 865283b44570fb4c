"""Finetune UNITER on NLVR2 (paper 4.1, 4.3, table 6; A.2).

python train_nlvr2.py --config config/train-nlvr2-base-1gpu.json
torchrun --nproc_per_node 2 train_nlvr2.py --config config/train-nlvr2-large-2gpu.json
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batch import PackedBatch
from data.dataset import Dataset
from data.nlvr2 import Layout, Nlvr2
from evaluation.metrics import NLVR2_ID, nlvr2_consistency
from evaluation.submission import write_nlvr2_csv
from model.nlvr2 import NLVR2_MODELS, Nlvr2Model
from optim.run import run_training
from optim.task import Task
from utils.distributed import launch
from utils.formats import UNLABELLED
from utils.options import option
from utils.run_config import RunConfig
from utils.store_options import SplitStoreOptions


@dataclass(kw_only=True)
class Nlvr2Config(SplitStoreOptions, RunConfig):
    """Options of NLVR2 finetuning (paper 4.1, 4.3, table 6)."""

    model: Layout = option(
        "paired",
        help="triplet: one sequence for both images; paired: one for each; paired-attn: paired with attention (best)",
    )
    use_img_type: bool = option(
        False, help="give the left and the right image different type embeddings, so that the model can tell them apart"
    )
    grad_norm: float = 0.25


class Nlvr2Task(Task[Nlvr2Config]):
    """NLVR2: a sentence and two images → true or false."""

    name = "nlvr2"
    metric = "acc"
    validation_splits = ("val", "test")

    def dataset(self, txt_db: str, img_db: str, train: bool = False) -> Nlvr2:
        """The sentences of a text store, with the images of an image store."""
        c, texts, images = self.config, self.stores.texts(txt_db, train), self.stores.images(img_db)
        return Nlvr2(texts, images, layout=c.model, use_img_type=c.use_img_type, require_labels=train)

    def new_model(self) -> Nlvr2Model:
        """UNITER with a true-or-false head, for the layout that the option `model` names."""
        return NLVR2_MODELS[self.config.model](self.model_config, self.img_dim)

    def loss(self, model: Nlvr2Model, batch: PackedBatch) -> Tensor:
        """Mean cross-entropy over the examples."""
        return model.losses(batch)[1].mean()

    def predict(self, model: Nlvr2Model, batch: PackedBatch) -> dict[str, np.ndarray]:
        """Logits (E, 2), and labels (E,): 0 or 1, -1 in a split without labels."""
        return {
            "ids": np.array(batch.ids),
            "logits": model(batch).float().cpu().numpy(),
            "labels": batch.targets["labels"].cpu().numpy(),
        }

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Accuracy, loss, and consistency: the share of sentences that are right for all their image pairs.

        Without consistency where ids are not NLVR2's, which name the sentence. {} for a split without labels.
        """
        logits, labels, ids = (predictions[name] for name in ("logits", "labels", "ids"))
        if (labels == UNLABELLED).any():
            return {}
        right = logits.argmax(1) == labels
        loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
        scores = {"acc": float(right.mean()), "loss": float(loss)}
        if all(map(NLVR2_ID.fullmatch, ids.tolist())):
            scores["consistency"] = nlvr2_consistency(ids.tolist(), right)
        return scores

    def write(self, predictions: dict[str, np.ndarray], path: Path, ids: Sequence[str]) -> None:
        """Write the leaderboard's csv."""
        write_nlvr2_csv(path, predictions["ids"].tolist(), predictions["logits"], ids)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with the options in `argv` (default: the command line); returns the last scores by name."""
    return run_training(Nlvr2Task, Nlvr2Config, argv)


if __name__ == "__main__":
    launch(main)
