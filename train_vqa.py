"""Finetune UNITER on VQA (paper 4.1 and A.2).

    python train_vqa.py --config config/train-vqa-base-4gpu.json
    torchrun --nproc_per_node 4 train_vqa.py --config …
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from data.batch import PackedBatch
from data.concat import Concat
from data.open import Stores
from data.sampler import Entry
from data.vqa import Vqa
from model.uniter import UniterConfig, set_dropout
from model.vqa import UniterForVisualQuestionAnswering
from model.weights import load_checkpoint
from optim.run import run_training
from utils.config import RunConfig, load_hps, option
from utils.distributed import launch
from utils.files import read_json
from utils.submission import write_vqa


@dataclass(kw_only=True)
class VqaConfig(RunConfig):
    """Options of VQA finetuning, besides those of every run."""

    train_txt_dbs: list[str] = option([], path=True, help="text LMDBs to train on")
    train_img_dbs: list[str] = option([], path=True, help="their image LMDBs, one each")
    val_txt_db: str | None = option(None, path=True, help="text LMDB to validate on")
    val_img_db: str | None = option(None, path=True, help="its image LMDB")
    ans2label: str | None = option(
        None, path=True, help="answer → label JSON; else the one beside the first text LMDB, else the release's"
    )
    optim: str = "adam"
    weight_decay: float = 0.0
    warmup_steps: int = 4000
    lr_mul: float = 10.0


class VqaTask:
    """A question and a picture → one of the answers, learned from soft scores."""

    head = "vqa_output"

    def __init__(self, config: VqaConfig):
        self.config = config
        self.model_config = load_hps(config.model_config, UniterConfig)[0]
        self.ans2label = find_ans2label(config)
        self.answers = answer_list(self.ans2label)
        self.stores = Stores(config, self.model_config.vocab_size)
        pairs = list(zip(config.train_txt_dbs, config.train_img_dbs, strict=True))
        self.train = [self._data(text, image, train=True) for text, image in pairs]
        self.val = {"vqa": self._data(config.val_txt_db, config.val_img_db)} if config.val_txt_db else {}
        self.stores.check_against(config.checkpoint)

    def _data(self, text: str, image: str, train: bool = False) -> Vqa:
        return Vqa(self.stores.texts(text, train), self.stores.images(image), len(self.answers))

    def train_data(self) -> list[Entry]:
        return [Entry("vqa", Concat(self.train))]

    def eval_data(self) -> dict[str, Any]:
        return self.val

    def build_model(self) -> UniterForVisualQuestionAnswering:
        model = UniterForVisualQuestionAnswering(self.model_config, len(self.answers))
        set_dropout(model, self.config.dropout)
        load_checkpoint(model, self.config.checkpoint)
        return model

    def loss(self, model: UniterForVisualQuestionAnswering, batch: PackedBatch) -> Tensor:
        """Mean binary cross-entropy × answers (DESIGN section 5)."""
        _, loss = model.losses(batch)
        return loss.mean() * len(self.answers)

    def predict(self, model: UniterForVisualQuestionAnswering, batch: PackedBatch) -> dict[str, np.ndarray]:
        """Logits, and the soft score and loss where the store has answers."""
        scores, loss = model.losses(batch)
        targets = batch.targets["answer_scores"]
        return {
            "ids": np.array(batch.ids),
            "logits": scores.float().cpu().numpy(),
            "score": targets.gather(1, scores.argmax(-1, keepdim=True)).flatten().cpu().numpy(),
            "loss": loss.sum(-1).cpu().numpy(),
        }

    def score(self, predictions: dict[str, np.ndarray], data: Any) -> dict[str, float]:
        """The release's soft score of the best answer (each target min(1, annotators / 3), rounded down to tenths)."""
        return {"score": float(predictions["score"].mean()), "loss": float(predictions["loss"].mean())}

    def main_metric(self, scores: dict[str, float]) -> float:
        return scores.get("vqa/score", 0.0)

    def write(self, predictions: dict[str, np.ndarray], path: Path, expected_ids: list[str]) -> None:
        """The leaderboard's file."""
        answers = [self.answers[label] for label in predictions["logits"].argmax(-1)]
        write_vqa(path, list(zip(predictions["ids"].tolist(), answers)), expected_ids)

    def keep(self, output_dir: str, is_main: bool) -> None:
        """Leave with the run what inference needs: the answers, and the vocabulary's marks."""
        if is_main:
            ckpt = Path(output_dir) / "ckpt"
            ckpt.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.ans2label, ckpt / "ans2label.json")
            self.stores.write_vocabulary(Path(output_dir) / "log" / "vocab.json")


def find_ans2label(config: VqaConfig) -> Path:
    """The answer vocabulary: the option, else beside the first text LMDB, else the release's own."""
    beside = Path(config.train_txt_dbs[0]) / "ans2label.json" if config.train_txt_dbs else None
    if config.ans2label:
        return Path(config.ans2label)
    return beside if beside and beside.exists() else Path(__file__).parent / "utils" / "ans2label.json"


def answer_list(path: Path) -> list[str]:
    """Answers in the order of their labels."""
    labels: dict[str, int] = read_json(path)
    return sorted(labels, key=labels.__getitem__)


def main(argv: list[str] | None = None) -> dict[str, float]:
    return run_training(VqaTask, VqaConfig, argv)


if __name__ == "__main__":
    launch(main)
