"""Predictions on several ranks, as real processes: the files and scores of one, bounded memory, and one rank's errors.

Run as a module with a scene's name, this file is the worker of that scene.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.sampler import BatchPlan
from optim import gather, predict
from optim.precision import Precision
from tests.test_tasks import MORE, SCRIPTS, TASKS, inference
from tests.tiny_tasks import make_tasks, options
from tests.tiny_world import ROOT
from utils import distributed

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
HOROVODRUN = ("-m", "horovod.runner.launch", "-np")
LAUNCHERS = {"torchrun-2": (*TORCHRUN, "2"), "torchrun-3": (*TORCHRUN, "3")}
LAUNCHERS["horovodrun-2"] = (*HOROVODRUN, "2", sys.executable)
BATCHES = {  # flags that make several batches of so few examples
    "re": ["--batch_size", "3"],
    "vcr": ["--batch_size", "4"],
    "itm": ["--checkpoint", "best", "--batch_units", "400", "--batch_size", "5", "--chunk_texts", "25"],
}
ROW = 2**16  # numbers in a prediction of the scene `memory`: 0.5 MiB


# Every task: what one process writes and scores


def run_tasks(world: Path, runs: Path) -> dict[str, dict[str, float]]:
    """Write the predictions of every task with the runs in `runs`; returns the scores of the training scripts."""
    scores = {}
    for name, (train, infer) in SCRIPTS.items():
        flags, _ = inference(name, world, runs / name)
        flags += BATCHES.get(name, ["--batch_size", "100"])
        if name == "re":
            flags += ["--tmp_file", str(runs / name / "results_test" / "accuracies")]
        infer.main([*flags, "--save_logits"])
        (weights,) = (runs / name / "ckpt").glob("model_*_best.pt")
        config = ["--config", str(world / f"{name}.json"), "--output_dir", str(runs / name)]
        scores[name] = train.main([*config, "--eval_only", "--checkpoint", str(weights)])
    return scores


def written(runs: Path) -> dict[str, bytes]:
    """The files of `run_tasks` by name, without the options, which name folders."""
    paths = [path for path in sorted(runs.glob("*/results*/**/*")) if path.is_file() and path.name != "config.json"]
    return {str(path.relative_to(runs)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def one_process(world):
    """A run of two steps of every task; what one process then writes and scores."""
    for name, changes in (TASKS | MORE).items():
        short = {"num_train_steps": 2, "valid_steps": 0 if name == "re" else 2}
        SCRIPTS[name][0].main(["--config", str(options(world, world / name, **changes | short))])
    shutil.copytree(world, world / "one", ignore=lambda folder, names: {*names} - keep(Path(folder), world, names))
    scores = run_tasks(world, world / "one")
    return written(world / "one"), scores


def keep(folder: Path, world: Path, names: list[str]) -> set[str]:
    """The parts of the runs of every task that inference needs."""
    return {*SCRIPTS} if folder == world else {"log", "ckpt"} if folder.parent == world else {*names}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_task_writes_and_scores_the_same_on_any_number_of_ranks(world, one_process, launcher):
    if launcher.startswith("horovod") and importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed")
    runs = world / launcher
    shutil.copytree(world, runs, ignore=lambda folder, names: {*names} - keep(Path(folder), world, names))
    command = [sys.executable, *LAUNCHERS[launcher], "-m", "tests.test_optim_predict", "tasks", str(world), str(runs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    files, scores = one_process
    assert len(files) == 14 and files.keys() == written(runs).keys()
    assert [name for name, content in written(runs).items() if content != files[name]] == []
    for rank in range(int(launcher[-1])):
        assert json.loads((runs / f"scores_{rank}.json").read_text()) == scores


def worker_tasks(world_folder: str, runs: str) -> None:
    """On 3 ranks with chunks and rounds so small that there are many of them."""
    world = distributed.start()
    distributed.start = lambda device=None, backend=None: world
    if world.size == 3:
        gather.ROUND, gather.CHUNK_BYTES = 1, 1000
    scores = run_tasks(Path(world_folder), Path(runs))
    (Path(runs) / f"scores_{world.rank}.json").write_text(json.dumps(scores))


# A task of numbers, on two processes that no launcher ends


def start_two(scene: str, *arguments: str, **variables: str) -> list[subprocess.Popen[str]]:
    """Two ranks without a launcher, which would end one when the other fails."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    shared = {**os.environ, **variables, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "tests.test_optim_predict", scene, *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    ranks = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    return [subprocess.Popen(command, env=environment, **pipes) for environment in ranks]


