"""Finetune UNITER on VQA (paper 4.1 and A.2).

python train_vqa.py --config config/train-vqa-base-4gpu.json
torchrun --nproc_per_node 4 train_vqa.py --config …
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from data.batch import PackedBatch
from data.dataset import Dataset
from data.sampler import Entry
from data.vqa import Vqa
from evaluation.metrics import vqa_soft_score
from evaluation.submission import vqa_predictions, write_logits_npz, write_vqa
from evaluation.vqa_answers import RELEASE_ANSWERS, check_same_answers, label2ans, read_ans2label
from model.vqa import UniterForVisualQuestionAnswering
from optim.run import run_training
from optim.task import Task
from utils.distributed import launch
from utils.files import atomic_write, read_bytes
from utils.options import option
from utils.run_config import RunConfig
from utils.store_options import ListedStoreOptions


@dataclass(kw_only=True)
class VqaConfig(ListedStoreOptions, RunConfig):
    """Options of VQA finetuning (paper 4.1 and A.2)."""

    ans2label: str | None = option(
        None,
        path=True,
        help="JSON file of the answer vocabulary; None: that of the first training text LMDB, or the release's answers",
    )
    lr_mul: float = 10.0


class VqaTask(Task[VqaConfig]):
    """VQA: a question and an image → one of the answers, learned from soft scores."""

    name = "vqa"
    metric = "score"
    head = "vqa_output"
    test_splits = ("test",)

    def __init__(self, config: VqaConfig):
        """Read the answer vocabulary; `InputError` where the file is wrong or absent."""
        super().__init__(config)
        self.ans2label_file = find_ans2label(config)
        self.answers = label2ans(read_ans2label(self.ans2label_file))  # in the order of the labels

    def dataset(self, txt_db: str, img_db: str, train: bool = False) -> Vqa:
        """The questions of a text store, with the images of an image store."""
        check_same_answers(Path(txt_db) / "ans2label.json", self.ans2label_file)
        texts, images = self.stores.texts(txt_db, train), self.stores.images(img_db)
        return Vqa(texts, images, len(self.answers), require_labels=train)

    def train_data(self) -> Sequence[Entry]:
        """All training stores; a run that resumes must have its old answers, which number the labels."""
        if self.config.resume:
            check_same_answers(Path(self.config.output_dir) / "ckpt" / "ans2label.json", self.ans2label_file)
        return super().train_data()

    def new_model(self) -> UniterForVisualQuestionAnswering:
        """UNITER with a classifier over the answers."""
        return UniterForVisualQuestionAnswering(self.model_config, len(self.answers), self.img_dim)

    def loss(self, model: UniterForVisualQuestionAnswering, batch: PackedBatch) -> Tensor:
        """Mean binary cross-entropy × number of answers (DESIGN section 5)."""
        _, loss = model.losses(batch)  # (E, answers)
        return loss.mean() * len(self.answers)

    def predict(self, model: UniterForVisualQuestionAnswering, batch: PackedBatch) -> dict[str, np.ndarray]:
        """Logits (E, answers), and for scoring the soft accuracy (E,) and the loss (E,) of each question."""
        logits, loss = model.losses(batch)
        return {
            "ids": np.array(batch.ids),
            "logits": logits.float().cpu().numpy(),
            "score": vqa_soft_score(logits, batch.targets["answer_scores"]).cpu().numpy(),
            "loss": loss.sum(-1).cpu().numpy(),
        }

    def score(self, predictions: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
        """Mean soft accuracy, the release's validation score, and mean loss; {} for a split without answers."""
        if not dataset.has_labels:
            return {}
        return {name: float(predictions[name].mean(dtype=np.float64)) for name in ("score", "loss")}

    def write(self, predictions: dict[str, np.ndarray], path: Path, ids: Sequence[str]) -> None:
        """Write the leaderboard's file: an answer to every question."""
        best_answers = vqa_predictions(predictions["ids"].tolist(), predictions["logits"], self.answers)
        write_vqa(path, best_answers, ids)

    def write_logits(self, predictions: dict[str, np.ndarray], path: Path) -> None:
        """Write the logits in half precision, as the release does."""
        write_logits_npz(path, predictions["ids"].tolist(), predictions["logits"], np.float16)

    def write_inference_files(self, output_dir: Path) -> None:
        """Write to the output folder what inference needs: the answer vocabulary and the ids of special tokens."""
        super().write_inference_files(output_dir)
        atomic_write(output_dir / "ckpt" / "ans2label.json", read_bytes(self.ans2label_file))


def find_ans2label(config: VqaConfig) -> Path:
    """The file of the answer vocabulary: the option, else that of the first training text LMDB, else the release's."""
    if config.ans2label:
        return Path(config.ans2label)
    if config.train_txt_dbs and (Path(config.train_txt_dbs[0]) / "ans2label.json").exists():
        return Path(config.train_txt_dbs[0]) / "ans2label.json"
    return RELEASE_ANSWERS


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with the options in `argv` (default: the command line); returns the last scores by name."""
    return run_training(VqaTask, VqaConfig, argv)


if __name__ == "__main__":
    launch(main)
