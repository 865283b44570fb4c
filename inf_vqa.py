"""Answer the questions of a split: the VQA leaderboard's file.

python inf_vqa.py --txt_db … --img_db … --output_dir FOLDER_OF_A_RUN --checkpoint best
"""

from pathlib import Path

from optim.infer import Inference, InferenceConfig
from train_vqa import VqaConfig, VqaTask
from utils.distributed import launch


def main(argv: list[str] | None = None) -> Path:
    """Write `results_test/results_{checkpoint}_all.json` in the run's folder; returns its path."""
    return Inference(InferenceConfig, VqaTask, VqaConfig, argv, answers_of_the_run).predict_split()


def answers_of_the_run(flags: InferenceConfig) -> dict[str, str]:
    """The head's outputs stand for the answers that the run left beside its weights."""
    return {"ans2label": str(flags.run_dir / "ckpt" / "ans2label.json")}


if __name__ == "__main__":
    launch(main)
