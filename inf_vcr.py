"""Score all answers and rationales of a VCR split, and write the leaderboard's file.

python inf_vcr.py --txt_db … --img_db "GT_DIR;DET_DIR" --split test --output_dir FOLDER_OF_A_RUN --checkpoint best
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.vcr import RegionSource
from evaluation.ids import check_csv_ids
from optim.infer import Inference, InferenceConfig
from train_vcr import VcrConfig, VcrTask
from utils.distributed import launch
from utils.options import MOST_UNITS, option


@dataclass(kw_only=True)
class VcrInference(InferenceConfig):
    """Score all answers and rationales of a VCR split, with a finetuned model."""

    img_db: str = option(help='image LMDBs with the images of these texts, as "GT_DIR;DET_DIR"', path="own")
    split: Literal["val", "test"] = option("test", help="name of this split, used for the results folder only")
    regions: RegionSource | None = option(
        None, help='regions to read from "GT_DIR;DET_DIR": one of the two or both; None: as in the training run'
    )
    batch_size: int | None = option(
        10, help="questions in a batch, 20 sequences each; lower it if memory runs out", at_least=1, at_most=MOST_UNITS
    )


def main(argv: list[str] | None = None) -> Path:
    """Write `results_{split}/results_{checkpoint}_all.json` and `.csv` to the run's folder; returns the JSON's path."""
    inference = Inference(VcrInference, VcrTask, VcrConfig, argv, changes)
    flags = inference.flags
    dataset = inference.task.dataset(flags.txt_db, flags.img_db, choices="all")
    check_csv_ids((dataset.id(i) for i in range(len(dataset))), flags.txt_db)
    path = inference.results(flags.split)
    return inference.publish(inference.predict(dataset, path), dataset, path)


def changes(flags: VcrInference) -> dict[str, Any]:
    """Options of the run that change in inference: finetuned weights have all of VCR's tokens and types already."""
    regions = {"regions": flags.regions} if flags.regions else {}
    return {"checkpoint_from": "vcr_pretrain", **regions}


if __name__ == "__main__":
    launch(main)
