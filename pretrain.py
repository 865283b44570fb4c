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
from data.dataset import Dataset
from data.img_store import ImageStore
from data.itm import Itm
from data.mlm import Mlm
from data.mrm import Mrm
from data.sampler import Entry, check_names
from data.txt_store import TextStore
from data.vcr import REGIONS_HELP, Part, RegionSource, open_vcr
from data.vcr_pretrain import VcrPretraining
from model.growth import grown_config
from model.pretrain import UniterForPretraining, wra_loss
from model.vcr import VCR_TYPES
from optim.run import run_training
from optim.task import Task
from utils.config import DataEntry, RunConfig, option
from utils.distributed import launch
from utils.errors import InputError
from utils.formats import VCR_TOKENS
from utils.store_options import check_paired

TASKS = ("mlm", "mrfr", "mrc", "mrckl", "itm")
VCR_TASKS = TASKS[:4]  # a VCR text does not describe its picture: no ITM (paper A.2)


@dataclass(kw_only=True)
class PretrainConfig(RunConfig):
    """Options of pre-training, besides those of every run."""

    train_datasets: list[DataEntry] = option([], help="corpora to train on (JSON only)")
    val_datasets: list[DataEntry] = option([], help="corpora to validate on (JSON only)")
    mrm_prob: float = option(0.15, help="share of image regions that is masked")
    itm_neg_prob: float = option(0.5, help="share of image-text pairs that do not match")
    itm_negative: Literal["image", "text", "both"] = option("image", help="the side of a pair that a negative replaces")
    itm_ot_lambda: float = option(0.0, help="weight of the word-region alignment loss; 0: no such loss")
    masking: Literal["conditional", "joint"] = option(
        "conditional", help="mask words or regions of a pair (conditional), or both at once (joint; paper table 3)"
    )
    mrckl_reduction: Literal["mean", "sum"] = option(
        "mean", help="how the mrckl loss reduces over the classes; released weights were trained with mean"
    )
    optim: Literal["adam", "adamax", "adamw"] = "adamw"
    weight_decay: float = 0.01
    warmup_steps: int = 10000
    wrong_picture: bool = option(False, help="validate a second time, with every text beside another text's picture")
    vcr: bool = option(False, help='treat every dataset as VCR\'s; one with "GT_DIR;DET_DIR" among its img always is')
    vcr_text: Literal["qar", "both"] = option(
        "qar", help="VCR: texts with rationales (qar, as in the release), or both with and without"
    )
    regions: RegionSource | None = option(None, help=f"VCR: {REGIONS_HELP}")


