"""Pre-train and finetune UNITER on Cornell NLVR (examples/nlvr1/README.md).

python -m examples.nlvr1.train_nlvr1 --config examples/nlvr1/nlvr1.json --phase pretrain --output_dir …
python -m examples.nlvr1.train_nlvr1 --config examples/nlvr1/nlvr1.json --checkpoint … --output_dir …
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/by_path.py"))

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from data.batch import PackedBatch
from data.dataset import Dataset
from data.img_store import ImageStore
from data.sampler import Entry
from data.txt_store import TextStore
from evaluation.metrics import accuracy
from examples.nlvr1.data import Contrast, Judge, sentence_of
from examples.nlvr1.head import UniterForNlvr1
from examples.nlvr1.panels import Scale
from optim.run import run_training
from optim.task import Task
from utils.distributed import launch
from utils.files import write_json
from utils.options import MOST, SHARE, option
from utils.run_config import RunConfig
from utils.store_options import SplitStoreOptions


@dataclass(kw_only=True)
class Nlvr1Config(SplitStoreOptions, RunConfig):
    """Options of NLVR, besides those of every run."""

    may_change = RunConfig.may_change | {"copies"}

    statements_txt_db: str = option(path=True, help="text LMDB of the generated statements")
    scale: str = option(path=True, help="scale.npz that examples.nlvr1.prepare wrote")
    phase: Literal["pretrain", "finetune"] = option(
        "finetune", "pretrain: tell a sentence's true picture from a false one; finetune: also judge each picture"
    )
    statements_weight: int = option(
        4, "steps on generated statements for every step that judges", at_least=0, at_most=MOST
    )
    contrast_weight: int = option(
        1, "steps that contrast two pictures of a sentence for every step that judges", at_least=0, at_most=MOST
    )
    rewritten: float = option(0.3, "share of training sentences that are put in other words", **SHARE)
    copies: int = option(
        1,
        "evaluation: symmetric copies of a sentence and its picture to average scores over",
        at_least=1,
        at_most=10_000,
    )


class Nlvr1Task(Task[Nlvr1Config]):
    """A sentence and a picture of three panels → true or false."""

    name = "judge"
    metric = "acc"
    head = "nlvr1_output"

    def __init__(self, config: Nlvr1Config):
        super().__init__(config)
        self.scale = Scale.load(config.scale)

    def dataset(self, txt_db: str, img_db: str, train: bool = False) -> Judge:
        """The sentences of a text store about the pictures of an image store."""
        c, (texts, images) = self.config, self._open(txt_db, img_db, train)
        if train:
            return Judge(texts, images, self.scale, augment=True, rewrite_share=c.rewritten)
        return Judge(texts, images, self.scale, augment=c.copies > 1, copies=c.copies)

    def _open(self, txt_db: str, img_db: str, train: bool) -> tuple[TextStore, ImageStore]:
        texts, images = self.stores.texts(txt_db, train), self.stores.images(img_db)
        return texts, images

    def train_data(self) -> list[Entry]:
        """Statements and contrasts by weight; in finetuning also single pictures to judge."""
        c = self.config
        ((txt_db, img_db),) = c.db_pairs("train")
        weights = {"statements": c.statements_weight, "contrast": c.contrast_weight}
        entries = []
        for name, source in (("statements", c.statements_txt_db), ("contrast", txt_db)):
            if weights[name]:
                texts, images = self._open(source, img_db, train=True)
                contrast = Contrast(texts, images, self.scale, augment=name == "contrast")
                entries.append(Entry(name, contrast, weights[name]))
        if c.phase == "finetune":
            entries.append(Entry("judge", self.dataset(txt_db, img_db, train=True), 1))
        return entries

    def new_model(self) -> UniterForNlvr1:
        """UNITER with the head that counts, panel by panel."""
        return UniterForNlvr1(self.model_config)

    def loss(self, model: UniterForNlvr1, batch: PackedBatch) -> Tensor:
        """Judged: cross-entropy. Contrasted: that the true picture scores above the false one, and some of the same."""
        scores, loss = model.losses(batch)
        if batch.task == "judge":
            return loss.mean()
        margin = (scores[:, 1] - scores[:, 0]).view(-1, 2)  # of the true picture, of the false one
        return F.softplus(margin[:, 1] - margin[:, 0]).mean() + 0.5 * loss.mean()

    def predict(self, model: UniterForNlvr1, batch: PackedBatch) -> dict[str, np.ndarray]:
        """Logits (E, 2), labels and losses, each the mean over an example's copies."""
        scores, loss = model.losses(batch)
        copies, labels = len(scores) // len(batch), batch.targets["labels"]
        return {
            "ids": np.array(batch.ids),
            "logits": scores.float().view(-1, copies, 2).mean(1).cpu().numpy(),
            "labels": labels[::copies].cpu().numpy(),
            "loss": loss.view(-1, copies).mean(1).cpu().numpy(),
        }

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset | None = None) -> dict[str, float]:
        """Accuracy over pictures; consistency, the share of sentences right with all their pictures; loss."""
        labels, right = predictions["labels"], predictions["logits"].argmax(1) == predictions["labels"]
        by_sentence: dict[str, bool] = {}
        for id_, hit in zip(predictions["ids"].tolist(), right.tolist()):
            by_sentence[sentence_of(id_)] = by_sentence.get(sentence_of(id_), True) and hit
        return {
            "acc": accuracy(predictions["logits"].argmax(1), labels),
            "consistency": float(np.mean(list(by_sentence.values()))),
            "loss": float(predictions["loss"].mean()),
        }

    def write(self, predictions: dict[str, np.ndarray], path: Path, ids: Sequence[str]) -> None:
        """Every picture's answer by its id, and the scores of all of them."""
        names = ["false", "true"]
        answers = {id_: names[k] for id_, k in zip(predictions["ids"].tolist(), predictions["logits"].argmax(1))}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"scores": self.score(predictions), "answers": answers}, indent=0)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return run_training(Nlvr1Task, Nlvr1Config, argv)


if __name__ == "__main__":
    launch(main)
