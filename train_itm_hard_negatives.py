"""Finetune UNITER on image-text retrieval with online hard negatives, under the release's script name and defaults.

torchrun --nproc_per_node 16 train_itm_hard_negatives.py --config config/train-itm-flickr-base-16gpu-hn.json
"""

from dataclasses import dataclass

from data.retrieval import HardNegatives
from optim.run import run_training
from train_itm import ItmConfig, ItmTask
from utils.distributed import launch


@dataclass(kw_only=True)
class HardNegativesConfig(ItmConfig):
    """Options of image-text retrieval finetuning with online hard negatives (paper A.2)."""

    hard_negatives: HardNegatives = "online"
    train_batch_size: int = 32
    negative_size: int = 511
    inf_minibatch_size: int = 512


class HardNegativesTask(ItmTask):
    """The same task as `ItmTask`; it also saves the last weights as model_step_{N}_final.pt."""

    final_weights = True


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with the options in `argv` (default: the command line); returns the last scores by name."""
    return run_training(HardNegativesTask, HardNegativesConfig, argv)


if __name__ == "__main__":
    launch(main)
