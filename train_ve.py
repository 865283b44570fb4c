"""Finetune UNITER on visual entailment, SNLI-VE (paper 4.1 and A.2).

python train_ve.py --config config/train-ve-base-2gpu.json
torchrun --nproc_per_node 2 train_ve.py --config …
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from data.batch import PackedBatch
from data.dataset import Dataset
from data.vqa import Vqa
from evaluation.metrics import accuracy
from evaluation.submission import write_ve
from model.vqa import UniterForVisualQuestionAnswering
from optim.run import run_training
from optim.task import Task
from utils.distributed import launch
from utils.formats import VE_LABELS
from utils.run_config import RunConfig
from utils.store_options import SplitStoreOptions


@dataclass(kw_only=True)
class VeConfig(SplitStoreOptions, RunConfig):
    """Options of visual-entailment finetuning on SNLI-VE (paper 4.1 and A.2)."""

    grad_norm: float = 0.25


class VeTask(Task[VeConfig]):
    """Visual entailment: an image and a hypothesis → contradiction, entailment or neutral; VQA with three answers."""

    name = "ve"
    metric = "acc"
    validation_splits = ("val", "test")

    def dataset(self, txt_db: str, img_db: str, train: bool = False) -> Vqa:
        """The hypotheses of a text store, with the images of an image store."""
        texts, images = self.stores.texts(txt_db, train), self.stores.images(img_db)
        return Vqa(texts, images, len(VE_LABELS), require_labels=train, one_label=True)

    def new_model(self) -> UniterForVisualQuestionAnswering:
        """UNITER with a classifier over the three labels."""
        return UniterForVisualQuestionAnswering(self.model_config, len(VE_LABELS), self.img_dim)

    def loss(self, model: UniterForVisualQuestionAnswering, batch: PackedBatch) -> Tensor:
        """Mean binary cross-entropy × number of labels, as in VQA (DESIGN section 5)."""
        return model.losses(batch)[1].mean() * len(VE_LABELS)

    def predict(self, model: UniterForVisualQuestionAnswering, batch: PackedBatch) -> dict[str, np.ndarray]:
        """Logits (E, 3), loss (E,), and targets (E, 3), which are zeros in a split without labels."""
        scores, loss = model.losses(batch)
        return {
            "ids": np.array(batch.ids),
            "logits": scores.float().cpu().numpy(),
            "targets": batch.targets["answer_scores"].cpu().numpy(),
            "loss": loss.sum(-1).cpu().numpy(),
        }

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Accuracy over the three labels, and mean loss; {} for a split without labels."""
        targets = predictions["targets"]
        if not targets.any(1).all():
            return {}
        right = accuracy(predictions["logits"].argmax(1), targets.argmax(1))
        return {"acc": right, "loss": float(predictions["loss"].mean())}

    def write(self, predictions: dict[str, np.ndarray], path: Path, ids: Sequence[str]) -> None:
        """Write a JSON file with the predicted label of every image-hypothesis pair."""
        write_ve(path, predictions["ids"].tolist(), predictions["logits"], ids)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with the options in `argv` (default: the command line); returns the last scores by name."""
    return run_training(VeTask, VeConfig, argv)


if __name__ == "__main__":
    launch(main)
