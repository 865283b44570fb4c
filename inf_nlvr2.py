"""Predict true or false for the sentences of an NLVR2 split, and write the leaderboard's file.

python inf_nlvr2.py --txt_db … --img_db … --train_dir FOLDER_OF_A_RUN --ckpt best --output_dir results/nlvr2
"""

from dataclasses import dataclass
from pathlib import Path

from evaluation.ids import check_csv_ids
from optim.infer import Inference, InferenceConfig
from train_nlvr2 import Nlvr2Config, Nlvr2Task
from utils.distributed import launch
from utils.errors import InputError
from utils.options import MOST_UNITS, option


@dataclass(kw_only=True)
class Nlvr2Inference(InferenceConfig):
    """Predict true or false for the sentences of an NLVR2 split, with a finetuned model."""

    train_dir: str = option(
        help="output folder of the training run to use: log/hps.json, log/model.json, ckpt/", path="own"
    )
    ckpt: str | None = option(
        None, help="weights to use: a step of that run, best (the default), or the path of a weight file"
    )
    checkpoint: str | None = option(  # type: ignore[assignment]
        None, help="the same as --ckpt, under the name that the other scripts use"
    )
    output_dir: str = option(help="folder for results.csv, the leaderboard's file", path="own")
    batch_size: int | None = option(
        None,
        help="size of a batch, in text tokens plus image regions; None: the val_batch_size of the training run",
        at_least=1,
        at_most=MOST_UNITS,
    )

    @property
    def run_dir(self) -> Path:
        """The output folder of the finished run."""
        return Path(self.train_dir)

    def __post_init__(self) -> None:
        """Join the two flags for the weights; `InputError` where they differ."""
        checkpoints = {checkpoint for checkpoint in (self.ckpt, self.checkpoint) if checkpoint is not None}
        if len(checkpoints) > 1:
            raise InputError(
                "two different checkpoints were given",
                key="ckpt, checkpoint",
                found=f"{self.ckpt} and {self.checkpoint}",
                expected="one checkpoint, because the two flags mean the same",
                remedy="leave out one of the flags",
            )
        if self.checkpoint is None:
            self.checkpoint = self.ckpt or "best"  # an empty --ckpt is refused with the empty texts of all options


def main(argv: list[str] | None = None) -> Path:
    """Write `results.csv` to the output folder; returns its path."""
    inference = Inference(Nlvr2Inference, Nlvr2Task, Nlvr2Config, argv)
    return inference.predict_split(Path(inference.flags.output_dir) / "results.csv", check_csv_ids)


if __name__ == "__main__":
    launch(main)
