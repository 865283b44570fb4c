"""A script names a missing option before it starts to work."""

from pathlib import Path
from typing import Any

import pytest

import prepro
from scripts import check, demo, ensemble, kill_test
from utils.errors import InputError


def no_work(*_: Any, **__: Any) -> None:
    pytest.fail("the work started")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"--run is missing[\s\S]*key: +--run\n[\s\S]*remedy: .*--run config/"),
        (["--run", "config/none.json"], r"does not exist[\s\S]*none\.json[\s\S]*key: +--run\n"),
        (["--run", "config/demo-vqa.json", "--script", "train.py"], r"does not exist[\s\S]*key: +--script\n"),
    ],
)
def test_kill_test_names_what_it_needs(monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str) -> None:
    monkeypatch.setattr(kill_test, "start", no_work)
    with pytest.raises(InputError, match=message):
        kill_test.main(flags)


def test_kill_test_tells_of_a_first_run_that_fails(tmp_path: Path) -> None:
    """If the first run, which is not killed, fails, the error names its command and no run is killed."""
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "script.py").write_text("raise SystemExit(3)")
    flags = ["--run", f"{tmp_path}/bad.json", "--script", f"{tmp_path}/script.py", "--folder", f"{tmp_path}/runs"]
    with pytest.raises(InputError, match=r"run failed[\s\S]*never_killed[\s\S]*status 3[\s\S]*--config .*bad\.json"):
        kill_test.main(flags)


def test_the_table_of_the_demo_needs_all_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "DemoRunner", no_work)
    with pytest.raises(InputError, match=r"--table needs --all[\s\S]*remedy: +add --all"):
        demo.main(["--output", str(tmp_path), "--table"])


def test_check_needs_a_store() -> None:
    with pytest.raises(InputError, match=r"key: +--txt_db, --img_db\n[\s\S]*remedy"):
        check.main([])


def test_ensemble_counts_the_annotation_files_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "open_run", no_work)
    command = ["--task", "re", "--logits", "a.npz", "--output", "o.json", "--annotations", "refs.json"]
    with pytest.raises(InputError, match=r"number of annotation files for re[\s\S]*found: +1\n[\s\S]*0 or 2"):
        ensemble.main(command)


def test_prepro_re_asks_for_the_order_of_boxes_before_it_reads(tmp_path: Path) -> None:
    files = ["--refs", "refs(none).p", "--instances", "none.json", "--vocab", "none", "--split", "val"]
    with pytest.raises(InputError, match=r"key: +--iid_to_ann_ids\n[\s\S]*remedy"):
        prepro.main(["re", *files, "--output", str(tmp_path / "re.db")])
