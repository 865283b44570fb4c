"""Scripts run by their path and shipped configs are found, from any working directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import train_ve
from scripts import evaluate
from tests.test_house import PRODUCT, TEXTS
from utils import config
from utils.paths import CHECKOUT, find_file

PLAIN = ("scripts/convert_imgdir.py", "scripts/eval_nlvr2.py")  # import nothing of the project


def test_every_script_that_is_a_module_starts_again_as_one() -> None:
    scripts = [name for name in PRODUCT if name.startswith(("scripts/", "examples/nlvr1/"))]
    mains = [name for name in scripts if '\nif __name__ == "__main__":\n' in TEXTS[name] and name not in PLAIN]
    assert len(mains) > 10
    assert [name for name in mains if "by_path.py" not in TEXTS[name].split("\nimport argparse")[0][:2500]] == []


@pytest.mark.parametrize("script", ["scripts/evaluate.py", "scripts/demo_world/make_demo_data.py"])
def test_a_script_runs_by_its_path_elsewhere(tmp_path: Path, script: str) -> None:
    """A folder of the user's own that has the name of a room does not get into the way."""
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "__init__.py").write_text("raise SystemExit('the wrong utils')")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / script), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stdout.lower().startswith("usage"), done.stderr
    assert not list(tmp_path.glob("*.pyc")) and evaluate.__doc__


def test_shipped_configs_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options, notes = config.parse(train_ve.VeConfig, ["--config", "config/demo-ve.json", "--output_dir", "config/out"])
    assert options.model_config == str(CHECKOUT / "config/demo-model.json") and options.output_dir == "config/out"
    assert (
        f"--config: config/demo-ve.json is not in the working directory; {CHECKOUT / 'config/demo-ve.json'} is used"
        in notes
    )
    assert any(note.startswith("model_config: config/demo-model.json is not in the working") for note in notes)


def test_the_working_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "demo-ve.json").write_text(json.dumps({"seed": 7}))
    notes: list[str] = []
    assert find_file("config/demo-ve.json", "--config", notes) == "config/demo-ve.json" and notes == []
    assert find_file("config", "output_dir", notes) == "config" and find_file("docs", "output_dir", notes) == "docs"


@pytest.mark.parametrize("script", ["scripts/evaluate.py", "scripts/check.py", "train_vqa.py"])
def test_help_is_printed_where_the_locale_has_few_letters(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / script), "--help"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr
