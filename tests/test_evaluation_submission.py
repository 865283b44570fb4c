"""Submission files: what they hold, and that a bad one is never left behind."""

import json
import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

import inf_nlvr2
import inf_re
import inf_vcr
from evaluation.submission import (
    question_numbers,
    write_logits_npz,
    write_nlvr2_csv,
    write_re,
    write_re_logits,
    write_retrieval,
    write_vcr_csv,
    write_vcr_json,
    write_ve,
)
from optim.infer import Inference
from tests.golden_data import GOLDEN
from utils.errors import InputError
from utils.npz import open_npz, read_array, write_npz

BOX = [1.0, 2.0, 3.5, 4.0]
NLVR2_IDS = ["dev-0-1-0", "dev-0-0-0", "dev-1-0-1"]


def test_vcr_files_equal_the_golden(tmp_path: Path) -> None:
    folder = GOLDEN / "evaluation"
    golden = json.loads((folder / "vcr_pred.json").read_text())
    ids, scores = list(golden)[::-1], np.array(list(golden.values()))[::-1]
    write_vcr_csv(tmp_path / "a.csv", ids, scores, golden)
    assert (tmp_path / "a.csv").read_bytes() == (folder / "vcr_submission.csv").read_bytes()
    write_vcr_json(tmp_path / "a.json", ids, scores, golden)
    assert list(json.loads((tmp_path / "a.json").read_text()).items()) == list(golden.items())


