"""Finetune UNITER on referring expressions, RefCOCO, RefCOCO+ and RefCOCOg (paper 4.2 and A.2).

python train_re.py --config config/train-refcoco-base-1gpu.json
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.batch import PackedBatch
from data.dataset import Dataset
from data.referring import Boxes, ReferringExpressions, box_source
from data.stores import GT_VARIANT
from evaluation.metrics import re_accuracy, re_upper_bound
from evaluation.submission import check_finite, write_re, write_re_logits
from model.referring import UniterForReferringExpressionComprehension
from optim.run import run_training
from optim.task import Task
from utils.config import RunConfig, option
from utils.distributed import launch
from utils.errors import InputError
from utils.store_options import SplitStoreOptions

BOXES_HELP = "boxes in the image store; none: gt if coco_gt is in its name, else detected"


@dataclass(kw_only=True)
class ReConfig(SplitStoreOptions, RunConfig):
    """Options of referring-expression finetuning, besides those of every run."""

    train_boxes: Boxes | None = option(None, help=f"training (must be gt): {BOXES_HELP}")
    val_boxes: Boxes | None = option(None, help=f"validation: {BOXES_HELP}")
    test_boxes: Boxes | None = option(None, help=f"test: {BOXES_HELP}")
    mlp: Literal[1, 2] = option(1, help="linear layers of the head")
    train_loss: Literal["cls", "rank"] = option("cls", help="cross-entropy over the regions, or ranking loss")
    margin: float = option(0.2, help="margin of the ranking loss, between scores of 0 to 1", at_least=0)
    hard_ratio: float = option(0.3, help="share of the ranking loss's negatives that are the hardest", at_least=0)
    train_batch_size: int = option(128, help="expressions in a rank's micro-batch", at_least=1)
    val_batch_size: int = option(256, help="expressions in a validation batch", at_least=1)
    grad_norm: float = 0.25
    num_train_steps: int = 32000
    valid_steps: int = 0
    seed: int = 24
    blind: bool = option(False, help="hide the expressions; regions stay, because the answer is one of them")


class ReTask(Task[ReConfig]):
    """An expression and the boxes of a picture → the box that is meant."""

    name = "re"
    metric = "acc"
    head = "re_output"
    test_splits = ("test",)
    numbered_by = "epoch"
    final_weights = True

    def dataset(
        self, txt_db: str, img_db: str, train: bool = False, boxes: Boxes | None = None
    ) -> ReferringExpressions:
        """The expressions of a text store about the boxes of an image store; `boxes`: which kind these are, except in
        training, which has an option for it."""
        source = box_source(img_db, self.config.train_boxes if train else boxes)
        if train and source != "gt":
            raise InputError(
                "training needs ground-truth boxes: among detected ones no box is the true one",
                file=img_db,
                key="train_boxes",
                found=source,
                expected="gt",
                remedy="train on the store of ground-truth boxes; if this is one, set train_boxes to gt",
            )
        variant = GT_VARIANT if source == "gt" else {}
        images = self.stores.images(img_db, blind=False, **variant)
        return ReferringExpressions(self.stores.texts(txt_db, train), images, source, blind=self.config.blind)

    def split_datasets(self, *splits: str) -> dict[str, Dataset]:
        """As for every task, with the boxes that the options say."""
        boxes = {"val": self.config.val_boxes, "test": self.config.test_boxes}
        return {
            split: self.dataset(txt_db, img_db, boxes=boxes[split])
            for split in splits
            for txt_db, img_db in self.config.db_pairs(split)
        }

    def new_model(self) -> UniterForReferringExpressionComprehension:
        return UniterForReferringExpressionComprehension(self.model_config, mlp=self.config.mlp)

    def loss(self, model: UniterForReferringExpressionComprehension, batch: PackedBatch) -> Tensor:
        """The sum over the expressions (DESIGN section 5)."""
        c = self.config
        uniform = torch.rand(len(batch), 2)  # seeded by the loop for each micro-batch
        _, loss = model.losses(batch, c.train_loss, margin=c.margin, hard_ratio=c.hard_ratio, uniform=uniform)
        return loss.sum()

    def predict(self, model: UniterForReferringExpressionComprehension, batch: PackedBatch) -> dict[str, np.ndarray]:
        """The best box (E, 4), the true one (E, 4), and the logits (r,) and boxes (r, 4) of every region."""
        ends = (batch.seqlens - batch.txt_lens).cumsum(0)[:-1].tolist()
        logits = np.split(model(batch).float().cpu().numpy(), ends)
        boxes = np.split(batch.targets["boxes"].cpu().numpy(), ends)
        return {
            "ids": np.array(batch.ids),
            "pred_box": np.stack([box[score.argmax()] for box, score in zip(boxes, logits)]),
            "tgt_box": batch.targets["tgt_box"].cpu().numpy(),
            "logits": ragged(logits),
            "boxes": ragged(boxes),
        }

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Share of right boxes (IoU above 0.5), and of expressions for which some box would be right."""
        truth = predictions["tgt_box"]
        return {
            "acc": re_accuracy(predictions["pred_box"], truth),
            "upper_bound": re_upper_bound(predictions["boxes"].tolist(), truth),
        }

    def write(self, predictions: dict[str, np.ndarray], path: Path, ids: Sequence[str]) -> None:
        """The chosen box of every expression, beside the true one."""
        check_finite(predictions["ids"].tolist(), predictions["logits"].tolist())
        rows = [
            {"sent_id": id_, "pred_box": best_box, "tgt_box": true_box}
            for id_, best_box, true_box in zip(predictions["ids"], predictions["pred_box"], predictions["tgt_box"])
        ]
        write_re(path, rows, ids)

    def write_logits(self, predictions: dict[str, np.ndarray], path: Path) -> None:
        """The logits and boxes of every region, and the true boxes."""
        ids, logits, boxes = (predictions[name].tolist() for name in ("ids", "logits", "boxes"))
        write_re_logits(path, ids, logits, boxes, predictions["tgt_box"])


def ragged(parts: list[np.ndarray]) -> np.ndarray:
    """Arrays of different lengths as one (E,) array of objects, which joins with others along its axis."""
    array = np.empty(len(parts), object)
    array[:] = parts
    return array


def main(argv: list[str] | None = None) -> dict[str, float]:
    return run_training(ReTask, ReConfig, argv)


if __name__ == "__main__":
    launch(main)
