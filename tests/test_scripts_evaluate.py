"""The scoring scripts: every results file against its official annotations."""

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.recall import picture_columns, retrieval_recalls
from evaluation.submission import write_re, write_retrieval, write_vcr_csv, write_vcr_json, write_ve
from prepare.entries import json_lines
from scripts import eval_nlvr2, evaluate
from tests.golden_data import GOLDEN, arrays
from utils.errors import InputError

FOLDER = GOLDEN / "evaluation"
SCRIPT = Path(__file__).parents[1] / "scripts" / "eval_nlvr2.py"
VE = [("1r1c", "contradiction"), ("1r1e", "entailment"), ("1r1n", "neutral")]


def dump(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def dump_lines(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def score(*args: object) -> dict[str, float]:
    return evaluate.main([str(arg) for arg in args])


def test_eval_nlvr2_runs_alone(tmp_path: Path) -> None:
    """The script works outside the checkout, with a Python that sees no installed package."""
    script = shutil.copy(SCRIPT, tmp_path)
    files = [FOLDER / "nlvr2_pred.csv", FOLDER / "nlvr2_ann.jsonl"]
    done = subprocess.run([sys.executable, "-I", "-S", script, *files], capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout == (FOLDER / "nlvr2_stdout.txt").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda csv: csv[1:], "1 missing identifiers in the results; 40 are annotated: dev-0-0-0"),
        (lambda csv: [*csv, "dev-99-0-0,True"], "1 unknown identifiers"),
        (lambda csv: [*csv, csv[0]], "line 41: dev-0-0-0 occurs twice"),
        (lambda csv: [csv[0].replace("True", "Yes"), *csv[1:]], "line 1: 'Yes' is neither True nor False"),
        (lambda csv: ["dev-0-0,True", *csv[1:]], "line 1: 'dev-0-0' is not an NLVR2 identifier"),
    ],
)
def test_eval_nlvr2_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text("\n".join(change((FOLDER / "nlvr2_pred.csv").read_text().split())))
    with pytest.raises(SystemExit) as stopped:
        eval_nlvr2.main([str(path), str(FOLDER / "nlvr2_ann.jsonl")])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_nlvr2_and_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [json.loads(line) for line in (FOLDER / "nlvr2_ann.jsonl").open()]
    part = dump_lines(tmp_path / "balanced_dev.json", entries[:4])  # dev-1-1-0, the fourth, was answered wrong
    scores = score("nlvr2", FOLDER / "nlvr2_pred.csv", FOLDER / "nlvr2_ann.jsonl", part)
    assert scores == {
        "accuracy": 0.825,
        "consistency": 0.7,
        "accuracy_balanced_dev": 0.75,
        "consistency_balanced_dev": 0.5,
    }
    assert capsys.readouterr().out.splitlines()[:2] == [" 82.50  accuracy", " 70.00  consistency"]
    with pytest.raises(InputError, match="unknown example ids"):
        score("nlvr2", FOLDER / "nlvr2_pred.csv", part)
    outside = dump_lines(tmp_path / "other.json", [{"identifier": "dev-99-0-0", "label": "True"}])
    with pytest.raises(InputError, match=r"missing example ids[\s\S]*dev-99-0-0"):
        score("nlvr2", FOLDER / "nlvr2_pred.csv", FOLDER / "nlvr2_ann.jsonl", outside)


def test_nlvr2_real_subsets(tmp_path: Path) -> None:
    """Always True is the benchmark's majority baseline: 50.9 % of dev, and exactly half of the balanced part."""
    if not (folder := os.environ.get("UNITER_REALDATA")):
        pytest.skip("UNITER_REALDATA names no folder of real data")
    files = [Path(folder) / "nlvr2" / f"{part}dev.json.gz" for part in ("", "balanced_", "unbalanced_")]
    ids = [entry["identifier"] for _, entry in json_lines(files[0])]
    (tmp_path / "results.csv").write_text("".join(f"{id_},True\n" for id_ in ids))
    scores = score("nlvr2", tmp_path / "results.csv", *files)
    assert scores["accuracy_balanced_dev"] == 0.5 and round(scores["accuracy"], 3) == 0.509


def ve_line(pair_id: str, label: str) -> dict[str, str]:
    return {"pairID": pair_id, "gold_label": label, "Flickr30K_ID": "2248275918", "sentence2": "A toddler sleeps."}


