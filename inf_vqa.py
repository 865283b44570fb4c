"""Answer the questions of a VQA split, and write the leaderboard's file.

python inf_vqa.py --txt_db … --img_db … --output_dir FOLDER_OF_A_RUN --checkpoint best
"""

from pathlib import Path

from evaluation.submission import question_numbers
from optim.infer import Inference, InferenceConfig
from train_vqa import VqaConfig, VqaTask
from utils.distributed import launch


def main(argv: list[str] | None = None) -> Path:
    """Write `results_test/results_{checkpoint}_all.json` to the run's folder; returns its path."""
    inference = Inference(InferenceConfig, VqaTask, VqaConfig, argv, answer_vocabulary)
    return inference.predict_split(check_ids=question_numbers)


def answer_vocabulary(flags: InferenceConfig) -> dict[str, str]:
    """The option `ans2label`: the vocabulary that training saved in `ckpt/`, which names the outputs of the head."""
    return {"ans2label": str(flags.run_dir / "ckpt" / "ans2label.json")}


if __name__ == "__main__":
    launch(main)
