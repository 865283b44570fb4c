"""Outputs of the scoring scripts: never an input, never another run's file, and nothing lost where scoring fails."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.submission import write_logits_npz, write_retrieval
from scripts import ensemble, eval_nlvr2, eval_vqa, evaluate
from utils.errors import InputError
from utils.output_files import check_outputs, moved_together

ROOT = Path(__file__).parents[1]
BUFFERED = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"} | {"PYTHONPATH": str(ROOT)}
VE = {"pairID": "a", "gold_label": "entailment", "Flickr30K_ID": "1", "sentence2": "A dog."}


def refused(message: str, script: Any, *arguments: object) -> None:
    with pytest.raises(InputError, match=message):
        script.main([str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Results, annotations and logits of visual entailment, VCR and VQA in one folder."""
    write_logits_npz(tmp_path / "ve.npz", ["a"], np.eye(3)[:1], np.float32)
    write_logits_npz(tmp_path / "vcr.npz", ["val-0"], np.zeros((1, 20)), np.float32)
    (tmp_path / "r.json").write_text('[{"id": "a", "label": "entailment"}]')
    (tmp_path / "a.jsonl").write_text(json.dumps(VE))
    (tmp_path / "other.jsonl").write_text(json.dumps(VE | {"pairID": "b"}))
    (tmp_path / "vcr.jsonl").write_text('{"annot_id": "val-1", "answer_label": 0, "rationale_label": 0}')
    (tmp_path / "vqa.json").write_text('[{"question_id": 1, "answer": "yes"}]')
    answers = {"annotations": [{"question_id": 1, "answers": [{"answer": "yes"}] * 10}]}
    (tmp_path / "gold.json").write_text(json.dumps(answers))
    return tmp_path


def test_an_ensemble_that_cannot_be_scored_leaves_old_results(files: Path) -> None:
    for name in ("old.json", "old.csv"):
        (files / name).write_text("good")
    before = contents(files)
    for task, annotations, message in (
        ("ve", "none.jsonl", r"not found[\s\S]*none\.jsonl"),
        ("ve", "other.jsonl", r"unknown pair ids[\s\S]*old\.json\n"),
        ("vcr", "vcr.jsonl", r"unknown question ids[\s\S]*old\.json\n"),
    ):
        options = ["--task", task, "--logits", files / f"{task}.npz", "--annotations", files / annotations]
        refused(message, ensemble, *options, "--output", files / "old.json")
        refused(message.replace("old", "new"), ensemble, *options, "--output", files / "sub" / "new.json")
        assert contents(files) == before and not (files / "sub").exists()


def test_an_output_that_is_an_input_is_refused(files: Path) -> None:
    (files / "link.json").symlink_to(files / "r.json")
    before = contents(files)
    replaced = "the output would replace"
    for output in ("r.json", "a.jsonl", "./link.json", "sub/../r.json"):
        refused(replaced, evaluate, "ve", files / "r.json", files / "a.jsonl", "--json", f"{files}/{output}")
    for output in ("vqa.json", "gold.json"):
        refused(replaced, eval_vqa, files / "vqa.json", files / "gold.json", "--json", files / output)
    options = ["--task", "ve", "--logits", files / "ve.npz", "--annotations", files / "a.jsonl"]
    for output in ("ve.npz", "a.jsonl"):
        refused(rf"{replaced}[\s\S]*{output}[\s\S]*the input", ensemble, *options, "--output", files / output)
    (files / "run.json").write_text(json.dumps({"val-0": [0.0] * 20}))
    before |= contents(files)
    refused(replaced, ensemble, "--task", "vcr", "--logits", files / "run.json", "--output", files / "run.csv")
    assert contents(files) == before


def test_an_ensemble_for_vcr_writes_the_files_that_its_output_names(files: Path) -> None:
    options = ["--task", "vcr", "--logits", files / "vcr.npz", "--output"]
    before = contents(files)
    for output in ("x", "", "x.txt", "x.json.gz", "/dev/full"):
        refused(r"no name for vcr[\s\S]*--output[\s\S]*\.json or \.csv", ensemble, *options, files / output)
    assert contents(files) == before
    ensemble.main([str(option) for option in [*options, files / "x.y.csv"]])
    assert contents(files).keys() - before.keys() == {str(files / "x.y.csv"), str(files / "x.y.json")}