class Numbers:
    """A dataset of `n` numbers, each a batch."""

    task, batch_unit, img_dim, has_labels = "numbers", "examples", 1, True

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def id(self, i: int) -> str:
        return str(i)

    def pairs(self, draws: np.ndarray) -> np.ndarray:
        return np.zeros((len(draws), 1), np.int32)


def plans_alone(builder: Any, plans: list[BatchPlan], n_workers: int, pin_mem: bool) -> Generator[Any]:
    """Instead of `load_batches`: a plan is its batch."""
    for plan in plans:
        yield plan, plan


def number_predictor(world: distributed.World, width: int, score: Any) -> predict.Predictor:
    """It predicts, for each number, a row of it."""
    predict.load_batches = plans_alone

    def rows(model: Any, plan: BatchPlan) -> dict[str, np.ndarray]:
        return {"rows": np.repeat(plan.indices.astype(float)[:, None], width, 1)}

    task: Any = SimpleNamespace(predict=rows, score=score)
    precision = Precision("fp32", False, world.device)
    model = torch.nn.Linear(1, 1)
    options = {"precision": precision, "n_workers": 0, "pin_mem": False}
    return predict.Predictor(task, model, batch_size=1, world=world, **options)


def peak_memory() -> float:
    """The peak of this process's memory, in MiB. `ru_maxrss` may be that of the process which started this one."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def worker_memory(output: str) -> None:
    """The growth of the peak of this process's memory from a split of 64 MiB to one of 256 MiB."""
    world = distributed.start("cpu")
    predictor = number_predictor(world, ROW, None)
    peaks = []
    for n in (128, 512):
        predictions = predictor.predict(Numbers(n))
        peaks.append(peak_memory())
        first_column = predictions["rows"][:, 0].tolist() if world.is_main else []
        assert first_column == list(range(n if world.is_main else 0)) and bool(predictions) == world.is_main
        del predictions
    (Path(output) / f"{world.rank}.json").write_text(json.dumps(peaks[1] - peaks[0]))
    everywhere = predictor.predict(Numbers(40), everywhere=True)
    assert everywhere["rows"][:, -1].tolist() == list(range(40))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's peak memory")
def test_the_memory_of_rank_1_does_not_grow_with_the_split(tmp_path):
    returned_at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}  # to the system, when it is freed
    ranks = start_two("memory", str(tmp_path), **returned_at_once)
    ends = [(rank.communicate(timeout=600), rank.returncode) for rank in ranks]
    assert [status for _, status in ends] == [0, 0], ends
    growth = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert growth[0] > 192  # MiB, what is added: rank 0 has it
    assert growth[1] < 16  # the half of it that rank 1 computes would be 96


def fail(predictions: dict[str, np.ndarray], dataset: Any) -> dict[str, float]:
    raise ValueError(f"no label for number {len(predictions['rows'])}")


def worker_failure() -> None:
    world = distributed.start("cpu")
    number_predictor(world, 3, lambda predictions, dataset: {}).evaluate({"val": Numbers(5)})
    nan = number_predictor(world, 3, fail)
    nan.task.predict = lambda model, plan: {"rows": np.full((1, 2), np.nan)}
    nan.evaluate({"val": Numbers(5)})


@pytest.mark.slow
def test_an_error_of_rank_0_while_scoring_ends_both_ranks():
    ends = [(rank.communicate(timeout=300)[1], rank.returncode) for rank in start_two("failure")]
    (said_0, status_0), (said_1, status_1) = ends
    assert status_0 == 1 and "[rank 0] ValueError: no label for number 5" in said_0
    assert status_1 == 2 and "[rank 1] error: rank 0 could not compute the scores of val" in said_1
    assert "ValueError: no label for number 5" in said_1
    nan = "val: 5 of 5 predictions (rows) are NaN"  # a warning of rank 0 alone
    assert (said_0.count(nan), said_1.count(nan)) == (1, 0)


if __name__ == "__main__":
    distributed.launch(globals()[f"worker_{sys.argv[1]}"], *sys.argv[2:])
