"""Retrieval on the tiny world: its captions and pictures, at once to train, validate and test on."""

from pathlib import Path

from tests.tiny_tasks import options


def itm_options(world: Path, output: Path, **changes) -> Path:
    """A JSON for `train_itm.py`: short, deterministic."""
    texts, images = "txt_db/captions.db", "img_db/tiny"
    itm = {"train_txt_dbs": [texts], "train_img_dbs": [images], "val_txt_db": texts, "val_img_db": images}
    itm |= {"test_txt_db": texts, "test_img_db": images, "inf_minibatch_size": 6}
    return options(world, output, **itm | {"train_batch_size": 8, "val_batch_size": 400} | changes)


def inference_flags(world: Path, output: Path, checkpoint: Path, *more: str | Path) -> list[str]:
    """A command line of `inf_itm.py` on the same texts and pictures, in several chunks, blocks and tiles."""
    flags: list[str | Path] = ["--txt_db", world / "txt_db/captions.db", "--img_db", world / "img_db/tiny"]
    flags += ["--checkpoint", checkpoint, "--output_dir", output, "--model_config", world / "model.json"]
    flags += ["--min_bb", "2", "--batch_size", "5", "--batch_units", "400", "--chunk_texts", "25"]
    return [str(flag) for flag in (*flags, "--n_workers", "0", *more)]
