"""Finetune UNITER on visual commonsense reasoning (paper 4.1, table 5; A.2).

python train_vcr.py --config config/train-vcr-base-4gpu.json
torchrun --nproc_per_node 4 train_vcr.py --config …
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batch import PackedBatch
from data.concat import Concat
from data.dataset import Dataset
from data.vcr import REGIONS_HELP, Choices, Part, RegionSource, Vcr, open_vcr
from evaluation.metrics import vcr_accuracies
from evaluation.submission import write_vcr_csv, write_vcr_json
from model.vcr import UniterForVisualCommonsenseReasoning, choice_scores
from model.weight_checks import LoadReport
from optim.run import run_training
from optim.task import Task
from utils.distributed import launch
from utils.formats import CHOICES, UNLABELLED
from utils.options import option
from utils.run_config import RunConfig
from utils.store_options import ListedStoreOptions

LOG = logging.getLogger("uniter")


@dataclass(kw_only=True)
class VcrConfig(ListedStoreOptions, RunConfig):
    """Options of VCR finetuning (paper 4.1, table 5; A.2). Each image LMDB is given as "GT_DIR;DET_DIR"."""

    checkpoint_from: Literal["pretrain", "vcr_pretrain"] = option(
        "pretrain",
        help="stage of the checkpoint: pretrain.py or VCR's second stage; only used for a warning in the log",
        training_only=True,
    )
    regions: RegionSource | None = option(None, help=REGIONS_HELP)
    val_batch_size: int = option(
        10, help="questions in a validation batch, 8 sequences each; lower it if memory runs out", at_least=1
    )
    lr_mul: float = 10.0


class VcrTask(Task[VcrConfig]):
    """VCR: a question and an image → the right one of four answers and of four rationales, learned together."""

    name = "vcr"
    metric = "acc"
    head = "vcr_output"
    test_splits = ("test",)

    def dataset(self, txt_db: str, img_db: str, train: bool = False, choices: Choices = "both") -> Dataset:
        """The questions of a text store, with the images of an image store.

        In training, all questions with their answers, then all questions with their rationales, as separate examples.
        Otherwise each question with the answers and rationales that `choices` names (`data.vcr.Vcr`).
        """
        if train:
            training: tuple[Choices, ...] = ("answers", "rationales")
            return Concat([self._choices(txt_db, img_db, choices, train) for choices in training])
        return self._choices(txt_db, img_db, choices, train)

    def _choices(self, txt_db: str, img_db: str, choices: Choices, train: bool) -> Vcr:
        """Open the stores and make the dataset of one kind of examples."""
        part: Part = "qa" if choices == "answers" else "qar"
        regions = self.config.regions
        texts, gt, detected = open_vcr(self.stores, txt_db, img_db, part=part, regions=regions, train=train)
        return Vcr(texts, gt, detected, choices)

    def new_model(self) -> UniterForVisualCommonsenseReasoning:
        """UNITER with a right-or-wrong head, and with VCR's special tokens and token types."""
        return UniterForVisualCommonsenseReasoning(self.model_config, self.img_dim)

    def after_loading(self, model: UniterForVisualCommonsenseReasoning, report: LoadReport) -> None:
        """Log a warning if the shapes of the checkpoint show another stage than `checkpoint_from` says."""
        c, stage = self.config, "pretrain" if report.grown_keys else "vcr_pretrain"
        if c.checkpoint and stage != c.checkpoint_from:
            LOG.warning(
                "checkpoint_from is %s, but the shapes in %s are those of %s", c.checkpoint_from, c.checkpoint, stage
            )

    def loss(self, model: UniterForVisualCommonsenseReasoning, batch: PackedBatch) -> Tensor:
        """Mean two-class cross-entropy over all choices, each judged right or wrong alone (paper A.2)."""
        return model.losses(batch)[1].mean()

    def predict(self, model: UniterForVisualCommonsenseReasoning, batch: PackedBatch) -> dict[str, np.ndarray]:
        """`logits`: scores of all choices (E, 8 or 20); `qa_target`, `qar_target` (E,): 0 to 3, -1 without labels."""
        targets = {name: batch.targets[name].cpu().numpy() for name in ("qa_target", "qar_target")}
        scores = choice_scores(model(batch)).view(len(batch), -1)
        return {"ids": np.array(batch.ids), "logits": scores.float().cpu().numpy(), **targets}

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Accuracies of Q→A, of QA→R given the right answer and of Q→AR (both right), and four-way losses.

        {} for a split without labels. The leaderboard chooses the rationale given the predicted answer. Q→AR is the
        same number there, because it counts only where the predicted answer is right (paper A.2).
        """
        scores, answer, rationale = (predictions[name] for name in ("logits", "qa_target", "qar_target"))
        if (answer == UNLABELLED).any() or (rationale == UNLABELLED).any():
            return {}
        rationales = scores[:, CHOICES:].reshape(len(scores), -1, CHOICES)  # (E, 1 or 4, 4)
        given_right_answer = rationales[np.arange(len(scores)), answer % rationales.shape[1]]  # (E, 4)
        return {
            **vcr_accuracies(scores, answer, rationale),
            "loss_qa": cross_entropy(scores[:, :CHOICES], answer),
            "loss_qar": cross_entropy(given_right_answer, rationale),
        }

    def write(self, predictions: dict[str, np.ndarray], path: Path, ids: Sequence[str]) -> None:
        """Write the leaderboard's csv and, as JSON, the 20 scores of every question."""
        row_ids, logits = predictions["ids"].tolist(), predictions["logits"]
        write_vcr_csv(path.with_suffix(".csv"), row_ids, logits, ids)  # first, because it checks more than the other
        write_vcr_json(path, row_ids, logits, ids)


def cross_entropy(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean cross-entropy of `scores` (E, 4) for `targets` (E,), which are 0 to 3."""
    return float(F.cross_entropy(torch.from_numpy(scores), torch.from_numpy(targets)))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with the options in `argv` (default: the command line); returns the last scores by name."""
    return run_training(VcrTask, VcrConfig, argv)


if __name__ == "__main__":
    launch(main)
