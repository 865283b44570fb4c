"""The device check on a CPU, where it is reduced: every phase, its files, and what ends a phase."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts import device_check
from scripts.device_phases.setting import PhaseFailure, Setting
from tests.tiny_world import ROOT


def run(output: Path, *flags: str) -> tuple[int, list[dict]]:
    command = [sys.executable, "-m", "scripts.device_check", "--output", str(output), "--device", "cpu", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1300)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_phase_passes(tmp_path):
    status, lines = run(tmp_path / "check", "--limit", "20")
    assert [line["phase"] for line in lines] == list(device_check.PHASES)
    assert status == 0 and {line["status"] for line in lines} == {"passed"}, lines
    results = {line["phase"]: line["results"] for line in lines}
    assert results["versions"]["torch"] == torch.__version__
    assert int(results["goldens"]["bf16"].split()[0]) > 50 and "failed" not in results["goldens"]["bf16"]
    assert results["base"]["units_per_s"] > 0 and len(results["base"]["kernels"]) == 20
    assert results["kill_and_resume"]["killed_alive"] and results["kill_and_resume"]["resumed"] == "identical"
    losses = results["short_runs"]["pretrain_bf16_cpu"]
    assert losses["last_loss"] < losses["first_loss"]
    assert (tmp_path / "check" / "table.md").read_text().count("\n| ") == len(lines)


def test_a_phase_that_fails_crashes_or_hangs_ends_alone(tmp_path, monkeypatch):
    """Each kind of end is a line of the results, and the phases after it run."""
    setting = Setting(device=torch.device("cpu"), folder=tmp_path)

    def measures_wrong(setting):
        raise PhaseFailure("2 is not 3", {"two": 2})

    def breaks(setting):
        return {}["no such key"]

    monkeypatch.setitem(device_check.PHASES, "wrong", (measures_wrong, 9))
    monkeypatch.setitem(device_check.PHASES, "broken", (breaks, 9))
    assert device_check.run_phase("wrong", setting) == {
        "status": "failed",
        "problem": "2 is not 3",
        "results": {"two": 2},
    }
    assert device_check.run_phase("broken", setting)["problem"] == "KeyError: 'no such key'"
    # Starting Python and torch alone takes longer than this.
    monkeypatch.setitem(device_check.PHASES, "versions", (device_check.PHASES["versions"][0], 0))
    lines = device_check.check(setting, ["versions", "loss_scaling"], limit=60)
    assert len(lines) == 1  # without them nothing works
    (tmp_path / "results.jsonl").unlink()
    monkeypatch.setitem(device_check.PHASES, "prefetch", (device_check.PHASES["prefetch"][0], 0))
    lines = device_check.check(setting, ["prefetch", "loss_scaling"], limit=100)
    assert lines[0]["status"] == "failed" and "limit" in lines[0]["problem"]
    assert lines[1]["status"] == "passed"
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
    assert device_check.check(setting, ["versions"], limit=4)[0]["problem"] == "no time was left"


def test_unknown_phases_and_used_folders_are_refused(tmp_path):
    for flags, named in ((["--phases", "nothing"], "nothing"), ([], "not empty")):
        (tmp_path / "file").touch()
        with pytest.raises(device_check.InputError, match=named):
            device_check.main(["--output", str(tmp_path), "--device", "cpu", *flags])