def test_ve(tmp_path: Path) -> None:
    truth = [ve_line(*pair) for pair in VE]
    gold = dump_lines(tmp_path / "dev.jsonl", [*truth, ve_line("1r2n", "-")])
    ids = [id_ for id_, _ in VE]
    write_ve(tmp_path / "results.json", ids[::-1], np.eye(3)[[2, 1, 1]], ids)
    assert score("ve", tmp_path / "results.json", gold) == {"accuracy": pytest.approx(2 / 3)}
    twice = dump_lines(tmp_path / "twice.jsonl", truth + truth[:1])  # ids are running numbers
    write_ve(tmp_path / "numbered.json", ["0", "1", "2", "3"], np.eye(3)[[0, 1, 2, 1]], ["0", "1", "2", "3"])
    assert score("ve", tmp_path / "numbered.json", twice) == {"accuracy": 0.75}
    with pytest.raises(InputError, match="missing pair ids"):
        score("ve", dump(tmp_path / "part.json", [{"id": "1r1c", "label": "neutral"}]), gold)
    with pytest.raises(InputError, match=r"odd\.json[\s\S]*1r1c[\s\S]*'maybe'"):
        score("ve", dump(tmp_path / "odd.json", [{"id": "1r1c", "label": "maybe"}]), gold)
    with pytest.raises(InputError, match=r"twice[\s\S]*1r1c"):
        score("ve", dump(tmp_path / "b.json", [{"id": "1r1c", "label": "neutral"}] * 2), gold)


def test_vcr(tmp_path: Path) -> None:
    golden, batch = arrays("vcr/outputs_eval_test.npz"), arrays("vcr/batch_eval_test.npz")
    ids = ["val-0", "val-1", "val-2"]
    entries = [
        {"annot_id": id_, "answer_label": int(a), "rationale_label": int(r)}
        for id_, a, r in zip(ids, batch["qa_targets"].ravel(), batch["qar_targets"].ravel())
    ]
    gold = dump_lines(tmp_path / "val.jsonl", entries[::-1])
    for write, name in ((write_vcr_json, "a.json"), (write_vcr_csv, "a.csv")):
        write(tmp_path / name, ids, golden["scores_grouped"], ids)
        scores = score("vcr", tmp_path / name, gold, "--json", tmp_path / "out.json")
        right = (golden["n_correct_qa_qar_joint"] / 3).tolist()
        assert scores == dict(zip(("acc_qa", "acc_qar", "acc"), right))
        assert json.loads((tmp_path / "out.json").read_text()) == scores
    with pytest.raises(InputError, match=r"val-0[\s\S]*20 numbers"):
        score("vcr", dump(tmp_path / "b.json", {"val-0": [1.0] * 8}), gold)
    with pytest.raises(InputError, match=r"line 1, answer_label|line 1\.answer_label"):
        score("vcr", tmp_path / "a.json", dump_lines(tmp_path / "test.jsonl", [{"annot_id": "test-0"}]))


def test_re(tmp_path: Path) -> None:
    store = next((GOLDEN / "data_formats" / "txt_db").glob("refcoco_val*"))
    refs = json.loads((store / "refs.json").read_text())
    boxes = {entry["id"]: entry["bbox"] for entry in json.loads((store / "annotations.json").read_text())}
    target_boxes = {id_: boxes[ref["ann_id"]] for ref in refs for id_ in ref["sent_ids"]}
    rows = [{"sent_id": id_, "pred_box": target, "tgt_box": target} for id_, target in target_boxes.items()]
    rows[0] |= {"pred_box": [0, 0, 1, 1], "tgt_box": [0, 0, 1, 1]}  # correct only by the stored box
    write_re(tmp_path / "results.json", rows, target_boxes)
    assert score("re", tmp_path / "results.json") == {"accuracy": 1 - 1 / len(target_boxes), "accuracy_plain_iou": 1.0}
    with pytest.raises(
        InputError, match=r"contradict[\s\S]*results\.json[\s\S]*\[0\]\.tgt_box[\s\S]*annotations\.json"
    ):
        score("re", tmp_path / "results.json", store / "refs.json", store / "annotations.json")
    rows[0].pop("tgt_box")  # which annotations make needless
    dump(tmp_path / "results.json", rows)
    scores = score("re", tmp_path / "results.json", store / "refs.json", store / "annotations.json")
    assert set(scores.values()) == {1 - 1 / len(target_boxes)}
    official = dump(tmp_path / "instances.json", {"annotations": json.loads((store / "annotations.json").read_text())})
    assert score("re", tmp_path / "results.json", store / "refs.json", official, "--split", "val") == scores
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs))
    assert score("re", tmp_path / "results.json", tmp_path / "refs(unc).p", official, "--split", "val") == scores
    with pytest.raises(InputError, match="unknown expression ids"):
        refs[0]["split"] = "testA"
        score("re", tmp_path / "results.json", dump(tmp_path / "refs.json", refs), official, "--split", "val")
    with pytest.raises(InputError, match="number of annotation files"):
        score("re", tmp_path / "results.json", store / "refs.json")


