"""Pre-training, a resume, finetuning and inference under every launcher: the same files as under torchrun."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from scripts import kill_test
from tests.launch_case import assert_same_run, drop_newest_state, launch
from tests.tiny_world import make_world, pretrain_options

STEPS = {"num_train_steps": 8, "valid_steps": 4, "log_steps": 1, "precision": "fp64", "train_batch_size": 80}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("tiny"))


def finetuning(world: Path, output: Path, weights: Path, accumulation: int) -> list[str | Path]:
    flags = {
        "data_root": world,
        "output_dir": output,
        "model_config": world / "model.json",
        "checkpoint": weights,
        "train_txt_dbs": "txt_db/vqa.db",
        "train_img_dbs": "img_db/tiny",
        "val_txt_db": "txt_db/vqa.db",
        "val_img_db": "img_db/tiny",
        "min_bb": 2,
        "train_batch_size": 80,
        "batching": "full",
        "accumulation": "mean",
        "gradient_accumulation_steps": accumulation,
        "num_train_steps": 4,
        "valid_steps": 2,
        "log_steps": 1,
        "precision": "fp64",
        "n_workers": 0,
    }
    return [part for name, value in flags.items() for part in (f"--{name}", str(value))]


def run_all(world: Path, folder: Path, launcher: str, *flags: str, accumulation: int = 1) -> Path:
    """Pre-train, take the last save away and resume, finetune, predict; returns the folder of the outputs."""
    pretrained, finetuned = folder / "pretrained", folder / "finetuned"
    options = pretrain_options(world, pretrained, gradient_accumulation_steps=accumulation, **STEPS)
    launch(launcher, "pretrain.py", "--config", options, *flags)
    before = kill_test.newest(pretrained, "model_step")
    drop_newest_state(pretrained)
    launch(launcher, "pretrain.py", "--config", options, "--resume", *flags)
    assert kill_test.difference(before, kill_test.newest(pretrained, "model_step"), "") is None
    weights = pretrained / "ckpt" / "model_step_8.pt"
    launch(launcher, "train_vqa.py", *finetuning(world, finetuned, weights, accumulation), *flags)
    stores = ["--txt_db", world / "txt_db/vqa.db", "--img_db", world / "img_db/tiny", "--output_dir", finetuned]
    precise = ["--precision", "fp64", "--n_workers", "0", "--save_logits"]
    launch(launcher, "inf_vqa.py", *stores, "--checkpoint", "4", *precise, *flags)
    return folder


@pytest.fixture(scope="module")
def by_torchrun(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_all(world, tmp_path_factory.mktemp("torchrun"), "torchrun")


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher, flags",
    [
        ("horovodrun", ()),
        ("horovodrun", ("--backend", "torch")),
        ("mpirun of Open MPI", ()),
        ("mpirun of Open MPI", ("--backend", "horovod")),
        ("mpiexec of MPICH", ()),
    ],
    ids=["horovodrun", "horovodrun-torch", "openmpi", "openmpi-horovod", "mpich"],
)
def test_two_ranks_end_bit_for_bit_as_under_torchrun(
    world: Path, tmp_path: Path, launcher: str, flags: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    """Two numbers have one sum, in whatever order they are added: so the backends agree."""
    if launcher == "horovodrun" or "horovod" in flags:
        check_horovod(launcher)
    else:
        launch(launcher, "-c", "")  # skips the test where there is no such launcher
    ours = run_all(world, tmp_path, launcher, *flags)
    by_torchrun = request.getfixturevalue("by_torchrun")
    for name in ("pretrained", "finetuned"):
        assert kill_test.compare(by_torchrun / name, ours / name) is None
    for name in ("results_4_all.json", "logits_4_all.npz"):
        assert result(by_torchrun, name) == result(ours, name)


def check_horovod(launcher: str) -> None:
    """Skip where Horovod is not installed, or has no MPI for mpirun."""
    hvd = pytest.importorskip("horovod.torch", reason="Horovod is not installed: scripts/install_horovod.sh")
    if launcher != "horovodrun" and not hvd.mpi_built():
        pytest.skip("Horovod was built without MPI")
    launch(launcher, "-c", "")


def result(folder: Path, name: str) -> bytes:
    return (folder / "finetuned" / "results_test" / name).read_bytes()


@pytest.mark.slow
def test_a_batch_shell_is_one_process_and_ends_as_two_ranks_do(world: Path, tmp_path: Path, by_torchrun: Path) -> None:
    """A shell of `sbatch` says SLURM_NTASKS=8. One rank takes two micro-batches a step in place of two ranks."""
    ours = run_all(world, tmp_path, "batch shell", accumulation=2)
    assert_same_run(by_torchrun / "pretrained", ours / "pretrained", 1e-9)
    assert_same_run(by_torchrun / "finetuned", ours / "finetuned", 1e-9)
    assert result(by_torchrun, "results_4_all.json") == result(ours, "results_4_all.json")
    one, two = (np.load(folder / "finetuned/results_test/logits_4_all.npz") for folder in (ours, by_torchrun))
    assert all(np.array_equal(one[key], two[key]) for key in one.files)


@pytest.mark.slow
def test_two_runs_of_mpirun_at_once_do_not_meet() -> None:
    """Each has a port of its own, from the number that mpirun gives it."""
    script = (
        "from utils import distributed as d; w = d.start('cpu'); print(w.origin, w.gather_objects(w.rank)); d.stop()"
    )
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda _: launch("mpirun of Open MPI", "-c", script).stdout, range(2)))
    assert all(run.count("[0, 1]") == 2 for run in runs)
    points = {word for run in runs for word in run.split() if word.startswith("127.0.0.1:")}
    assert len(points) == 2


@pytest.mark.slow
def test_horovod_under_another_launcher_is_refused_with_what_to_do(world: Path, tmp_path: Path) -> None:
    options = pretrain_options(world, tmp_path / "refused", **STEPS)
    done = launch("torchrun", "pretrain.py", "--config", options, "--backend", "horovod", check=False)
    assert done.returncode != 0 and not (tmp_path / "refused" / "ckpt").exists()
    assert "error: Horovod cannot be imported" in done.stderr or "torchrun has started this process" in done.stderr
    assert "--backend" in done.stderr and "remedy" in done.stderr
