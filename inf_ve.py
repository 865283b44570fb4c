"""Predict the label of each image-hypothesis pair of a visual-entailment split.

python inf_ve.py --txt_db … --img_db … --output_dir FOLDER_OF_A_RUN --checkpoint best
"""

from pathlib import Path

from optim.infer import Inference, InferenceConfig
from train_ve import VeConfig, VeTask
from utils.distributed import launch


def main(argv: list[str] | None = None) -> Path:
    """Write `results_test/results_{checkpoint}_all.json` to the run's folder; returns its path."""
    return Inference(InferenceConfig, VeTask, VeConfig, argv).predict_split()


if __name__ == "__main__":
    launch(main)