def test_vcr_scores_survive_as_they_are(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32) * 1e-6
    ids = [f"val-{i}" for i in (10, 9, 2)]
    write_vcr_json(tmp_path / "a.json", ids, scores, ids)
    write_vcr_csv(tmp_path / "a.csv", ids, scores, ids)
    rows = [line.split(",") for line in (tmp_path / "a.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["val-2", "val-9", "val-10"]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32)[::-1], scores)
    stored = json.loads((tmp_path / "a.json").read_text())
    assert {id_: [float(x) for x in values] for id_, *values in rows} == stored


def test_nlvr2_csv(tmp_path: Path) -> None:
    write_nlvr2_csv(tmp_path / "a.csv", NLVR2_IDS, np.array([[0, 1], [2, 1], [-1, 0]]), sorted(NLVR2_IDS))
    assert (tmp_path / "a.csv").read_bytes() == b"dev-0-0-0,False\ndev-0-1-0,True\ndev-1-0-1,True\n"


def test_ve(tmp_path: Path) -> None:
    write_ve(tmp_path / "a.json", ["b", "a", "c"], np.eye(3), ["a", "b", "c"])
    assert json.loads((tmp_path / "a.json").read_text()) == [
        {"id": "a", "label": "entailment"},
        {"id": "b", "label": "contradiction"},
        {"id": "c", "label": "neutral"},
    ]


def test_re(tmp_path: Path) -> None:
    rows = [{"sent_id": id_, "pred_box": np.array(BOX, np.float32), "tgt_box": BOX} for id_ in ("12", 3)]
    write_re(tmp_path / "a.json", rows, ["3", "12"])
    assert json.loads((tmp_path / "a.json").read_text()) == [
        {"sent_id": 3, "pred_box": BOX, "tgt_box": BOX},
        {"sent_id": 12, "pred_box": BOX, "tgt_box": BOX},
    ]


def test_retrieval(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(1500, 3))
    txt_ids, img_ids = [f"t{i}" for i in range(1500)], ["a.npz", "b.npz", "é.npz"]
    write_retrieval(tmp_path / "results.npz", scores, txt_ids, img_ids)
    with np.load(tmp_path / "results.npz", allow_pickle=False) as file:
        assert sorted(file.files) == ["img_ids", "scores", "txt_ids"] and file["scores"].dtype == np.float32
        np.testing.assert_array_equal(file["scores"], scores.astype(np.float32))
        assert file["txt_ids"].tolist() == txt_ids and file["img_ids"].tolist() == img_ids
    assert [file.name for file in tmp_path.iterdir()] == ["results.npz"]


def re_rows(**changed: Any) -> list[dict[str, Any]]:
    return [{"sent_id": 1, "pred_box": BOX, "tgt_box": BOX} | changed]


SCORES = np.zeros((2, 20))
BAD = np.where(np.arange(40).reshape(2, 20) == 25, np.inf, 0.0)


@pytest.mark.parametrize(
    ("write", "args", "message"),
    [
        (write_nlvr2_csv, (NLVR2_IDS, SCORES[[0, 0, 1], :2], NLVR2_IDS[:2]), "unknown example ids"),
        (write_nlvr2_csv, (NLVR2_IDS[:2], SCORES[:, :2], NLVR2_IDS), "missing example ids"),
        (write_nlvr2_csv, (["a", "b", "a"], SCORES[[0, 0, 1], :2], ["a", "b"]), r"twice[\s\S]*key: +a"),
        (
            write_nlvr2_csv,
            (["a", "b"], SCORES[:, :2], ["a", "b", "a"]),
            r"split names one example twice[\s\S]*key: +a\n[\s\S]*2 ids of 3",
        ),
        (write_nlvr2_csv, (["a", "b"], SCORES[:, :3], ["a", "b"]), "wrong shape"),
        (write_nlvr2_csv, (["a", "b"], SCORES[:1, :2], ["a", "b"]), "wrong shape"),
        (write_nlvr2_csv, (["a", "b"], BAD[:, 5:7], ["a", "b"]), r"not finite[\s\S]*key: +b"),
        (write_ve, (["a", "b"], SCORES[:, :2], ["a", "b"]), "wrong shape"),
        (write_ve, (["a", "b"], BAD[:, 4:7], ["a", "b"]), r"not finite[\s\S]*key: +b"),
        (write_ve, ([], SCORES[:0, :3], []), "there are no pairs"),
        (write_vcr_json, (["t-1", "t-2"], SCORES[:, :19], ["t-1", "t-2"]), "wrong shape"),
        (write_vcr_json, (["t-1", "t-2"], BAD, ["t-1", "t-2"]), r"not finite[\s\S]*key: +t-2"),
        (write_vcr_csv, (["t-1", "t-2"], BAD, ["t-1", "t-2"]), r"not finite[\s\S]*key: +t-2"),
        (write_vcr_csv, (["t-1", "t"], SCORES, ["t-1", "t"]), r"annot_id[\s\S]*key: +t\n"),
        (write_nlvr2_csv, (["a", "b,c"], SCORES[:, :2], ["a", "b,c"]), r"csv[\s\S]*'b,c'[\s\S]*','"),
        (write_nlvr2_csv, (["a", "b\n"], SCORES[:, :2], ["a", "b\n"]), r"csv[\s\S]*file:[\s\S]*b\\n"),
        (write_vcr_csv, (["t-1\n", "t-2"], SCORES, ["t-1\n", "t-2"]), r"csv[\s\S]*t-1\\n"),
        (write_vcr_csv, (["t-1", "t-1"], SCORES, ["t-1"]), "twice"),
        (write_vcr_csv, (["t-1", "t-2"], SCORES, ["t-1", "t-3"]), "unknown question ids"),
        (write_re, (re_rows(), [1, 2]), "missing expression ids"),
        (write_re, (re_rows() + re_rows(), [1]), "twice"),
        (write_re, (re_rows(pred_box=[0, 0, np.nan, 1]), [1]), r"not a box[\s\S]*sent_id 1, pred_box"),
        (write_re, (re_rows(tgt_box=[0, 0, 1]), [1]), "not a box"),
        (write_re, (re_rows(pred_box=[5, 5, -1, 1]), [1]), "not a box"),
        (write_retrieval, (np.zeros((2, 3)), ["a", "b"], ["x", "y"]), "do not fit"),
        (write_retrieval, (np.zeros((2, 2)), ["a", "b"], ["x", "x"]), "one image is given twice"),
        (write_retrieval, (BAD, ["a", "b"], [f"i{i}" for i in range(20)]), r"not finite[\s\S]*key: +b"),
        (write_retrieval, (np.full((1, 1), 1e300), ["a"], ["x"]), r"not finite[\s\S]*key: +a"),
        (write_logits_npz, (["a", "b"], [np.zeros(2), np.array([1, np.nan])], np.float32), r"not finite[\s\S]*key: +b"),
        (
            write_re_logits,
            (["1"], [np.zeros(3)], [np.zeros((2, 4))], [BOX]),
            "number of boxes is not the number of scores",
        ),
        (write_re_logits, (["1"], [np.zeros(2)], [np.zeros((2, 4))], [[1, 2]]), "not a box"),
    ],
)
def test_refused_and_nothing_left(tmp_path: Path, write: Any, args: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write(tmp_path / "file", *args)
    assert not list(tmp_path.iterdir())


def test_a_failed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    write_ve(tmp_path / "a.json", ["a"], SCORES[:1, :3], ["a"])
    before = (tmp_path / "a.json").read_bytes()
    with pytest.raises(InputError):
        write_ve(tmp_path / "a.json", ["a"], SCORES[:1, :3], ["a", "b"])

    def broken() -> Any:
        yield "scores", np.zeros(3)
        raise OSError("disk full")

    with pytest.raises(InputError, match=r"cannot be written[\s\S]*a\.json[\s\S]*disk full"):
        write_npz(tmp_path / "a.json", broken())
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_bytes() == before


def test_logits_keep_fp32_and_their_own_lengths(tmp_path: Path) -> None:
    rows = [np.array([0.1, 7e4], np.float32), np.array([0.3], np.float32)]
    write_logits_npz(tmp_path / "a.npz", ["x", 7], rows, np.float32)
    with open_npz(tmp_path / "a.npz") as file:
        for id_, row in zip(("x", "7"), rows):
            assert read_array(file, id_, "a.npz").dtype == np.float32
            np.testing.assert_array_equal(read_array(file, id_, "a.npz"), row)


def test_re_logits(tmp_path: Path) -> None:
    boxes = [np.arange(8.0).reshape(2, 4), np.ones((1, 4))]
    write_re_logits(tmp_path / "a.npz", [5, 6], [np.array([1.0, 2.0]), np.array([3.0])], boxes, [BOX, BOX])
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file.files == ["5", "boxes/5", "tgt_box/5", "6", "boxes/6", "tgt_box/6"]
        np.testing.assert_array_equal(file["boxes/5"], boxes[0])
        assert file["tgt_box/6"].tolist() == BOX and file["6"].tolist() == [3.0]


def test_npz_readers_name_what_is_wrong(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "results.bin").write_bytes(pickle.dumps([1]))
    (tmp_path / "empty.npz").write_bytes(b"")
    for name, message in (
        ("none.npz", "not found"),
        ("text.npz", "not an npz"),
        ("one.npy", "a single array"),
        ("list.json", "begins with b'\\[1, 2\\]'"),
        ("results.bin", "begins with b'.x80"),
        ("empty.npz", "0 bytes"),
    ):
        with pytest.raises(InputError, match=f"not (an npz|found)[\\s\\S]*{name}") as error, open_npz(tmp_path / name):
            pass
        assert re.search(message, str(error.value)) and "pickle" not in str(error.value)
    with open_npz(tmp_path / "objects.npz") as file:
        with pytest.raises(
            InputError, match=r"cannot be read[\s\S]*objects\.npz[\s\S]*key: +a[\s\S]*Python objects"
        ) as error:
            read_array(file, "a", tmp_path / "objects.npz")
        assert "pickle" not in str(error.value)
        with pytest.raises(InputError, match=r"missing[\s\S]*key: +b"):
            read_array(file, "b", tmp_path / "objects.npz")


@pytest.mark.parametrize("id_", ["0.jpg#1", "", "1.5", "²", "dev-1"])
def test_ids_of_questions_are_numbers(id_):
    assert question_numbers(["7", 8]) == [7, 8]
    with pytest.raises(InputError, match=r"not a number[\s\S]*store\.db[\s\S]*found[\s\S]*remedy"):
        question_numbers(["7", id_], "store.db")


def test_ids_of_questions_may_be_negative():
    assert question_numbers(["-1", -2]) == [-1, -2]


def test_ids_of_expressions_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    box = [1, 2, 3, 4]
    with pytest.raises(InputError, match=r"not a number[\s\S]*r\.json[\s\S]*x"):
        write_re(tmp_path / "r.json", [{"sent_id": "x", "pred_box": box, "tgt_box": box}], ["x"])


@pytest.mark.parametrize(
    ("script", "id_"), [(inf_nlvr2, "dev-\n1-0-0"), (inf_nlvr2, "dev,1-0-0"), (inf_vcr, "val-1\n"), (inf_re, "x")]
)
def test_inference_refuses_ids_that_its_file_cannot_hold_at_its_start(
    monkeypatch: pytest.MonkeyPatch, script: Any, id_: str
) -> None:
    dataset = MagicMock(id=lambda i: id_, __len__=lambda self: 1)
    inference = MagicMock(flags=MagicMock(txt_db="my.db", output_dir="out", boxes="gt"))
    inference.task.dataset.return_value = dataset
    inference.predict_split = partial(Inference.predict_split, inference)
    monkeypatch.setattr(script, "Inference", lambda *arguments: inference)
    with pytest.raises(InputError, match=r"an id [\s\S]*my\.db"):
        script.main([])
    inference.predict.assert_not_called()