def test_scores_of_another_retrieval_run_stay(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_retrieval(run / "results.npz", np.eye(2), ["0", "1"], ["x", "y"])
    (run / "scores.json").write_text("{}")
    (tmp_path / "txt2img.json").write_text('{"0": "x", "1": "y"}')
    options = ["--task", "itm", "--logits", run / "results.npz", "--annotations", tmp_path / "txt2img.json", "--output"]
    before = contents(tmp_path)
    refused(r"scores would replace[\s\S]*run/scores\.json", ensemble, *options, run / "mean.npz")
    refused(r"would replace[\s\S]*scores\.json", ensemble, *options, tmp_path / "scores.json")
    assert contents(tmp_path) == before
    for _ in range(2):  # its own scores may be replaced
        ensemble.main([str(option) for option in [*options, tmp_path / "sub" / "mean.npz"]])
    assert json.loads((tmp_path / "sub" / "scores.json").read_text())["r_mean"] == 1.0


def test_files_are_moved_together(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(InputError, match=f"broken: {tmp_path}/a$"), moved_together(tmp_path) as hidden:
        (hidden / "a").write_text("new")
        raise InputError(f"broken: {hidden / 'a'}")
    assert contents(tmp_path) == {str(tmp_path / "a"): b"old"} and [path.name for path in tmp_path.iterdir()] == ["a"]
    with moved_together(tmp_path / "new" / "folder") as hidden:
        (hidden / "a").write_text("new")
    assert (tmp_path / "new" / "folder" / "a").read_text() == "new" and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(InputError, match=r"would replace[\s\S]*another output"):
        check_outputs([tmp_path / "b", tmp_path / "b"], [])


@pytest.mark.parametrize(
    "command",
    [
        ["-u", "-c", "from utils.errors import exit_on_input_error; exit_on_input_error(lambda: print('score'))"],
        ["-c", "from utils.errors import exit_on_input_error; exit_on_input_error(lambda: print('score'))"],
        ["-c", "from utils.errors import exit_on_input_error; exit_on_input_error(lambda: print('score' * 9999))"],
        [str(ROOT / "scripts" / "eval_nlvr2.py"), "r.csv", "dev.json"],
    ],
)
def test_standard_output_that_cannot_be_written(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "r.csv").write_text("dev-0-0-0,True\n")
    (tmp_path / "dev.json").write_text('{"identifier": "dev-0-0-0", "label": "True"}')
    for output, status, message in (("/dev/full", 2, "standard output cannot be written"), ("a pipe", 1, "")):
        reader, pipe = os.pipe()
        os.close(reader)
        with open(output, "w") if output == "/dev/full" else os.fdopen(pipe, "w") as stream:
            end = subprocess.run(
                [sys.executable, *command], cwd=tmp_path, env=BUFFERED, stdout=stream, stderr=subprocess.PIPE
            )
        text = end.stderr.decode()
        assert end.returncode == status and message in text and "Traceback" not in text and "ignored" not in text
        assert ("No space left" in text) == (output == "/dev/full") and text.count("\n") <= 3


def test_a_converter_whose_output_is_full_says_so(tmp_path: Path) -> None:
    (tmp_path / "npz").mkdir()
    boxes = np.array([[0.1, 0.1, 0.5, 0.5, 0.4, 0.4]], np.float16)
    np.savez(tmp_path / "npz" / "a.npz", features=np.ones((1, 4), np.float16), norm_bb=boxes, conf=np.ones(1))
    command = [str(ROOT / "scripts" / "convert_imgdir.py"), "--img_dir", "npz", "--output", "store", "--nproc", "1"]
    with open("/dev/full", "w") as stream:
        end = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=BUFFERED, stdout=stream, stderr=subprocess.PIPE
        )
    text = end.stderr.decode()
    assert end.returncode == 2 and list(tmp_path.glob("store/*/data.mdb")) and "ignored" not in text
    assert "standard output cannot be written: No space left on device; the store is complete" in text


def test_eval_nlvr2_reads_every_usual_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, truth = "dev-0-0-0,True\r\ndev-0-1-0,False\r\n", tmp_path / "dev.json"
    truth.write_text('{"identifier": "dev-0-0-0", "label": true}\n{"identifier": "dev-0-1-0", "label": "True"}\n')
    for content in (
        lines.encode("utf-8-sig"),
        lines.encode("utf-16"),
        gzip.compress(lines.encode()),
        lines.replace("\r\n", "\r").encode(),
    ):
        (tmp_path / "r.csv").write_bytes(content)
        expected = {"accuracy": 0.5, "consistency": 0.0}
        assert eval_nlvr2.main([str(tmp_path / "r.csv"), str(truth)]) == expected
    (tmp_path / "r.csv").write_text(lines)
    assert evaluate.main(["nlvr2", str(tmp_path / "r.csv"), str(truth)]) == expected  # takes labels of both types too
    for content in (b"\xff\xffdev", gzip.compress(lines.encode())[:30], b"\x1f\x8bno"):
        (tmp_path / "r.csv").write_bytes(content)
        with pytest.raises(SystemExit):
            eval_nlvr2.main([str(tmp_path / "r.csv"), str(truth)])
        assert f"error: {tmp_path / 'r.csv'}: " in capsys.readouterr().err
