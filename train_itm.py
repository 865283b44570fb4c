"""Finetune UNITER on image-text retrieval (paper 4.2 and A.2).

python train_itm.py --config config/train-itm-flickr-base-8gpu.json
torchrun --nproc_per_node 8 train_itm.py --config …
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from model.weights import LoadReport
from optim.run import run_training
from optim.task import MicroBatches, Task
from utils.config import RunConfig, option
from utils.distributed import launch
from utils.store_options import ListedStoreOptions


@dataclass(kw_only=True)
class ItmConfig(ListedStoreOptions, RunConfig):
    """Options of retrieval finetuning, besides those of every run."""

    hard_negatives: HardNegatives = option(
        "none", "hard negatives: none, scored in each step (online), or mined from time to time (paper A.2)"
    )
    negative_size: int = option(
        1, "random negatives for a text, and as many for a picture; online: candidates for them", at_least=1
    )
    hard_neg_size: int = option(31, "online: number of hardest candidates that the loss counts", at_least=1)
    margin: float = option(0.2, "margin of the triplet loss, between scores of 0 to 1", at_least=0)
    mine_steps: int = option(4000, "mined: mine new negatives every so many steps", at_least=1)
    mine_images: int = option(128, "mined: random pictures to score for each text", at_least=1)
    mine_keep: int = option(20, "mined: hardest negatives to keep for each text and each picture", at_least=1)
    mined_negatives: int = option(
        2, "mined: hard negatives in an example, half of them pictures, half texts", at_least=1
    )
    inf_minibatch_size: int = option(
        400, "pictures that validation ranks for a text; with full_val, how many at a time", at_least=1
    )
    full_val: bool = option(False, "validate by ranking all texts and all pictures")
    train_batch_size: int = option(128, "examples in a rank's micro-batch; online: micro-batches in a rank's step")
    val_batch_size: int = option(16384, "size of a batch in validation and mining, in text tokens plus image regions")
    weight_decay: float = 0.01
    grad_norm: float = 0.25


class ItmTask(Task[ItmConfig]):
    """A caption's own picture scores higher than other pictures, and it higher for its picture than other captions."""

    name = "itm"
    head = "rank_output"

    def __init__(self, config: ItmConfig):
        super().__init__(config)
        self.parts: Sequence[Retrieval] = []  # the training data, a part for each store
        self.report: LoadReport | None = None  # of the checkpoint
        self.refresh_steps = config.mine_steps if config.hard_negatives == "mined" else 0

    def dataset(self, txt_db: str, img_db: str, train: bool = False) -> Retrieval:
        """The captions of a text store and the pictures of an image store."""
        c = self.config
        return Retrieval(
            self.stores.texts(txt_db, train),
            self.stores.images(img_db),
            hard_negatives=c.hard_negatives,
            negative_size=c.negative_size,
            mined_negatives=c.mined_negatives,
        )

    def train_data(self) -> Sequence[Entry]:
        """All stores of the options, end to end, as for every task; mining needs their datasets one by one."""
        self.parts = [self.dataset(txt_db, img_db, train=True) for txt_db, img_db in self.config.db_pairs("train")]
        return [Entry(self.name, self.parts[0] if len(self.parts) == 1 else Concat(self.parts))]

    def eval_data(self) -> dict[str, Dataset]:
        """Validation as the release's: each caption's picture among `inf_minibatch_size`, or among all."""
        c, captions = self.config, self._captions("val")
        make = RetrievalMatrix if c.full_val else validation_candidates
        return {split: make(captions[split], c.val_batch_size, c.inf_minibatch_size) for split in captions}

    def final_data(self) -> dict[str, Dataset]:
        """Val, where the last validation was not of all of it, and test: all texts with all pictures."""
        c, names = self.config, {"test": "test"} | ({} if self.config.full_val else {"val": "val_full"})
        captions = self._captions(*names)
        return {
            names[split]: RetrievalMatrix(captions[split], c.val_batch_size, c.inf_minibatch_size) for split in captions
        }

    def _captions(self, *splits: str) -> dict[str, Retrieval]:
        """The captions and pictures of each of these splits for which the options name stores."""
        return {
            split: self.dataset(txt_db, img_db) for split in splits for txt_db, img_db in self.config.db_pairs(split)
        }

    def micro_batches(self) -> MicroBatches:
        """Online, a step is the mean over `train_batch_size` micro-batches of one example, whose candidates fit in
        memory; `gradient_accumulation_steps` is not read, as in the release."""
        if self.config.hard_negatives == "online":
            return MicroBatches(batch_size=1, per_step=self.config.train_batch_size, accumulation="mean")
        return super().micro_batches()

    def refresh(
        self, model: Any, step: int, predict: Callable[[Dataset], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Paper A.2: score random pictures for every text; the hardest for each text, and for each picture."""
        c, arrays = self.config, {}
        for k, captions in enumerate(self.parts):
            columns = draw_candidates(captions, c.mine_images, generator(c.seed, "mined", step, k))
            candidates = RetrievalCandidates(captions, columns, c.val_batch_size)
            scores = candidates.table(predict(candidates))
            hard_columns, hard_texts = mine_hardest(scores, columns, len(captions.columns), c.mine_keep)
            arrays[f"pictures_{k}"], arrays[f"texts_{k}"] = hard_columns, hard_texts
        return arrays

    def apply_refresh(self, arrays: dict[str, np.ndarray]) -> None:
        """Give every store's dataset what was mined from it."""
        for k, captions in enumerate(self.parts):
            captions.mined = arrays[f"pictures_{k}"], arrays[f"texts_{k}"]

    def new_model(self) -> UniterForImageTextRetrieval:
        return UniterForImageTextRetrieval(self.model_config)

    def after_loading(self, model: UniterForImageTextRetrieval, report: LoadReport) -> None:
        """The rank head starts from the matching head of pre-training; one that was finetuned is kept."""
        self.report = report
        if "rank_output.weight" in report.missing_keys:
            model.init_output()

    def loss(self, model: UniterForImageTextRetrieval, batch: PackedBatch) -> Tensor:
        """Mean triplet loss of the negatives; online of the hardest, the two anchors' means added."""
        if self.config.hard_negatives == "online":
            return online_loss(model, batch, self.config.hard_neg_size, self.config.margin)
        return model.losses(batch, self.config.margin)[1].mean()

    def predict(self, model: UniterForImageTextRetrieval, batch: PackedBatch) -> dict[str, np.ndarray]:
        """The rank logits of the pairs of a tile (`data.retrieval_eval`)."""
        return {"ids": np.array(batch.ids), "scores": rank_logits(model, batch).float().cpu().numpy()}

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Recalls of pictures for texts, and, where all were scored, of texts for pictures."""
        assert isinstance(dataset, RetrievalMatrix | RetrievalCandidates)
        table = dataset.table(predictions)
        if isinstance(dataset, RetrievalCandidates):
            return recall(rank_of_first(table), "img")
        return retrieval_recalls(table, dataset.captions.own_columns)

    def main_metric(self, scores: dict[str, float]) -> float | None:
        """The mean of all recalls that validation gives."""
        return scores.get("val/r_mean", scores.get("val/img_r_mean"))


def main(argv: list[str] | None = None) -> dict[str, float]:
    return run_training(ItmTask, ItmConfig, argv)


if __name__ == "__main__":
    launch(main)
