"""Judge the sentences of a split with a finished run; accuracy and consistency go to the log and the file.

python -m examples.nlvr1.inf_nlvr1 --txt_db … --img_db … --output_dir FOLDER_OF_A_RUN
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/by_path.py"))

from dataclasses import dataclass

from examples.nlvr1.train_nlvr1 import Nlvr1Config, Nlvr1Task
from optim.infer import Inference, InferenceConfig
from utils.distributed import launch
from utils.options import MOST_UNITS, option


@dataclass(kw_only=True)
class Nlvr1Inference(InferenceConfig):
    """Flags of NLVR's inference."""

    batch_size: int | None = option(
        256, help="examples in a batch; None: the run's val_batch_size", at_least=1, at_most=MOST_UNITS
    )
    copies: int = option(
        8,
        help="symmetric copies of a sentence and its picture to average scores over; 1: as it is",
        at_least=1,
        at_most=10_000,
    )
    n_workers: int = 0


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Write `results_dev/results_{checkpoint}_all.json` in the run's folder; returns the scores, on rank 0."""
    inference = Inference(Nlvr1Inference, Nlvr1Task, Nlvr1Config, argv, lambda flags: {"copies": flags.copies})
    dataset = inference.task.dataset(inference.flags.txt_db, inference.flags.img_db)
    path = inference.results("dev")
    predictions = inference.predict(dataset, path)
    inference.publish(predictions, dataset, path)
    return inference.task.score(predictions, dataset) if inference.world.is_main else {}


if __name__ == "__main__":
    launch(main)
