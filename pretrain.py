"""Pre-train UNITER on any mix of tasks and datasets (paper section 3.2), VCR's second stage among them (A.2).

python pretrain.py --config config/pretrain-indomain-base-8gpu.json
torchrun --nproc_per_node 8 pretrain.py --config …
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from data.batch import PackedBatch
from data.concat import Concat
from data.itm import Itm
from data.mlm import Mlm
from data.mrm import Mrm
from data.sampler import Entry, check_names
from data.vcr import REGIONS_HELP, Part, RegionSource, open_vcr
from data.vcr_pretrain import VcrPretraining
from model.pretrain import UniterForPretraining, wra_loss
from model.uniter import grown_config
from model.vcr import VCR_TOKENS, VCR_TYPES
from optim.run import run_training
from optim.task import Task
from utils.config import DataEntry, RunConfig, option
from utils.distributed import launch
from utils.errors import InputError
from utils.store_options import check_paired

TASKS = ("mlm", "mrfr", "mrc", "mrckl", "itm")
VCR_TASKS = TASKS[:4]  # a VCR text does not describe its picture: no ITM (paper A.2)


@dataclass(kw_only=True)
class PretrainConfig(RunConfig):
    """Options of pre-training, besides those of every run."""

    train_datasets: list[DataEntry] = option([], help="what to train on (JSON only)")
    val_datasets: list[DataEntry] = option([], help="what to validate on (JSON only)")
    mrm_prob: float = option(0.15, help="share of regions that is masked")
    itm_neg_prob: float = option(0.5, help="share of pairs that do not match")
    itm_negative: Literal["image", "text", "both"] = option("image", help="the side that a negative replaces")
    itm_ot_lambda: float = option(0.0, help="weight of word-region alignment; 0: none")
    masking: Literal["conditional", "joint"] = option("conditional", help="joint: words and regions at once (table 3)")
    mrckl_reduction: Literal["mean", "sum"] = option("mean", help="over the classes; mean is what released weights saw")
    optim: Literal["adam", "adamax", "adamw"] = "adamw"
    weight_decay: float = 0.01
    warmup_steps: int = 10000
    wrong_picture: bool = option(False, help="validate a second time, every text beside another text's picture")
    vcr: bool = option(False, help='every dataset is VCR\'s; one with "GT_DIR;DET_DIR" among its img is anyway')
    vcr_text: Literal["qar", "both"] = option("qar", help="VCR: with rationales, as in the release, or also without")
    regions: RegionSource | None = option(None, help=f"VCR: {REGIONS_HELP}")


class Pretraining(Task):
    """All objectives over all datasets; each (task, dataset) is an entry of its own, such as `mlm_coco`."""

    def __init__(self, config: PretrainConfig):
        super().__init__(config)
        sources = config.train_datasets + config.val_datasets
        for listed in (config.train_datasets, config.val_datasets):
            check_names([f"{task}_{source.name}" for source in listed for task in source.tasks])
        self._check(sources)
        self.grown = any(self._parts(source) != (None,) for source in sources)

    def _parts(self, source: DataEntry) -> tuple[Part | None, ...]:
        """The texts that are made of a dataset: VCR's with and without rationales, or (None) the one text there is."""
        c = self.config
        if not (c.vcr or any(";" in img for img in source.img or [] if img)):
            return (None,)
        return ("qa", "qar") if c.vcr_text == "both" else ("qar",)

    def _check(self, sources: list[DataEntry]) -> None:
        """What can be seen wrong before a store is opened."""
        for source in sources:
            where = f"of {source.name}"
            images: list[Any] = source.img or [None] * len(source.db)
            ratios: list[Any] = source.mix_ratio or [1] * len(source.tasks)
            check_paired({f"db {where}": source.db, f"img {where}": images})
            check_paired({f"tasks {where}": source.tasks, f"mix_ratio {where}": ratios})
            known = TASKS if self._parts(source) == (None,) else VCR_TASKS
            unknown = [task for task in source.tasks if task not in known]
            if unknown:
                raise InputError(
                    "unknown pre-training task",
                    key=f"tasks {where}",
                    found=unknown[0],
                    expected=", ".join(known),
                    remedy="name tasks of that list",
                )

    def _entries(self, source: DataEntry, train: bool, wrong_picture: bool = False) -> list[Entry]:
        """One entry a task and text of a dataset; its stores are opened once for all tasks."""
        images = source.img or [None] * len(source.db)
        weights = source.mix_ratio or [1] * len(source.tasks)
        if wrong_picture and None in images:
            return []
        entries, parts = [], self._parts(source)
        for part in parts:
            opened = [self._open(texts, img, part, train) for texts, img in zip(source.db, images)]
            name = source.name if len(parts) == 1 else f"{source.name}_{part}"
            entries += [
                Entry(f"{task}_{name}", Concat([self._dataset(task, part, o, wrong_picture) for o in opened]), weight)
                for task, weight in zip(source.tasks, weights)
            ]
        return entries

    def _open(self, texts: str, img: str | None, part: Part | None, train: bool) -> Any:
        if part:
            return open_vcr(self.stores, texts, img, part, self.config.regions, train)
        return self.stores.texts(texts, train), self.stores.images(img)

    def _dataset(self, task: Any, part: Part | None, opened: Any, wrong_picture: bool) -> Any:
        c = self.config
        masks: dict[str, Any] = {"masking": c.masking, "mrm_prob": c.mrm_prob}
        if part:
            texts, gt, detected = opened
            return VcrPretraining(texts, gt, detected, part, task, wrong_picture, **masks)
        texts, images = opened
        if task == "itm":
            return Itm(texts, images, wrong_picture, c.itm_negative, c.itm_neg_prob)
        if task == "mlm":
            return Mlm(texts, images, wrong_picture, **masks)
        return Mrm(texts, images, task, wrong_picture, **masks)

    def train_data(self) -> list[Entry]:
        entries = [entry for source in self.config.train_datasets for entry in self._entries(source, train=True)]
        self.stores.check_against(self.config.checkpoint)
        return entries

    def eval_data(self) -> dict[str, Any]:
        controls = (False, True) if self.config.wrong_picture else (False,)
        return {
            entry.name + ("@wrong_picture" if wrong else ""): entry.data
            for source in self.config.val_datasets
            for wrong in controls
            for entry in self._entries(source, train=False, wrong_picture=wrong)
        }

    def new_model(self) -> UniterForPretraining:
        """With VCR among the datasets, embeddings and word head are VCR's; the options keep the model's own sizes."""
        grown = grown_config(self.model_config, VCR_TYPES, VCR_TOKENS) if self.grown else self.model_config
        return UniterForPretraining(grown)

    def loss(self, model: UniterForPretraining, batch: PackedBatch) -> Tensor:
        """The mean over a micro-batch's own elements (DESIGN section 5); ITM adds word-region alignment."""
        if batch.task == "itm":
            _, loss, distances = model.itm(batch, transport=self.config.itm_ot_lambda > 0)
            if distances is None:
                return loss.mean()
            return loss.mean() + self.config.itm_ot_lambda * wra_loss(distances, batch.targets["itm_labels"])
        _, loss = getattr(model, batch.task)(batch)
        if batch.task == "mrckl" and self.config.mrckl_reduction == "sum":
            return loss.sum(dim=-1).mean()
        return loss.mean()

    def predict(self, model: UniterForPretraining, batch: PackedBatch) -> dict[str, np.ndarray]:
        """Loss and, where there is a right answer, whether it was given, of every word, region or pair."""
        targets = batch.targets
        kept: dict[str, Tensor] = {}
        if batch.task == "itm":
            scores, loss, distances = model.itm(batch, transport=True)
            assert distances is not None
            kept = {"correct": scores.argmax(-1) == targets["itm_labels"], "match": targets["itm_labels"] == 1}
            kept["transport"] = distances
        else:
            scores, loss = getattr(model, batch.task)(batch)
            if batch.task == "mlm":
                kept = {"correct": scores.argmax(-1) == targets["mlm_labels"]}
            elif batch.task in ("mrc", "mrckl"):  # the most confident class, background aside (paper A.3)
                kept = {"correct": scores[:, 1:].argmax(-1) == targets["soft_labels"][:, 1:].argmax(-1)}
        if loss.ndim == 2:
            by_sum = batch.task == "mrckl" and self.config.mrckl_reduction == "sum"
            loss = loss.sum(-1) if by_sum else loss.mean(-1)
        return {name: value.double().cpu().numpy() for name, value in {"loss": loss, **kept}.items()}

    def score(self, predictions: dict[str, np.ndarray], data: Any) -> dict[str, float]:
        """Means, and the standard error of the accuracy; matching also by kind of pair."""
        scores = {"loss": float(predictions["loss"].mean())}
        if "correct" in predictions:
            correct = predictions["correct"]
            scores["acc"] = float(correct.mean())
            scores["acc_se"] = float(np.sqrt(correct.var() / len(correct)))
        if "match" in predictions:
            for kind, value in (("match", 1.0), ("mismatch", 0.0)):
                chosen = predictions["match"] == value
                if chosen.any():
                    scores[f"acc_{kind}"] = float(predictions["correct"][chosen].mean())
                    scores[f"transport_{kind}"] = float(predictions["transport"][chosen].mean())
        return scores

    def main_metric(self, scores: dict[str, float]) -> float | None:
        """The mean accuracy over the evaluation sets; where none has one, the negative mean loss; without sets None."""
        own = {name: value for name, value in scores.items() if "@" not in name}
        accuracies = [value for name, value in own.items() if name.endswith("/acc")]
        losses = [value for name, value in own.items() if name.endswith("/loss")]
        if accuracies:
            return float(np.mean(accuracies))
        return -float(np.mean(losses)) if losses else None


def main(argv: list[str] | None = None) -> dict[str, float]:
    return run_training(Pretraining, PretrainConfig, argv)


if __name__ == "__main__":
    launch(main)
