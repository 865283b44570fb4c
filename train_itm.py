"""Finetune UNITER on image-text retrieval (paper 4.2 and A.2).

python train_itm.py --config config/train-itm-flickr-base-8gpu.json
torchrun --nproc_per_node 8 train_itm.py --config …
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from data.batch import PackedBatch
from data.retrieval import HardNegatives, Retrieval, draw_candidates, mine_hardest
from data.retrieval_eval import RetrievalCandidates, RetrievalMatrix, validation_candidates
from data.rng import generator
from data.sampler import Entry
from evaluation.recall import rank_of_first, recall, retrieval_recalls
from model.retrieval import UniterForImageTextRetrieval, online_loss, rank_logits
from model.weights import LoadReport
from optim.run import run_training
from optim.task import Task
from utils.config import RunConfig, option
from utils.distributed import launch
from utils.store_options import ListedStoreOptions


@dataclass(kw_only=True)
class ItmConfig(ListedStoreOptions, RunConfig):
    """Options of retrieval finetuning, besides those of every run."""

    hard_negatives: HardNegatives = option("none", "instead of random ones: scored in a step; or mined (A.2)")
    negative_size: int = option(1, "random negatives of a text, and of a picture; online: candidates", at_least=1)
    hard_neg_size: int = option(31, "online: the hardest candidates that are learned from", at_least=1)
    margin: float = option(0.2, "of the triplet loss", at_least=0)
    mine_steps: int = option(4000, "mined: score anew every so many steps", at_least=1)
    mine_images: int = option(128, "mined: random pictures scored for each text", at_least=1)
    mine_keep: int = option(20, "mined: the hardest kept for each text and each picture", at_least=1)
    mined_negatives: int = option(2, "mined: of these, in an example, half pictures and half texts", at_least=1)
    inf_minibatch_size: int = option(400, "pictures a text is ranked against; with full_val, at a time", at_least=1)
    full_val: bool = option(False, "validate with all texts and all pictures")
    train_batch_size: int = option(128, "examples of a rank's micro-batch; online: micro-batches of a rank's step")
    val_batch_size: int = option(16384, "units of a batch in validation and mining")
    weight_decay: float = 0.01
    grad_norm: float = 0.25


class ItmTask(Task):
    """A caption's own picture scores higher than other pictures, and it higher for its picture than other captions."""

    name = "itm"
    head = "rank_output"

    def __init__(self, config: ItmConfig):
        super().__init__(one_example_a_micro_batch(config) if config.hard_negatives == "online" else config)
        self.parts: Sequence[Retrieval] = []  # the training data, a part for each store
        self.report: LoadReport | None = None  # of the checkpoint
        self.refresh_steps = config.mine_steps if config.hard_negatives == "mined" else 0

    def dataset(self, txt_db: str, img_db: str, train: bool = False) -> Retrieval:
        """The captions of a text store and the pictures of an image store."""
        c = self.config
        stores = self.stores.texts(txt_db, train), self.stores.images(img_db)
        return Retrieval(*stores, c.hard_negatives, c.negative_size, c.mined_negatives)

    def train_data(self) -> Sequence[Entry]:
        entries = super().train_data()
        self.parts = getattr(entries[0].data, "parts", [entries[0].data])
        return entries

    def eval_data(self) -> dict[str, Any]:
        """Validation as the release's: each caption's picture among `inf_minibatch_size`, or among all."""
        c, data = self.config, self.split_datasets("val")
        make = RetrievalMatrix if c.full_val else validation_candidates
        return {name: make(captions, c.val_batch_size, c.inf_minibatch_size) for name, captions in data.items()}

    def final_data(self) -> dict[str, Any]:
        """Val, where the last validation was not of all of it, and test: all texts with all pictures."""
        c, names = self.config, {"test": "test"} | ({} if self.config.full_val else {"val": "val_full"})
        data = self.split_datasets(*names)
        return {names[k]: RetrievalMatrix(data[k], c.val_batch_size, c.inf_minibatch_size) for k in data}

    def refresh(self, model: Any, step: int, run: Any) -> dict[str, np.ndarray]:
        """Paper A.2: score random pictures for every text; the hardest for each text, and for each picture."""
        c, arrays = self.config, {}
        for k, part in enumerate(self.parts):
            drawn = draw_candidates(part, c.mine_images, generator(c.seed, "mined", step, k))
            data = RetrievalCandidates(part, drawn, c.val_batch_size)
            mined = mine_hardest(data.table(run(data)), drawn, len(part.columns), c.mine_keep)
            arrays[f"pictures_{k}"], arrays[f"texts_{k}"] = mined
        return arrays

    def apply_refresh(self, arrays: dict[str, np.ndarray]) -> None:
        for k, part in enumerate(self.parts):
            part.mined = arrays[f"pictures_{k}"], arrays[f"texts_{k}"]

    def new_model(self) -> UniterForImageTextRetrieval:
        return UniterForImageTextRetrieval(self.model_config)

    def after_loading(self, model: UniterForImageTextRetrieval, report: LoadReport) -> None:
        """The rank head starts from the matching head of pre-training; one that was finetuned is kept."""
        self.report = report
        if "rank_output.weight" in report.missing:
            model.init_output()

    def loss(self, model: UniterForImageTextRetrieval, batch: PackedBatch) -> Tensor:
        """Mean triplet loss of the negatives; online of the hardest, the two anchors' means added."""
        if self.config.hard_negatives == "online":
            return online_loss(model, batch, self.config.hard_neg_size, self.config.margin)
        return model.losses(batch, self.config.margin)[1].mean()

    def predict(self, model: UniterForImageTextRetrieval, batch: PackedBatch) -> dict[str, np.ndarray]:
        """The rank logits of the pairs of a tile (`data.retrieval_eval`)."""
        return {"ids": np.array(batch.ids), "scores": rank_logits(model, batch).float().cpu().numpy()}

    def score(
        self, predictions: dict[str, np.ndarray], data: RetrievalMatrix | RetrievalCandidates
    ) -> dict[str, float]:
        """Recalls of pictures for texts, and, where all were scored, of texts for pictures."""
        table = data.table(predictions)
        if isinstance(data, RetrievalCandidates):
            return recall(rank_of_first(table), "img")
        return retrieval_recalls(table, data.captions.own)

    def main_metric(self, scores: dict[str, float]) -> float | None:
        """The mean of all recalls that validation gives."""
        return scores.get("val/r_mean", scores.get("val/img_r_mean"))


def one_example_a_micro_batch(config: ItmConfig) -> ItmConfig:
    """Online, a step is the mean over `train_batch_size` micro-batches of one example, whose candidates fit in memory;
    `gradient_accumulation_steps` is not read, as in the release."""
    micros = config.train_batch_size
    return replace(config, train_batch_size=1, gradient_accumulation_steps=micros, accumulation="mean")


def main(argv: list[str] | None = None) -> dict[str, float]:
    return run_training(ItmTask, ItmConfig, argv)


if __name__ == "__main__":
    launch(main)
