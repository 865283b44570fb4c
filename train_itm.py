"""Finetune UNITER on image-text retrieval (paper 4.1 and A.2).

python train_itm.py --config config/train-itm-flickr-base-8gpu.json
torchrun --nproc_per_node 8 train_itm.py --config …
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor

from data.batch import PackedBatch
from data.concat import Concat
from data.dataset import Dataset
from data.retrieval import HardNegatives, Retrieval
from data.retrieval_eval import RetrievalCandidates, RetrievalMatrix, validation_candidates
from data.retrieval_mining import draw_candidates, mine_hardest
from data.rng import generator
from data.sampler import Entry
from evaluation.recall import rank_of_first, recall, retrieval_recalls
from model.retrieval import UniterForImageTextRetrieval, online_loss, rank_logits
from model.weight_checks import LoadReport
from optim.run import run_training
from optim.task import MicroBatches, Task
from utils.distributed import launch
from utils.options import MOST, MOST_UNITS, SHARE, option
from utils.run_config import RunConfig
from utils.store_options import ListedStoreOptions

TRAINING: dict[str, Any] = {"training_only": True}
MINED: dict[str, Any] = {"only_if": ("hard_negatives", "mined"), **TRAINING}


@dataclass(kw_only=True)
class ItmConfig(ListedStoreOptions, RunConfig):
    """Options of image-text retrieval finetuning (paper 4.1 and A.2)."""

    may_change = RunConfig.may_change | {"inf_minibatch_size", "full_val"}

    hard_negatives: HardNegatives = option(
        "none",
        "none; online: learn from the hardest of many random negatives in each step; mined: from negatives mined every "
        "mine_steps steps (paper A.2)",
        **TRAINING,
    )
    negative_size: int = option(
        1,
        "random negative images for a text, and as many texts for an image; with online: candidates to choose from",
        at_least=1,
        at_most=100_000,
        **TRAINING,
    )
    hard_neg_size: int = option(
        31,
        "online only: number of the hardest candidates that the loss uses, for each text and image",
        at_least=1,
        at_most=100_000,
        only_if=("hard_negatives", "online"),
        **TRAINING,
    )
    margin: float = option(
        0.2,
        "triplet-loss margin: how much higher a pair should score than its negatives, on scores of 0 to 1",
        **SHARE,
        **TRAINING,
    )
    mine_steps: int = option(
        4000,
        "mined only: mine new negatives every so many optimiser steps; a smaller number is slower",
        at_least=1,
        at_most=MOST,
        **MINED,
    )
    mine_images: int = option(
        128,
        "mined only: random images to score for each text; more finds harder negatives, slowly",
        at_least=1,
        at_most=MOST,
        **MINED,
    )
    mine_keep: int = option(
        20,
        "mined only: number of hardest negatives to keep for each text and each image",
        at_least=1,
        at_most=MOST,
        **MINED,
    )
    mined_negatives: int = option(
        2,
        "mined only: number of hard negatives in an example, half of them images, half texts",
        at_least=1,
        at_most=100_000,
        **MINED,
    )
    inf_minibatch_size: int = option(
        400,
        "validation ranks a text's image among this many images; with full_val: images scored at a time",
        at_least=1,
        at_most=MOST_UNITS,
        **TRAINING,
    )
    full_val: bool = option(
        False, "validate by ranking all texts and all images: slower, but comparable with published recalls", **TRAINING
    )
    train_batch_size: int = option(
        128, "examples in a rank's micro-batch; with online: micro-batches of one example in a rank's step"
    )
    val_batch_size: int = option(
        16384,
        "size of a batch in validation and mining, in text tokens plus image regions; lower it if memory runs out",
    )
    weight_decay: float = 0.01
    grad_norm: float = 0.25


class ItmTask(Task[ItmConfig]):
    """Image-text retrieval: a text and its own image must score higher than that text or image with any other."""

    name = "itm"
    head = "rank_output"

    def __init__(self, config: ItmConfig):
        """Prepare the task; mining is the task's `refresh`."""
        super().__init__(config)
        self.parts: Sequence[Retrieval] = []  # the training data, one dataset for each store
        self.report: LoadReport | None = None  # which weights the checkpoint lacked
        self.refresh_steps = config.mine_steps if config.hard_negatives == "mined" else 0

    def dataset(self, txt_db: str, img_db: str, train: bool = False) -> Retrieval:
        """The captions of a text store, with the images of an image store."""
        c = self.config
        return Retrieval(
            self.stores.texts(txt_db, train),
            self.stores.images(img_db),
            hard_negatives=c.hard_negatives,
            negative_size=c.negative_size,
            mined_negatives=c.mined_negatives,
        )

    def train_data(self) -> Sequence[Entry]:
        """One entry of all training stores. `self.parts` keeps their datasets, because mining works on each alone."""
        self.parts = [self.dataset(txt_db, img_db, train=True) for txt_db, img_db in self.config.db_pairs("train")]
        return [Entry(self.name, self.parts[0] if len(self.parts) == 1 else Concat(self.parts))]

    def eval_data(self) -> dict[str, Dataset]:
        """The validation split: ranks each caption's image among `inf_minibatch_size` images, as in the release, or,
        with `full_val`, all captions and all images."""
        c, captions = self.config, self._captions("val")
        make = RetrievalMatrix if c.full_val else validation_candidates
        return {split: make(captions[split], c.val_batch_size, c.inf_minibatch_size) for split in captions}

    def final_data(self) -> dict[str, Dataset]:
        """All texts with all images, of the test split, and, without `full_val`, of the validation split."""
        c, names = self.config, {"test": "test"} | ({} if self.config.full_val else {"val": "val_full"})
        captions = self._captions(*names)
        return {
            names[split]: RetrievalMatrix(captions[split], c.val_batch_size, c.inf_minibatch_size) for split in captions
        }

    def _captions(self, *splits: str) -> dict[str, Retrieval]:
        return cast(dict[str, Retrieval], self.split_datasets(*splits))

    def micro_batches(self) -> MicroBatches:
        """How much one step takes. With online hard negatives it is the mean over `train_batch_size` micro-batches of
        one example, because one example's candidates fill the memory; `gradient_accumulation_steps` has no effect then,
        as in the release."""
        if self.config.hard_negatives == "online":
            return MicroBatches(batch_size=1, per_step=self.config.train_batch_size, accumulation="mean")
        return super().micro_batches()

    def refresh(
        self, model: Any, step: int, predict: Callable[[Dataset], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Mine hard negatives (paper A.2): score random images for every text, keep the hardest of each text and image.

        Returns arrays for each training store k: `pictures_k` (texts, `mine_keep`) columns, `texts_k` (images,
        `mine_keep`) texts, both int32.
        """
        c, arrays = self.config, {}
        for k, captions in enumerate(self.parts):
            columns = draw_candidates(captions, c.mine_images, generator(c.seed, "mined", step, k))
            candidates = RetrievalCandidates(captions, columns, c.val_batch_size)
            scores = candidates.table(predict(candidates))
            hard_columns, hard_texts = mine_hardest(scores, columns, len(captions.columns), c.mine_keep)
            arrays[f"pictures_{k}"], arrays[f"texts_{k}"] = hard_columns, hard_texts
        return arrays

    def apply_refresh(self, arrays: dict[str, np.ndarray]) -> None:
        """Give the dataset of each training store its mined negatives."""
        for k, captions in enumerate(self.parts):
            captions.mined = arrays[f"pictures_{k}"], arrays[f"texts_{k}"]

    def new_model(self) -> UniterForImageTextRetrieval:
        """UNITER with a head that gives one score for a text and an image."""
        return UniterForImageTextRetrieval(self.model_config, self.img_dim)

    def after_loading(self, model: UniterForImageTextRetrieval, report: LoadReport) -> None:
        """Start the rank head from the matching head of pre-training, unless the checkpoint has a rank head."""
        self.report = report
        if "rank_output.weight" in report.missing_keys:
            model.init_output()

    def loss(self, model: UniterForImageTextRetrieval, batch: PackedBatch) -> Tensor:
        """Mean triplet loss over the negatives; online: the means over a text's and an image's hardest, added."""
        if self.config.hard_negatives == "online":
            return online_loss(model, batch, self.config.hard_neg_size, self.config.margin)
        return model.losses(batch, self.config.margin)[1].mean()

    def predict(self, model: UniterForImageTextRetrieval, batch: PackedBatch) -> dict[str, np.ndarray]:
        """`scores`: the rank logits (pairs,) of the text-image pairs in a tile (see `data.retrieval_eval`)."""
        return {"ids": np.array(batch.ids), "scores": rank_logits(model, batch).float().cpu().numpy()}

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Recalls of image retrieval, and of text retrieval where all texts were scored with all images."""
        assert isinstance(dataset, RetrievalMatrix | RetrievalCandidates)
        table = dataset.table(predictions)
        if isinstance(dataset, RetrievalCandidates):
            return recall(rank_of_first(table), "img")
        return retrieval_recalls(table, dataset.captions.own_columns)

    def main_metric(self, scores: dict[str, float]) -> float | None:
        """The mean of the recalls of validation decides which weights are the best."""
        return scores.get("val/r_mean", scores.get("val/img_r_mean"))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with the options in `argv` (default: the command line); returns the last scores by name."""
    return run_training(ItmTask, ItmConfig, argv)


if __name__ == "__main__":
    launch(main)
