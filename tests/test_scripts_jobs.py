"""Long jobs: they go on where they were stopped, respect a living run, notice dead workers, and leave no orphans."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from scripts import describe_regions, import_features
from tests.test_scripts_import import line, picture
from tests.tiny_world import ROOT
from utils.errors import InputError
from utils.job_folder import Job


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def pictures(tmp_path):
    """Nine small pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(9):
        Image.new("RGB", (8, 8), (28 * k, 0, 0)).save(folder / f"{k}.png")
    return folder


def describe(pictures, output, *flags):
    describe_regions.main(["--images", str(pictures), "--output", str(output), "--nproc", "1", *flags])


def import_(tmp_path, output, *flags):
    tsv = tmp_path / "features.tsv"
    tsv.write_text("".join(line(picture(seed)) for seed in range(6)))
    import_features.main(["--tsv", str(tsv), "--output", str(output), *flags])


def stop_after(monkeypatch, n):
    """Let a job be interrupted when `n` of its files are done."""
    finish = Job.finish

    def interrupted(self, name, note):
        if len(self.done) == n:
            raise KeyboardInterrupt
        finish(self, name, note)

    monkeypatch.setattr(Job, "finish", interrupted)


@pytest.mark.parametrize("command", ["describe_regions", "import_features"])
def test_a_stopped_job_goes_on_and_ends_as_one_never_stopped(tmp_path, pictures, monkeypatch, capsys, command):
    def run(output):
        describe(pictures, output) if command == "describe_regions" else import_(tmp_path, output)

    run(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 3)
        run(tmp_path / "npz")
    hidden = tmp_path / ".npz.partial"
    assert not (tmp_path / "npz").exists() and hidden.is_dir()
    with open(hidden / "done.jsonl", "a") as journal:
        journal.write('["cut')  # the last line, as a kill leaves it
    before = {path.name: path.stat().st_mtime_ns for path in (hidden / "files").glob("*.npz")}
    run(tmp_path / "npz")
    assert "3 are done" in capsys.readouterr().out
    assert contents(tmp_path / "npz") == contents(tmp_path / "whole") and not hidden.exists()
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "npz").glob("*.npz")}
    assert sum(before.get(name) == time for name, time in after.items()) >= 3


def test_a_changed_picture_is_described_again_and_a_removed_one_is_forgotten(tmp_path, pictures, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 5)
        describe(pictures, tmp_path / "npz")
    Image.new("RGB", (8, 8), (0, 255, 0)).save(pictures / "0.png")
    (pictures / "1.png").unlink()
    describe(pictures, tmp_path / "npz")
    describe(pictures, tmp_path / "whole")
    assert contents(tmp_path / "npz") == contents(tmp_path / "whole")


def test_a_job_with_other_options_starts_afresh(tmp_path, pictures, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 5)
        describe(pictures, tmp_path / "npz")
    boxes = {"images": [{"id": k, "file_name": f"{k}.png"} for k in range(9)], "categories": [{"id": 1}]}
    boxes["annotations"] = [{"image_id": k, "category_id": 1, "bbox": [1, 1, 5, 5]} for k in range(9)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    describe(pictures, tmp_path / "npz", "--boxes", str(tmp_path / "boxes.json"))
    assert "other options" in capsys.readouterr().out
    assert all(len(np.load(path)["conf"]) == 1 for path in (tmp_path / "npz").glob("*.npz"))


def test_bad_pictures_are_left_out_and_listed(tmp_path, pictures, capsys):
    (pictures / "3.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (pictures / "5.jpg").write_bytes((pictures / "5.png").read_bytes())
    with pytest.raises(InputError, match=r"same file name[\s\S]*5\.png[\s\S]*--skip_bad"):
        describe(pictures, tmp_path / "npz")
    describe(pictures, tmp_path / "npz", "--skip_bad")
    assert len(list((tmp_path / "npz").glob("*.npz"))) == 8
    rows = [json.loads(text) for text in (tmp_path / "npz.left_out.jsonl").read_text().splitlines()]
    assert {os.path.basename(row["item"]) for row in rows} == {"3.png", "5.png"}
    assert "2 bad items left out" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (3, 300)])
def test_a_picture_of_few_pixels_gets_its_grid(tmp_path, size):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", size, "red").save(tmp_path / "pictures" / "a.png")
    describe(tmp_path / "pictures", tmp_path / "npz")
    record = np.load(tmp_path / "npz" / "a.npz")
    assert record["features"].shape == (36, 2048) and np.isfinite(record["features"]).all()
    assert record["norm_bb"].min() == 0 and record["norm_bb"].max() == 1


def kill_myself(picture, *args):
    if picture.file.name == "4.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return InputError("not reached")


def test_a_killed_worker_is_named_and_the_next_run_goes_on(tmp_path, pictures, monkeypatch):
    real = describe_regions.describe_picture

    def describe_picture(picture, *args):
        return real(picture, *args) if picture.file.name != "4.png" else kill_myself(picture)

    with monkeypatch.context() as patch:
        patch.setattr(describe_regions, "describe_picture", describe_picture)
        with pytest.raises(InputError, match=r"a worker process died[\s\S]*SIGKILL[\s\S]*--nproc"):
            describe(pictures, tmp_path / "npz")
    describe(pictures, tmp_path / "npz")
    describe(pictures, tmp_path / "whole")
    assert contents(tmp_path / "npz") == contents(tmp_path / "whole")


def test_a_living_run_is_respected(tmp_path, pictures):
    code = (
        "import sys; from pathlib import Path; from utils.locks import lock_file; lock = lock_file(Path(sys.argv[1]))"
    )
    (tmp_path / ".npz.partial").mkdir()
    command = [sys.executable, "-c", f"{code}; print(flush=True); input()", tmp_path / ".npz.partial" / "lock"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match="another process is writing this output"):
            describe(pictures, tmp_path / "npz")
        other.kill()
    describe(pictures, tmp_path / "npz")  # the lock ended with its process


WORKERS = """
import os, signal, sys, time
from utils.workers import map_in_workers

def work(item):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)

list(map_in_workers(work, range(12), n_workers=3, name=str))
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(end):
    with subprocess.Popen([sys.executable, "-c", WORKERS], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(3)]
        parent.send_signal(end)
        parent.wait(10)
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{worker}") for worker in workers):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)


def test_the_screen_says_what_a_stopped_worker_makes_it_wait_for():
    code = WORKERS.replace("list(", "from utils import workers; workers.PATIENCE = 0.3\nlist(")
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        waiting = next(text for text in parent.stdout if text.startswith("waiting"))
        assert waiting.startswith("waiting for 0 or one of the 3 after it in process ")
        parent.kill()