def test_files_in_each_other_s_place_or_empty(tmp_path: Path) -> None:
    store = next((GOLDEN / "data_formats" / "txt_db").glob("refcoco_val*"))
    results = tmp_path / "results.json"
    write_re(results, [{"sent_id": 1, "pred_box": [0, 0, 1, 1], "tgt_box": [0, 0, 1, 1]}], [1])
    with pytest.raises(InputError, match=r"refs.json[\s\S]*\.id"):
        score("re", results, store / "annotations.json", store / "refs.json")
    with pytest.raises(InputError, match=r"odd.json[\s\S]*\[0\]"):
        score("re", results, store / "refs.json", dump(tmp_path / "odd.json", [3]))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match=r"empty.csv[\s\S]*line 1"):
        score("vcr", tmp_path / "empty.csv", dump_lines(tmp_path / "val.jsonl", [{"annot_id": "val-0"}]))


def test_gzipped_results(tmp_path: Path) -> None:
    ids, scores = ["val-0", "val-1"], np.arange(40.0).reshape(2, 20)
    entries = [{"annot_id": id_, "answer_label": 3, "rationale_label": 3} for id_ in ids]
    gold = dump_lines(tmp_path / "val.jsonl", entries)
    for write, name in ((write_vcr_json, "a.json"), (write_vcr_csv, "a.csv")):
        write(tmp_path / name, ids, scores, ids)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        assert score("vcr", tmp_path / f"{name}.gz", gold) == {"acc_qa": 1.0, "acc_qar": 1.0, "acc": 1.0}


def test_retrieval(tmp_path: Path) -> None:
    case = json.loads((FOLDER / "itm_eval.json").read_text())["signal_20img"]
    scores = arrays("evaluation/itm_signal_20img.npz")["scores"]
    write_retrieval(tmp_path / "results.npz", scores, case["txt_ids"], case["img_ids"])
    columns = picture_columns(case["txt_ids"], case["img_ids"], case["txt2img"])
    expected = retrieval_recalls(scores, columns)
    for key in ("txt2img", "img2txts"):
        assert score("itm", tmp_path / "results.npz", dump(tmp_path / f"{key}.json", case[key])) == expected
    case["txt2img"].pop(case["txt_ids"][0])
    with pytest.raises(InputError, match="unknown text ids"):
        score("itm", tmp_path / "results.npz", dump(tmp_path / "short.json", case["txt2img"]))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([["1"]], "'1'"),
        ({"1": 2}, "{'1': 2}"),
        ([5], "[5]"),
        (5, "5"),
        (None, "None"),
        ([], "[]"),
        (["0", "0"], "occurs twice"),
    ],
)
def test_itm_side_files_with_values_that_are_no_ids(tmp_path: Path, value: object, named: str) -> None:
    np.savez(tmp_path / "results.npz", scores=np.zeros((1, 2)), txt_ids=np.array(["0"]), img_ids=np.array(["a", "b"]))
    with pytest.raises(InputError) as error:
        score("itm", tmp_path / "results.npz", dump(tmp_path / "img2txts.json", {"b": value}))
    assert "img2txts.json" in str(error.value) and named in str(error.value)


def test_itm_karpathy(tmp_path: Path) -> None:
    images = [
        {
            "filename": f"COCO_val2014_{n:012}.jpg",
            "filepath": "val2014",
            "cocoid": n,
            "split": split,
            "sentences": [{"sentid": 10 * n + i, "raw": "a dog"} for i in range(2)],
        }
        for n, split in ((42, "test"), (7, "test"), (9, "val"))
    ]
    dataset = dump(tmp_path / "dataset_coco.json", {"images": images})
    names = ["coco_val2014_000000000007.npz", "coco_val2014_000000000042.npz"]
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.2, 0.3]])  # texts 70, 71 of image 7; 420, 421 of image 42
    write_retrieval(tmp_path / "results.npz", scores, ["70", "71", "420", "421"], names)
    recalls = score("itm", tmp_path / "results.npz", dataset, "--split", "test")
    assert (recalls["img_r1"], recalls["txt_r1"]) == (0.75, 1.0)
    with pytest.raises(InputError, match="unknown text ids"):
        score("itm", tmp_path / "results.npz", dataset, "--split", "val")
    with pytest.raises(InputError, match="--split"):
        score("itm", tmp_path / "results.npz", dataset)
