"""What a run writes for people: log lines, metrics, TensorBoard events, its options."""

import dataclasses
import json
import logging
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from utils import log
from utils.run_config import RunConfig


@pytest.fixture(autouse=True)
def no_earlier_run() -> None:
    """Drop what an earlier test logged: a failed run in this process leaves its lines to the next."""
    for handler in list(logging.getLogger("uniter").handlers):
        logging.getLogger("uniter").removeHandler(handler)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log" / "metrics.jsonl").read_text().splitlines()]


def test_log_goes_to_file_and_stderr_and_is_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("first run", "resumed ü"):
        log.open_log(tmp_path).info(text)
    lines = (tmp_path / "log" / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("INFO ")[1] for line in lines] == ["first run", "resumed ü"]
    assert capsys.readouterr().err.count("first run") == 1


def test_what_is_logged_before_the_file_is_opened_is_in_it(tmp_path: Path) -> None:
    for _ in range(2):  # the first run fails before it opens its file: nothing of it is left
        log.open_log(None).info("a note")
    assert not list(tmp_path.iterdir())
    log.open_log(tmp_path).info("step 1")
    lines = (tmp_path / "log" / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("INFO ")[1] for line in lines] == ["a note", "step 1"]


def test_other_ranks_have_their_own_file_and_warn_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = log.open_log(tmp_path, rank=3)
    logger.info("missing key a")
    logger.warning("odd")
    lines = (tmp_path / "log" / "log_rank3.txt").read_text().splitlines()
    assert "[rank 3] missing key a" in lines[0] and len(lines) == 2
    error = capsys.readouterr().err
    assert "missing key" not in error and "[rank 3] odd" in error
    assert not (tmp_path / "log" / "log.txt").exists()


def test_metrics_are_written_and_cut_back_on_resume(tmp_path: Path) -> None:
    metrics = log.Metrics(tmp_path)
    for step in (100, 200, 300):
        metrics.write({"step": step, "loss": 1.0 / step, "task": "mlm"})
    metrics.close()
    with open(tmp_path / "log" / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 150, "lo')  # killed here
    resumed = log.Metrics(tmp_path, resume_step=200)
    assert [record["step"] for record in records(tmp_path)] == [100, 200]
    resumed.write({"step": 300, "loss": float("nan"), "lr": 1e-5})
    resumed.close()
    assert records(tmp_path) == [
        {"step": 100, "loss": 0.01, "task": "mlm"},
        {"step": 200, "loss": 0.005, "task": "mlm"},
        {"step": 300, "loss": None, "lr": 1e-5},
    ]
    assert sorted(p.name for p in (tmp_path / "log").iterdir() if "tfevents" not in p.name) == ["metrics.jsonl"]


def test_tensorboard_has_the_scalars_and_forgets_what_was_cut(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = log.Metrics(tmp_path)
    for step, loss in ((100, 3.0), (200, 2.0), (300, 9.0)):
        first.write({"step": step, "train/loss": loss, "task": "itm"})
    first.close()
    time.sleep(1.1)  # event files go by the second, then by a counter that sorts as text: 10 comes before 9
    second = log.Metrics(tmp_path, resume_step=200)
    second.write({"step": 300, "train/loss": 1.0})
    second.close()
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(100, 3.0), (200, 2.0), (300, 1.0)]


def test_other_ranks_write_no_metrics(tmp_path: Path) -> None:
    metrics = log.Metrics(tmp_path, rank=1)
    metrics.write({"step": 1, "loss": 2.0})
    metrics.close()
    assert not list(tmp_path.iterdir())


def test_progress_says_rates_and_time_left() -> None:
    progress = log.Progress(total=6000, start=500)
    progress.advance()
    line = progress.show(1500, loss=3.14159, seconds_per_step=0.5, units=10240.4, examples=93.26)
    progress.close()
    assert line == "step 1500/6000 (25.0%), loss 3.142, 10,240 units/s, 93.3 examples/s, 0:37:30 left"


def test_run_files_are_written_and_changes_named(tmp_path: Path) -> None:
    config = RunConfig(output_dir=str(tmp_path), model_config="m.json")
    assert log.write_run_files(tmp_path, config, {"hidden_size": 8}) == []
    hps = json.loads((tmp_path / "log" / "hps.json").read_text())
    assert hps["betas"] == [0.9, 0.98] and set(hps) == {f.name for f in dataclasses.fields(RunConfig)}
    assert json.loads((tmp_path / "log" / "model.json").read_text()) == {"hidden_size": 8}
    assert isinstance(json.loads((tmp_path / "log" / "git_info.json").read_text()), dict)
    changed = dataclasses.replace(config, resume=True, learning_rate=1e-4)
    assert log.write_run_files(tmp_path, changed, {}) == ["the option learning_rate was 3e-05 and is now 0.0001"]


def test_git_info_is_best_effort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert log.git_info(tmp_path) == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q", "-b", "trunk"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    info = log.git_info(tmp_path)
    assert info["branch"] == "trunk" and len(info["sha"]) == 40 and info["is_dirty"] is False
    (tmp_path / "new.txt").write_text("")
    assert log.git_info(tmp_path)["changed"] == ["?? new.txt"]
    (tmp_path / "sub").mkdir()
    assert log.git_info(tmp_path / "sub") == {}  # a folder inside somebody else's repository
    monkeypatch.setenv("PATH", "")
    assert log.git_info(tmp_path) == {}


@pytest.fixture(autouse=True)
def _close_log() -> Any:
    yield
    for handler in list(logging.getLogger("uniter").handlers):
        logging.getLogger("uniter").removeHandler(handler)
        handler.close()
