"""Pre-train UNITER on any mix of tasks and datasets (paper section 3.2), also VCR's second stage (paper A.2).

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
from utils.distributed import launch
from utils.errors import InputError
from utils.formats import VCR_TOKENS
from utils.options import MOST, SHARE, option
from utils.run_config import RunConfig
from utils.store_options import DataEntry, check_lists, check_mix

TASKS = ("mlm", "mrfr", "mrc", "mrckl", "itm")
VCR_TASKS = TASKS[:4]  # without ITM, because a VCR text does not describe its image (paper A.2)


@dataclass(kw_only=True)
class PretrainConfig(RunConfig):
    """Options of pre-training (paper section 3.2). Datasets are given in the JSON file, under train_datasets."""

    may_change = RunConfig.may_change | {"train_datasets", "val_datasets", "wrong_picture"}
    train_datasets: list[DataEntry] = option([], help="corpora to train on, with their tasks (in the JSON file only)")
    val_datasets: list[DataEntry] = option([], help="corpora to validate on, with their tasks (in the JSON file only)")
    mrm_prob: float = option(0.15, help="share of image regions to mask", **SHARE)
    itm_neg_prob: float = option(0.5, help="share of image-text pairs that do not match", **SHARE)
    itm_negative: Literal["image", "text", "both"] = option(
        "image", help="what to replace in a pair to make a negative: the image, the text, or either of them (both)"
    )
    itm_ot_lambda: float = option(
        0.0, help="weight of the word-region alignment loss, added to ITM's; 0: no such loss", at_least=0, at_most=MOST
    )
    masking: Literal["conditional", "joint"] = option(
        "conditional",
        help="mask tokens or regions of a pair (conditional), or both (joint, an ablation; paper table 3)",
    )
    mrckl_reduction: Literal["mean", "sum"] = option(
        "mean", help="mean or sum of the mrckl loss over the classes; released weights were trained with mean"
    )
    optim: Literal["adam", "adamax", "adamw"] = "adamw"
    weight_decay: float = 0.01
    warmup_steps: int = 10000
    wrong_picture: bool = option(False, help="as a control, validate also with the image of another text")
    vcr: bool = option(False, help='treat every dataset as VCR; one with "GT_DIR;DET_DIR" in img is VCR in any case')
    vcr_text: Literal["qar", "both"] = option(
        "qar", help="VCR only: train on texts with rationales (qar, as in the release), or with and without (both)"
    )
    regions: RegionSource | None = option(None, help=f"VCR only: {REGIONS_HELP}")


class Pretraining(Task[PretrainConfig]):
    """Pre-training: each task on each dataset is an entry of the training data, such as `mlm_coco`."""

    def __init__(self, config: PretrainConfig):
        """Check the datasets' names and tasks; `InputError` for what is wrong, before any store is opened."""
        super().__init__(config)
        sources = config.train_datasets + config.val_datasets
        for datasets in (config.train_datasets, config.val_datasets):
            check_lists(datasets)
            check_names([f"{task}_{source.name}" for source in datasets for task in source.tasks])
        check_mix(config.train_datasets)
        for source in sources:
            self._check(source)
        self.has_vcr = any(self._is_vcr(source) for source in sources)

    def _is_vcr(self, source: DataEntry) -> bool:
        """Whether a dataset is VCR: by the option `vcr`, or because an image store is given as "GT_DIR;DET_DIR"."""
        return self.config.vcr or any(";" in img for img in source.img or [] if img)

    def _check(self, source: DataEntry) -> None:
        """Raise `InputError` for unknown tasks in one dataset."""
        possible = VCR_TASKS if self._is_vcr(source) else TASKS
        impossible = [task for task in source.tasks if task not in possible]
        if impossible:
            raise InputError(
                "unknown pre-training task",
                key=f"tasks of {source.name}",
                found=impossible[0],
                expected=", ".join(possible),
                remedy="use tasks of that list only" + (" (VCR has no itm)" if possible == VCR_TASKS else ""),
            )

    def _entries(self, source: DataEntry, train: bool, wrong_picture: bool = False) -> list[Entry]:
        """The entries of a dataset, one for each task. With `wrong_picture`, [] for text without images."""
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
        """The entries of a dataset of captions, one for each task. Its stores are opened once for all tasks."""
        images = source.img or [None] * len(source.db)
        stores = [(self.stores.texts(db, train), self.stores.images(img)) for db, img in zip(source.db, images)]
        return [
            Entry(
                f"{task}_{source.name}",
                Concat([self._caption_dataset(task, texts, images, train, wrong_picture) for texts, images in stores]),
                weight,
            )
            for task, weight in task_weights(source)
        ]

    def _caption_dataset(
        self, task: Any, texts: TextStore, images: ImageStore | None, train: bool, wrong_picture: bool
    ) -> Itm | Mlm | Mrm:
        """The dataset of one task on one pair of stores."""
        c = self.config
        if task == "itm":
            return Itm(texts, images, wrong_picture=wrong_picture, negative=c.itm_negative, neg_prob=c.itm_neg_prob)
        options: dict[str, Any] = {"wrong_picture": wrong_picture, "masking": c.masking, "mrm_prob": c.mrm_prob}
        if task == "mlm":
            return Mlm(texts, images, **options)
        return Mrm(texts, images, task, **options, words_first=not train)

    def _vcr_entries(self, source: DataEntry, name: str, part: Part, train: bool, wrong_picture: bool) -> list[Entry]:
        """The entries of a VCR dataset, one for each task, for texts with (`qar`) or without (`qa`) rationales."""
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
        """One entry for every task of every dataset, drawn in proportion to `mix_ratio`."""
        if not self.config.train_datasets and self.config.num_train_steps:
            raise InputError(
                "no training data was given",
                key="train_datasets",
                found="no datasets",
                remedy="list datasets in a JSON file, as config/demo-pretrain.json does, and give it with --config",
            )
        return [entry for source in self.config.train_datasets for entry in self._entries(source, train=True)]

    def eval_data(self) -> dict[str, Dataset]:
        """Every task of every validation dataset; with `wrong_picture` also a control, `TASK_NAME@wrong_picture`."""
        controls = (False, True) if self.config.wrong_picture else (False,)
        return {
            entry.name + ("@wrong_picture" if wrong else ""): entry.dataset
            for source in self.config.val_datasets
            for wrong in controls
            for entry in self._entries(source, train=False, wrong_picture=wrong)
        }

    def new_model(self) -> UniterForPretraining:
        """UNITER with its pre-training heads; VCR adds its special tokens and types to the sizes of `model_config`."""
        sizes = grown_config(self.model_config, VCR_TYPES, VCR_TOKENS) if self.has_vcr else self.model_config
        return UniterForPretraining(sizes, self.img_dim)

    def loss(self, model: UniterForPretraining, batch: PackedBatch) -> Tensor:
        """Mean loss of the micro-batch (DESIGN section 5); for ITM plus `itm_ot_lambda` × the word-region alignment."""
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
        """For every masked token, masked region or pair: its loss, and `correct` where the task has a right answer.

        ITM also gives `match` (whether the pair matches) and `transport`, the optimal-transport distance.
        """
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
            elif batch.task in ("mrc", "mrckl"):  # mrc's classes are those without background (paper A.3)
                first = 1 if batch.task == "mrc" else 0
                results = {"correct": scores[:, first:].argmax(-1) == targets["soft_labels"][:, first:].argmax(-1)}
        if loss.ndim == 2:  # a region's KL divergence is a sum over classes, whatever training's reduction is
            loss = loss.sum(-1) if batch.task == "mrckl" else loss.mean(-1)
        return {name: value.double().cpu().numpy() for name, value in {"loss": loss, **results}.items()}

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Mean loss, accuracy and its standard error; for ITM also by matching and mismatching pairs."""
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
        """The mean accuracy over the validation sets, without controls; if no set has one, minus the mean loss."""
        without_controls = {name: value for name, value in scores.items() if "@" not in name}
        accuracies = [value for name, value in without_controls.items() if name.endswith("/acc")]
        losses = [value for name, value in without_controls.items() if name.endswith("/loss")]
        if accuracies:
            return float(np.mean(accuracies))
        return -float(np.mean(losses)) if losses else None


def task_weights(source: DataEntry) -> list[tuple[Any, float]]:
    """The tasks of a dataset, each with its `mix_ratio`, in proportion to which it is drawn."""
    return list(zip(source.tasks, source.mix_ratio or [1] * len(source.tasks)))


def masked_objective(model: UniterForPretraining, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Scores and loss, without reduction, of the batch's masking objective: mlm, mrfr, mrc or mrckl."""
    objectives = {"mlm": model.mlm, "mrfr": model.mrfr, "mrc": model.mrc, "mrckl": model.mrckl}
    return objectives[batch.task](batch)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with the options in `argv` (default: the command line); returns the last scores by name."""
    return run_training(Pretraining, PretrainConfig, argv)


if __name__ == "__main__":
    launch(main)
