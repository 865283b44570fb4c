"""Finetune UNITER on referring expressions, RefCOCO, RefCOCO+ and RefCOCOg (paper 4.1 and A.2).

python train_re.py --config config/train-refcoco-base-1gpu.json
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
from optim.gather import ragged
from optim.run import run_training
from optim.task import Task
from utils.distributed import launch
from utils.errors import InputError
from utils.options import MOST_UNITS, SHARE, option
from utils.run_config import RunConfig
from utils.store_options import SplitStoreOptions

BOXES_HELP = "kind of boxes in the image LMDB; None: gt if its name has coco_gt, else detected"
TRAINING: dict[str, Any] = {"training_only": True}
RANK: dict[str, Any] = {"only_if": ("train_loss", "rank"), **TRAINING}


@dataclass(kw_only=True)
class ReConfig(SplitStoreOptions, RunConfig):
    """Options of referring-expression finetuning (paper 4.1 and A.2)."""

    may_change = RunConfig.may_change | {"val_boxes", "test_boxes"}

    train_boxes: Boxes | None = option(None, help=f"training split (must be gt): {BOXES_HELP}", **TRAINING)
    val_boxes: Boxes | None = option(None, help=f"validation split: {BOXES_HELP}", **TRAINING)
    test_boxes: Boxes | None = option(None, help=f"test split: {BOXES_HELP}", **TRAINING)
    mlp: Literal[1, 2] = option(1, help="number of linear layers in the head")
    train_loss: Literal["cls", "rank"] = option(
        "cls",
        help="cls: cross-entropy over the regions; rank: margin ranking loss between the true region and another",
        **TRAINING,
    )
    margin: float = option(
        0.2,
        help="margin of the ranking loss (train_loss rank), on scores of 0 to 1",
        **SHARE,
        **RANK,
    )
    hard_ratio: float = option(
        0.3,
        help="probability that the ranking loss takes the hardest wrong region instead of a random one",
        **SHARE,
        **RANK,
    )
    train_batch_size: int = option(
        128, help="expressions in a rank's micro-batch; lower it if memory runs out", at_least=1, at_most=MOST_UNITS
    )
    val_batch_size: int = option(
        256, help="expressions in a validation batch; lower it if memory runs out", at_least=1, at_most=MOST_UNITS
    )
    grad_norm: float = 0.25
    num_train_steps: int = 32000
    valid_steps: int = 0
    seed: int = 24
    blind: bool = option(
        False, help="hide the expressions, as a control; the regions stay, because the answer is one of them"
    )


class ReTask(Task[ReConfig]):
    """Referring expressions: an expression and the boxes of an image → the box that the expression describes."""

    name = "re"
    metric = "acc"
    head = "re_output"
    test_splits = ("test",)
    numbered_by = "epoch"
    final_weights = True

    def dataset(
        self, txt_db: str, img_db: str, train: bool = False, boxes: Boxes | None = None
    ) -> ReferringExpressions:
        """The expressions of a text store, with the boxes of an image store.

        `boxes`: their kind, for a split other than training; training takes the option `train_boxes`. Raises
        `InputError` for training with detected boxes.
        """
        source = box_source(img_db, self.config.train_boxes if train else boxes)
        if train and source != "gt":
            raise InputError(
                "training needs ground-truth boxes, because the true box is not among detected boxes",
                file=img_db,
                key="train_boxes",
                found=source,
                expected="gt",
                remedy="train on an image LMDB of ground-truth boxes; if this is one, set train_boxes to gt",
            )
        variant = GT_VARIANT if source == "gt" else {}
        images = self.stores.images(img_db, blind=False, **variant)
        return ReferringExpressions(self.stores.texts(txt_db, train), images, source, blind=self.config.blind)

    def split_datasets(self, *splits: str) -> dict[str, Dataset]:
        """The dataset of each of these splits, with the kind of boxes from the options `val_boxes` and `test_boxes`."""
        boxes = {"val": self.config.val_boxes, "test": self.config.test_boxes}
        return {
            split: self.dataset(txt_db, img_db, boxes=boxes[split])
            for split in splits
            for txt_db, img_db in self.config.db_pairs(split)
        }

    def new_model(self) -> UniterForReferringExpressionComprehension:
        """UNITER with a head that gives one score for each region."""
        return UniterForReferringExpressionComprehension(self.model_config, self.img_dim, self.config.mlp)

    def loss(self, model: UniterForReferringExpressionComprehension, batch: PackedBatch) -> Tensor:
        """The sum of the losses of the expressions, not the mean, as in the release (DESIGN section 5)."""
        c = self.config
        uniform = torch.rand(len(batch), 2)  # the training loop seeds torch for each micro-batch
        _, loss = model.losses(batch, c.train_loss, margin=c.margin, hard_ratio=c.hard_ratio, uniform=uniform)
        return loss.sum()

    def predict(self, model: UniterForReferringExpressionComprehension, batch: PackedBatch) -> dict[str, np.ndarray]:
        """The predicted box (E, 4), the true box (E, 4), and for each expression logits (r,) and boxes (r, 4).

        Boxes are x, y, w, h in pixels; r is the number of regions of the expression's image.
        """
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
        """`acc`: share of right boxes (IoU above 0.5); `upper_bound`: share of expressions with a right box."""
        truth = predictions["tgt_box"]
        return {
            "acc": re_accuracy(predictions["pred_box"], truth),
            "upper_bound": re_upper_bound(predictions["boxes"].tolist(), truth),
        }

    def write(self, predictions: dict[str, np.ndarray], path: Path, ids: Sequence[str]) -> None:
        """Write the predicted box and the true box of every expression as JSON."""
        check_finite(predictions["ids"].tolist(), predictions["logits"].tolist())
        rows = [
            {"sent_id": id_, "pred_box": best_box, "tgt_box": true_box}
            for id_, best_box, true_box in zip(predictions["ids"], predictions["pred_box"], predictions["tgt_box"])
        ]
        write_re(path, rows, ids)

    def write_logits(self, predictions: dict[str, np.ndarray], path: Path) -> None:
        """Write the logits and boxes of all regions, and the true boxes, for ensembles."""
        ids, logits, boxes = (predictions[name].tolist() for name in ("ids", "logits", "boxes"))
        write_re_logits(path, ids, logits, boxes, predictions["tgt_box"])


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with the options in `argv` (default: the command line); returns the last scores by name."""
    return run_training(ReTask, ReConfig, argv)


if __name__ == "__main__":
    launch(main)