class Pretraining(Task[PretrainConfig]):
    """All objectives over all datasets; each (task, dataset) is an entry of its own, such as `mlm_coco`."""

    def __init__(self, config: PretrainConfig):
        super().__init__(config)
        sources = config.train_datasets + config.val_datasets
        for datasets in (config.train_datasets, config.val_datasets):
            check_names([f"{task}_{source.name}" for source in datasets for task in source.tasks])
        for source in sources:
            self._check(source)
        self.has_vcr = any(self._is_vcr(source) for source in sources)

    def _is_vcr(self, source: DataEntry) -> bool:
        """Whether a dataset is VCR's: all are by the option `vcr`, one is that names two image stores as one."""
        return self.config.vcr or any(";" in img for img in source.img or [] if img)

    def _check(self, source: DataEntry) -> None:
        """What can be seen wrong before a store is opened."""
        images: list[Any] = source.img or [None] * len(source.db)
        ratios: list[Any] = source.mix_ratio or [1] * len(source.tasks)
        check_paired({f"db of {source.name}": source.db, f"img of {source.name}": images})
        check_paired({f"tasks of {source.name}": source.tasks, f"mix_ratio of {source.name}": ratios})
        possible = VCR_TASKS if self._is_vcr(source) else TASKS
        impossible = [task for task in source.tasks if task not in possible]
        if impossible:
            raise InputError(
                "unknown pre-training task",
                key=f"tasks of {source.name}",
                found=impossible[0],
                expected=", ".join(possible),
                remedy="name tasks of that list",
            )

    def _entries(self, source: DataEntry, train: bool, wrong_picture: bool = False) -> list[Entry]:
        """An entry for each task of a dataset; none of text alone where wrong pictures are asked for."""
        if wrong_picture and (not source.img or None in source.img):
            return []
        if not self._is_vcr(source):
            return self._caption_entries(source, train, wrong_picture)
        if self.config.vcr_text == "qar":
            return self._vcr_entries(source, source.name, "qar", train, wrong_picture)
        parts: tuple[Part, ...] = ("qa", "qar")
        entries = [self._vcr_entries(source, f"{source.name}_{part}", part, train, wrong_picture) for part in parts]
        return [*entries[0], *entries[1]]

    def _caption_entries(self, source: DataEntry, train: bool, wrong_picture: bool) -> list[Entry]:
        """An entry for each task of a dataset of captions; its stores are opened once for all tasks."""
        images = source.img or [None] * len(source.db)
        stores = [(self.stores.texts(db, train), self.stores.images(img)) for db, img in zip(source.db, images)]
        return [
            Entry(
                f"{task}_{source.name}",
                Concat([self._caption_dataset(task, texts, images, wrong_picture) for texts, images in stores]),
                weight,
            )
            for task, weight in task_weights(source)
        ]

    def _caption_dataset(
        self, task: Any, texts: TextStore, images: ImageStore | None, wrong_picture: bool
    ) -> Itm | Mlm | Mrm:
        """The examples of one task."""
        c = self.config
        if task == "itm":
            return Itm(texts, images, wrong_picture=wrong_picture, negative=c.itm_negative, neg_prob=c.itm_neg_prob)
        if task == "mlm":
            return Mlm(texts, images, wrong_picture=wrong_picture, masking=c.masking, mrm_prob=c.mrm_prob)
        return Mrm(texts, images, task, wrong_picture=wrong_picture, masking=c.masking, mrm_prob=c.mrm_prob)

    def _vcr_entries(self, source: DataEntry, name: str, part: Part, train: bool, wrong_picture: bool) -> list[Entry]:
        """An entry for each task of a dataset of VCR, for one kind of its texts."""
        c, images = self.config, source.img or [None] * len(source.db)
        stores = [
            open_vcr(self.stores, db, img, part=part, regions=c.regions, train=train)
            for db, img in zip(source.db, images)
        ]
        options: dict[str, Any] = {"part": part, "wrong_picture": wrong_picture}
        options |= {"masking": c.masking, "mrm_prob": c.mrm_prob}
        entries = []
        for task, weight in task_weights(source):
            parts = [VcrPretraining(texts, gt, detected, task=task, **options) for texts, gt, detected in stores]
            entries.append(Entry(f"{task}_{name}", Concat(parts), weight))
        return entries

    def train_data(self) -> list[Entry]:
        """Every task of every dataset, mixed by `mix_ratio`."""
        return [entry for source in self.config.train_datasets for entry in self._entries(source, train=True)]

    def eval_data(self) -> dict[str, Dataset]:
        """Every task of every dataset to validate on, and, with `wrong_picture`, a second time as a control."""
        controls = (False, True) if self.config.wrong_picture else (False,)
        return {
            entry.name + ("@wrong_picture" if wrong else ""): entry.dataset
            for source in self.config.val_datasets
            for wrong in controls
            for entry in self._entries(source, train=False, wrong_picture=wrong)
        }

    def new_model(self) -> UniterForPretraining:
        """With VCR among the datasets, embeddings and word head are VCR's; the options keep the model's own sizes."""
        sizes = grown_config(self.model_config, VCR_TYPES, VCR_TOKENS) if self.has_vcr else self.model_config
        return UniterForPretraining(sizes)

    def loss(self, model: UniterForPretraining, batch: PackedBatch) -> Tensor:
        """The mean over a micro-batch's own elements (DESIGN section 5); ITM adds word-region alignment."""
        if batch.task == "itm":
            _, loss, distances = model.itm(batch, transport=self.config.itm_ot_lambda > 0)
            if distances is None:
                return loss.mean()
            return loss.mean() + self.config.itm_ot_lambda * wra_loss(distances, batch.targets["itm_labels"])
        _, loss = masked_objective(model, batch)
        if batch.task == "mrckl" and self.config.mrckl_reduction == "sum":
            return loss.sum(dim=-1).mean()
        return loss.mean()

    def predict(self, model: UniterForPretraining, batch: PackedBatch) -> dict[str, np.ndarray]:
        """Loss and, where there is a right answer, whether it was given, of every word, region or pair."""
        targets = batch.targets
        results: dict[str, Tensor] = {}
        if batch.task == "itm":
            scores, loss, distances = model.itm(batch, transport=True)
            assert distances is not None
            results = {"correct": scores.argmax(-1) == targets["itm_labels"], "match": targets["itm_labels"] == 1}
            results["transport"] = distances
        else:
            scores, loss = masked_objective(model, batch)
            if batch.task == "mlm":
                results = {"correct": scores.argmax(-1) == targets["mlm_labels"]}
            elif batch.task in ("mrc", "mrckl"):  # the most confident class, background aside (paper A.3)
                results = {"correct": scores[:, 1:].argmax(-1) == targets["soft_labels"][:, 1:].argmax(-1)}
        if loss.ndim == 2:
            by_sum = batch.task == "mrckl" and self.config.mrckl_reduction == "sum"
            loss = loss.sum(-1) if by_sum else loss.mean(-1)
        return {name: value.double().cpu().numpy() for name, value in {"loss": loss, **results}.items()}

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Means, and the standard error of the accuracy; matching also by kind of pair."""
        scores = {"loss": float(predictions["loss"].mean())}
        if "correct" in predictions:
            correct = predictions["correct"]
            scores["acc"] = float(correct.mean())
            scores["acc_se"] = float(np.sqrt(correct.var() / len(correct)))
        if "match" in predictions:
            for name, value in (("match", 1.0), ("mismatch", 0.0)):
                pairs = predictions["match"] == value
                if pairs.any():
                    scores[f"acc_{name}"] = float(predictions["correct"][pairs].mean())
                    scores[f"transport_{name}"] = float(predictions["transport"][pairs].mean())
        return scores

    def main_metric(self, scores: dict[str, float]) -> float | None:
        """The mean accuracy over the evaluation sets; where none has one, the negative mean loss; without sets None."""
        without_controls = {name: value for name, value in scores.items() if "@" not in name}
        accuracies = [value for name, value in without_controls.items() if name.endswith("/acc")]
        losses = [value for name, value in without_controls.items() if name.endswith("/loss")]
        if accuracies:
            return float(np.mean(accuracies))
        return -float(np.mean(losses)) if losses else None


def task_weights(source: DataEntry) -> list[tuple[Any, float]]:
    """The tasks of a dataset, each with the weight that it is drawn by."""
    return list(zip(source.tasks, source.mix_ratio or [1] * len(source.tasks)))


def masked_objective(model: UniterForPretraining, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Scores and unreduced loss of the batch's objective, one of those that predict what is masked."""
    if batch.task == "mlm":
        return model.mlm(batch)
    if batch.task == "mrfr":
        return model.mrfr(batch)
    if batch.task == "mrc":
        return model.mrc(batch)
    assert batch.task == "mrckl", batch.task
    return model.mrckl(batch)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return run_training(Pretraining, PretrainConfig, argv)


if __name__ == "__main__":
    launch(main)
