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
from model.uniter import IMG_DIM, UniterConfig, set_dropout
from model.vqa import UniterForVisualQuestionAnswering
from model.weights import load_checkpoint
from optim.run import run_training
from utils.config import RunConfig, check_paired, load_hps, option
from utils.distributed import launch
from utils.metrics import vqa_soft_score
from utils.submission import vqa_predictions, write_vqa
from utils.vqa_answers import check_same_answers, label2ans, read_ans2label


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
    lr_mul: float = 10.0


class VqaTask:
    """A question and a picture → one of the answers, learned from soft scores."""

    head = "vqa_output"

    def __init__(self, config: VqaConfig):
        self.config = config
        self.model_config = load_hps(config.model_config, UniterConfig)[0]
        self.ans2label = find_ans2label(config)
        self.answers = label2ans(read_ans2label(self.ans2label))
        self.stores = Stores(config, self.model_config, IMG_DIM)

    def data(self, txt_db: str, img_db: str, train: bool = False) -> Vqa:
        """The questions of a text store about the pictures of an image store."""
        check_same_answers(Path(txt_db) / "ans2label.json", self.ans2label)
        return Vqa(self.stores.texts(txt_db, train), self.stores.images(img_db), len(self.answers))

    def train_data(self) -> list[Entry]:
        c = self.config
        check_paired({"train_txt_dbs": c.train_txt_dbs, "train_img_dbs": c.train_img_dbs})
        paired = zip(c.train_txt_dbs, c.train_img_dbs)
        entries = [Entry("vqa", Concat([self.data(text, image, train=True) for text, image in paired]))]
        self.stores.check_against(c.checkpoint)
        return entries

    def eval_data(self) -> dict[str, Any]:
        c = self.config
        return {"vqa": self.data(c.val_txt_db, c.val_img_db)} if c.val_txt_db and c.val_img_db else {}

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
            "score": vqa_soft_score(scores, targets).cpu().numpy(),
            "loss": loss.sum(-1).cpu().numpy(),
        }

    def score(self, predictions: dict[str, np.ndarray], data: Any) -> dict[str, float]:
        """The soft score of the best answers, as the release validates, and the loss."""
        return {"score": float(predictions["score"].mean()), "loss": float(predictions["loss"].mean())}

    def main_metric(self, scores: dict[str, float]) -> float:
        return scores.get("vqa/score", 0.0)

    def write(self, predictions: dict[str, np.ndarray], path: Path, data: Vqa) -> None:
        """The leaderboard's file: an answer to every question of `data`."""
        chosen = vqa_predictions(predictions["ids"].tolist(), predictions["logits"], self.answers)
        write_vqa(path, chosen, [data.id(i) for i in range(len(data))])

    def keep(self, output_dir: Path) -> None:
        """Leave with the run what inference needs: the answers, and the vocabulary's marks."""
        (output_dir / "ckpt").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.ans2label, output_dir / "ckpt" / "ans2label.json")
        self.stores.write_vocabulary(output_dir / "log" / "vocab.json")


def find_ans2label(config: VqaConfig) -> Path:
    """The answer vocabulary: the option, else beside the first text LMDB, else the release's own."""
    beside = Path(config.train_txt_dbs[0]) / "ans2label.json" if config.train_txt_dbs else None
    if config.ans2label:
        return Path(config.ans2label)
    return beside if beside and beside.exists() else Path(__file__).parent / "utils" / "ans2label.json"


def main(argv: list[str] | None = None) -> dict[str, float]:
    return run_training(VqaTask, VqaConfig, argv)


if __name__ == "__main__":
    launch(main)
