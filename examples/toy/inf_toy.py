"""Predict for a split of the toy task with a finished run, and log the score (docs/ADD_A_TASK.md)."""

from examples.toy.train_toy import ToyConfig, ToyTask
from optim.infer import Inference, InferenceConfig
from utils.distributed import launch


def main(argv: list[str] | None = None) -> None:
    """Write `results_test/results_{checkpoint}_all.json` in the run's folder."""
    Inference(InferenceConfig, ToyTask, ToyConfig, argv).predict_split()


if __name__ == "__main__":
    launch(main)
