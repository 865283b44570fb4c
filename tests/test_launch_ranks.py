"""Ranks × accumulation = constant changes nothing, over entries with and without images, whatever the backend."""

from pathlib import Path

import pytest

from scripts import kill_test
from tests.launch_case import assert_same_run, horovodrun, launch
from tests.tiny_world import make_world, pretrain_options

SOURCES = [
    {"name": "tiny", "db": ["txt_db/captions.db"], "img": ["img_db/tiny"], "tasks": ["itm", "mlm", "mrfr", "mrckl"]},
    # Texts alone and texts with images in one entry: a rank may lack gradients that another one has.
    {"name": "mixed", "db": ["txt_db/vqa.db", "txt_db/captions.db"], "img": [None, "img_db/tiny"], "tasks": ["mlm"]},
]
STEPS = {
    "train_datasets": SOURCES,
    "val_datasets": SOURCES[:1],
    "num_train_steps": 30,
    "valid_steps": 15,
    "log_steps": 1,
    "train_batch_size": 40,
    "learning_rate": 5e-5,
    "grad_norm": 0.1,
    "dropout": 0.1,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("tiny"))


def train(world: Path, output: Path, launcher: str, ranks: int, precision: str) -> Path:
    """A run whose steps have four micro-batches."""
    split = {"gradient_accumulation_steps": 4 // ranks, "precision": precision}
    options = pretrain_options(world, output, **STEPS, **split)
    launch(launcher, "pretrain.py", "--config", options, ranks=ranks)
    return output


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("fp64", 1e-9), ("fp32", 1e-6)])
def test_four_micro_batches_a_step_on_1_2_and_4_ranks(
    world: Path, tmp_path: Path, precision: str, tolerance: float
) -> None:
    """Records name the task of every step, with its loss and the scores of validation."""
    one, two, four = (train(world, tmp_path / f"on_{n}", "torchrun", n, precision) for n in (1, 2, 4))
    records = kill_test.metrics(one)
    tasks = [key for record in records for key in record if key.startswith("loss/")]
    assert len(tasks) == 30 and tasks.count("loss/mlm_mixed") >= 3
    assert sum("mlm_tiny/acc" in record for record in records) == 2
    assert sum(record.get("grad_norm", 0) > STEPS["grad_norm"] for record in records) > 15  # clipping was active
    for other in (two, four):
        assert_same_run(one, other, tolerance)


@pytest.mark.slow
def test_horovod_on_2_ranks_ends_as_one_process(world: Path, tmp_path: Path) -> None:
    horovodrun()  # skips where it is not installed
    one = train(world, tmp_path / "on_1", "one process", 1, "fp64")
    assert_same_run(one, train(world, tmp_path / "by_horovod", "horovodrun", 2, "fp64"), 1e-9)
