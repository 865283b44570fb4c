"""Predict the box that each referring expression describes, for one or more splits.

python inf_re.py --txt_db refcoco_val.db:refcoco_testA.db --img_db … --output_dir FOLDER_OF_A_RUN --checkpoint best
"""

from dataclasses import dataclass
from pathlib import Path

from data.referring import Boxes, box_source
from evaluation.ids import check_numbers
from optim.infer import Inference, InferenceConfig
from train_re import BOXES_HELP, ReConfig, ReTask
from utils.distributed import launch
from utils.files import append_line
from utils.options import MOST_UNITS, option


@dataclass(kw_only=True)
class ReInference(InferenceConfig):
    """Predict the box that each referring expression describes, with a finetuned model."""

    txt_db: str = option(help="text LMDBs to predict for, with ':' between them", path="own", joined=":")
    batch_size: int | None = option(
        256, help="expressions in a batch; None: the val_batch_size of the training run", at_least=1, at_most=MOST_UNITS
    )
    boxes: Boxes | None = option(None, help=BOXES_HELP)
    tmp_file: str | None = option(
        None, help="file to append a line with the accuracies to, such as a file for many runs", path="own"
    )


def main(argv: list[str] | None = None) -> list[Path]:
    """Write a results file for every text store, and append the accuracies to `--tmp_file`; returns the files' paths.

    `argv`: the flags; default: the command line.
    """
    inference = Inference(ReInference, ReTask, ReConfig, argv)
    flags, paths, accuracies = inference.flags, [], ""
    for txt_db in flags.txt_db.split(":"):
        boxes = box_source(flags.img_db, flags.boxes)
        dataset = inference.task.dataset(txt_db, flags.img_db, boxes=boxes)
        check_numbers((dataset.id(i) for i in range(len(dataset))), txt_db)
        name = f"results_{flags.name}_{Path(txt_db).stem}_on_{Path(flags.img_db).name}_all.json"
        path = flags.run_dir / "results_test" / name
        predictions = inference.predict(dataset, path)
        paths.append(inference.publish(predictions, dataset, path))
        if inference.world.is_main:
            accuracy = inference.task.score(predictions, dataset)["acc"]
            accuracies += f"{split_name(txt_db)}-acc({'gt' if boxes == 'gt' else 'det'}): {100 * accuracy:.2f}% "
    if flags.tmp_file and inference.world.is_main:
        append_line(flags.tmp_file, accuracies)
    return paths


def split_name(txt_db: str) -> str:
    """The split in the name of a text store, as in the release: `refcoco_testA.db` → testA."""
    name, *rest = Path(txt_db).stem.split("_")
    return rest[0] if rest else name


if __name__ == "__main__":
    launch(main)
