"""Answer the questions of a split: the VQA leaderboard's file.

python inf_vqa.py --txt_db … --img_db … --output_dir FOLDER_OF_A_RUN --checkpoint best
"""

import logging
from pathlib import Path

from optim.infer import InferenceConfig, predictions, restore
from train_vqa import VqaConfig, VqaTask
from utils.config import parse
from utils.distributed import launch
from utils.submission import write_logits_npz


def main(argv: list[str] | None = None) -> Path:
    """Write `results_test/results_{checkpoint}_all.json` in the run's folder; returns its path."""
    config, notes = parse(InferenceConfig, argv)
    run, more_notes = restore(config, VqaConfig)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run.ans2label = str(Path(config.output_dir) / "ckpt" / "ans2label.json")
    run.train_txt_dbs, run.val_txt_db = [], None
    task = VqaTask(run)
    data = task.data(config.txt_db, config.img_db)
    task.stores.check_against(run.checkpoint)
    world, found = predictions(task, config, data)
    results = Path(config.output_dir) / "results_test"
    path = results / f"results_{config.name}_all.json"
    if world.is_main:
        for note in notes + more_notes:
            logging.info(note)
        task.write(found, path, data)
        if config.save_logits:
            write_logits_npz(results / f"logits_{config.name}_all.npz", found["ids"].tolist(), found["logits"])
        logging.info(f"{len(data)} answers in {path}")
    return path


if __name__ == "__main__":
    launch(main)
