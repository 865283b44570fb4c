"""Scoring refuses what has no score: NaN, infinity, other types and shapes, repeated, missing and unknown ids."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts import ensemble, eval_nlvr2, eval_vqa, evaluate
from utils.errors import InputError

BOX = [1, 2, 30, 40]
RE = [{"sent_id": k, "pred_box": BOX, "tgt_box": BOX} for k in (1, 2)]
REFS = [{"split": "val", "ann_id": k, "sentences": [{"sent_id": k}]} for k in (1, 2)]
INSTANCES = {"annotations": [{"id": k, "bbox": BOX} for k in (1, 2)]}
VE = [{"pairID": f"{k}", "gold_label": "neutral", "Flickr30K_ID": "5", "sentence2": "a"} for k in "ab"]
NLVR2 = [{"identifier": f"dev-0-{k}-0", "label": "True", "sentence": "a"} for k in (0, 1)]
VCR = [{"annot_id": f"val-{k}", "answer_label": 0, "rationale_label": 3} for k in (0, 1)]
VQA = [{"question_id": k, "answer": "yes"} for k in (1, 2)]
ANNOTATIONS = {"annotations": [{"question_id": k, "answers": [{"answer": "yes"}] * 10} for k in (1, 2)]}
TWENTY = list(map(float, range(20)))


def file(path: Path, content: Any) -> Path:
    """Write JSON, JSON lines (a list of objects into a .jsonl), text, bytes, or arrays (a dict into an .npz)."""
    if path.suffix == ".npz":
        np.savez(path, **content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, content)))
    else:
        path.write_text(json.dumps(content))
    return path


def refused(message: str, *arguments: object) -> None:
    with pytest.raises(InputError, match=message) as error:
        evaluate.main([str(argument) for argument in arguments])
    assert len(str(error.value)) < 1000


def changed(rows: list[Any], index: int, **change: Any) -> list[Any]:
    return [row | change if k == index else row for k, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (json.dumps(changed(RE, 1, pred_box=[1, 2, float("nan"), 4])), r"r\.json[\s\S]*nan[\s\S]*\[1\]\.?pred_box|nan"),
        (json.dumps(changed(RE, 1, pred_box=[1, 2, float("inf"), 4])), r"r\.json[\s\S]*inf"),
        (json.dumps(RE).replace("40", "1e999", 1), r"r\.json"),
        (changed(RE, 1, pred_box=[1, 2, 10**400, 4]), r"r\.json[\s\S]*\[1\]\.pred_box"),
        (changed(RE, 1, pred_box=[1, 2, -3, 4]), r"\[1\]\.pred_box[\s\S]*not negative"),
        (changed(RE, 1, tgt_box=[1, 2, 0, 4]), r"\[1\]\.tgt_box[\s\S]*with an area"),
        (changed(RE, 1, pred_box=["1", 2, 3, 4]), r"\[1\]\.pred_box"),
        (changed(RE, 1, pred_box=[True, 2, 3, 4]), r"\[1\]\.pred_box"),
        (changed(RE, 1, pred_box=[[1, 2, 3, 4]]), r"\[1\]\.pred_box"),
        (changed(RE, 1, pred_box=None), r"\[1\]\.pred_box[\s\S]*nothing"),
        (changed(RE, 1, sent_id="2"), r"\[1\]\.sent_id"),
        (changed(RE, 1, sent_id=2.0), r"\[1\]\.sent_id"),
        (changed(RE, 1, sent_id=1), r"twice[\s\S]*r\.json[\s\S]*1"),
        (changed(RE, 1, sent_id=3), r"unknown expression ids[\s\S]*r\.json[\s\S]*3"),
        (RE[:1], r"missing expression ids[\s\S]*r\.json[\s\S]*2"),
        ({"results": RE}, r"the whole file[\s\S]*keys results[\s\S]*a list"),
        ([RE], r"\[0\][\s\S]*an object"),
        ([], "missing expression ids"),
    ],
)
def test_referring_expressions(tmp_path: Path, results: Any, message: str) -> None:
    truth = [file(tmp_path / "refs.json", REFS), file(tmp_path / "instances.json", INSTANCES)]
    path = file(tmp_path / "r.json", results)
    if "tgt_box" not in message:
        refused(message, "re", path, *truth)
    if "expression ids" not in message:
        refused(message, "re", path)


@pytest.mark.parametrize(
    ("refs", "instances", "message"),
    [
        (REFS, {"annotations": changed(INSTANCES["annotations"], 1, bbox=[1, 2, 0, 4])}, "annotation 2[\\s\\S]*area"),
        (REFS, {"annotations": changed(INSTANCES["annotations"], 1, bbox=[1, 2, -1, 4])}, "annotation 2"),
        (
            changed(REFS, 1, image_id=5),
            {"annotations": changed(INSTANCES["annotations"], 1, image_id=6)},
            r"contradict[\s\S]*refs\.json[\s\S]*\[1\]\.image_id[\s\S]*5[\s\S]*6, the image of annotation 2",
        ),
        (REFS, {"annotations": changed(INSTANCES["annotations"], 1, id=1, bbox=[9, 9, 9, 9])}, r"\[1\]\.id"),
        (changed(REFS, 1, ann_id=9), INSTANCES, r"\[1\]\.ann_id[\s\S]*9"),
        (changed(REFS, 1, sentences=[{"sent_id": 1}]), INSTANCES, "twice"),
        (changed(REFS, 1, split="train"), INSTANCES, "unknown expression ids"),
        ([ref | {"split": "train"} for ref in REFS], INSTANCES, "no expression of that split[\\s\\S]*--split val"),
    ],
)  # fmt: skip
def test_annotations_of_referring_expressions(tmp_path: Path, refs: Any, instances: Any, message: str) -> None:
    truth = [file(tmp_path / "refs.json", refs), file(tmp_path / "instances.json", instances)]
    refused(message, "re", file(tmp_path / "r.json", RE), *truth, "--split", "val")


def npz(**change: Any) -> dict[str, np.ndarray]:
    return {
        "scores": np.eye(2, dtype=np.float32),
        "txt_ids": np.array(["0", "1"]),
        "img_ids": np.array(["a", "b"]),
    } | change


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (npz(scores=np.array([[1, np.nan], [0, 1]], np.float32)), r"not finite[\s\S]*r\.npz[\s\S]*scores of 0"),
        (npz(scores=np.array([[1, 0], [0, -np.inf]], np.float32)), r"not finite[\s\S]*scores of 1"),
        (npz(scores=np.eye(3, dtype=np.float32)), r"r\.npz[\s\S]*\(3, 3\)[\s\S]*\(2, 2\)"),
        (npz(scores=np.eye(2)[0]), r"r\.npz[\s\S]*\(2,\)"),
        (npz(scores=np.array([["1", "0"], ["0", "1"]])), r"r\.npz[\s\S]*scores"),
        (npz(txt_ids=np.array(["0", "0"])), r"r\.npz[\s\S]*txt_ids[\s\S]*differ"),
        (npz(img_ids=np.array(["a", "a"])), r"r\.npz[\s\S]*img_ids[\s\S]*differ"),
        (npz(txt_ids=np.array([0, 1])), r"r\.npz[\s\S]*txt_ids"),
        (npz(txt_ids=np.array([["0", "1"]])), r"r\.npz[\s\S]*txt_ids"),
        (npz(txt_ids=np.array(["0", "2"])), r"unknown text ids[\s\S]*r\.npz[\s\S]*2"),
        (npz(img_ids=np.array(["a", "c"])), r"b"),
        ({"scores": np.eye(2)}, r"r\.npz[\s\S]*txt_ids"),
    ],
)  # fmt: skip
def test_retrieval(tmp_path: Path, arrays: Any, message: str) -> None:
    truth = file(tmp_path / "txt2img.json", {"0": "a", "1": "b"})
    refused(message, "itm", file(tmp_path / "r.npz", arrays), truth)


@pytest.mark.parametrize(
    ("name", "results", "message"),
    [
        ("r.json", {"val-0": TWENTY, "val-1": [*TWENTY[:19], True]}, r"r\.json[\s\S]*annot_id val-1"),
        ("r.json", {"val-0": TWENTY, "val-1": [*TWENTY[:19], "x"]}, "annot_id val-1"),
        ("r.json", {"val-0": TWENTY, "val-1": [*TWENTY[:19], 10**400]}, "annot_id val-1"),
        ("r.json", {"val-0": TWENTY, "val-1": [TWENTY]}, "annot_id val-1"),
        ("r.json", {"val-0": TWENTY, "val-1": 5}, "annot_id val-1"),
        ("r.json", [TWENTY, TWENTY], r"the whole file[\s\S]*annot_id to its 20 numbers"),
        ("r.json", {"val-0": TWENTY}, r"missing question ids[\s\S]*r\.json[\s\S]*val-1"),
        ("r.csv", "annot_id,answer_0\nval-0,1\n", r"r\.csv[\s\S]*line 1"),
        ("r.csv", "a,\0b\n", r"r\.csv"),
        ("r.csv", b"\xff\xfe\xff", r"r\.csv"),
    ],
)
def test_vcr(tmp_path: Path, name: str, results: Any, message: str) -> None:
    refused(message, "vcr", file(tmp_path / name, results), file(tmp_path / "val.jsonl", VCR))


def test_vcr_labels_out_of_range_are_named(tmp_path: Path) -> None:
    results = file(tmp_path / "r.json", {"val-0": TWENTY, "val-1": TWENTY})
    refused(
        r"v\.jsonl[\s\S]*line 2\.answer_label[\s\S]*4",
        "vcr",
        results,
        file(tmp_path / "v.jsonl", changed(VCR, 1, answer_label=4)),
    )
    refused(
        r"line 2\.rationale_label[\s\S]*-1",
        "vcr",
        results,
        file(tmp_path / "v.jsonl", changed(VCR, 1, rationale_label=-1)),
    )


@pytest.mark.parametrize(
    ("task", "results", "message"),
    [
        ("ve", [{"id": "a", "label": "neutral"}, {"id": 5, "label": "neutral"}], r"\[1\]\.id"),
        ("ve", [{"id": "a", "label": "neutral"}, {"id": "b", "label": 2}], r"\[1\]\.label"),
        ("ve", [{"id": "a", "label": "neutral"}] * 2, r"twice[\s\S]*found:.*'neutral'[\s\S]*expected[\s\S]*remedy"),
        ("ve", [{"id": "a", "label": "neutral"}, {"id": "c", "label": "neutral"}], r"unknown pair ids[\s\S]*r\.json"),
        ("ve", {"a": "neutral", "b": "neutral"}, r"the whole file[\s\S]*keys a, b[\s\S]*a list"),
        ("nlvr2", "dev-0-0-0,True\ndev-0-1-0,1\n", r"line 2[\s\S]*True or False"),
        ("nlvr2", "dev-0-0-0,True\ndev-0-0-0,True\n", r"twice[\s\S]*dev-0-0-0"),
        ("nlvr2", "dev-0-0-0,True\n", r"missing example ids[\s\S]*dev-0-1-0"),
        ("nlvr2", "test1-0-0-0,True\ntest1-0-1-0,True\n", r"unknown example ids[\s\S]*test1-0-0-0"),
        ("nlvr2", "", "missing example ids"),
    ],
)  # fmt: skip
def test_entailment_and_nlvr2(tmp_path: Path, task: str, results: Any, message: str) -> None:
    truth = file(tmp_path / "truth.jsonl", VE if task == "ve" else NLVR2)
    refused(message, task, file(tmp_path / "r.json", results), truth)


def test_a_part_of_nlvr2_whose_labels_differ(tmp_path: Path) -> None:
    results = file(tmp_path / "r.csv", "dev-0-0-0,True\ndev-0-1-0,True\n")
    truth, part = file(tmp_path / "dev.jsonl", NLVR2), tmp_path / "part.jsonl"
    file(part, changed(NLVR2, 1, label="False"))
    refused(
        r"contradict[\s\S]*part\.jsonl[\s\S]*dev-0-1-0[\s\S]*false[\s\S]*true, as in .*dev\.jsonl",
        "nlvr2",
        results,
        truth,
        part,
    )


@pytest.mark.parametrize(
    ("task", "results", "annotations"),
    [
        ("ve", [{"id": "a", "label": "neutral"}], []),
        ("nlvr2", "dev-0-0-0,True\n", []),
        ("vcr", {"val-0": TWENTY}, []),
    ],
)
def test_empty_annotations_are_named(tmp_path: Path, task: str, results: Any, annotations: Any) -> None:
    truth = file(tmp_path / "truth.jsonl", annotations)
    refused(
        r"there are no[\s\S]*truth\.jsonl[\s\S]*empty[\s\S]*remedy", task, file(tmp_path / "r.json", results), truth
    )


def test_empty_annotations_of_questions_and_pictures_are_named(tmp_path: Path) -> None:
    refused(r"no texts[\s\S]*t\.json", "itm", file(tmp_path / "r.npz", npz()), file(tmp_path / "t.json", {}))
    files = [file(tmp_path / "r.json", VQA), file(tmp_path / "a.json", {"annotations": []})]
    with pytest.raises(InputError, match=r"no questions[\s\S]*a\.json"):
        eval_vqa.main([str(path) for path in files])


def test_a_repeated_pair_is_named(tmp_path: Path) -> None:
    truth = file(tmp_path / "truth.jsonl", [*VE, VE[0]])
    results = file(tmp_path / "r.json", [{"id": id_, "label": "neutral"} for id_ in "ab"])
    refused(r"truth\.jsonl[\s\S]*line 3\.pairID[\s\S]*a, which line 1[\s\S]*one example for each", "ve", results, truth)


def test_an_identifier_of_another_form_is_named(tmp_path: Path) -> None:
    truth = file(tmp_path / "truth.jsonl", changed(NLVR2, 1, identifier="mine"))
    results = file(tmp_path / "r.csv", "dev-0-0-0,True\nmine,True\n")
    refused(r"truth\.jsonl[\s\S]*line 2\.identifier[\s\S]*'mine'[\s\S]*dev-896-0-1", "nlvr2", results, truth)


@pytest.mark.parametrize("task", ["ve", "nlvr2", "vcr", "re"])
def test_split_where_it_does_nothing(tmp_path: Path, task: str) -> None:
    truth = [] if task == "re" else [file(tmp_path / "truth.jsonl", VE)]
    refused(
        rf"--split[\s\S]*{task}|{task}[\s\S]*--split", task, file(tmp_path / "r.json", RE), *truth, "--split", "val"
    )


@pytest.mark.parametrize(
    ("results", "annotations", "message"),
    [
        (changed(VQA, 1, question_id="2"), ANNOTATIONS, r"r\.json[\s\S]*\[1\]\.question_id"),
        (changed(VQA, 1, answer=1), ANNOTATIONS, r"\[1\]\.answer"),
        (
            changed(VQA, 1, question_id=1),
            ANNOTATIONS,
            r"answered twice[\s\S]*r\.json[\s\S]*question_id 1[\s\S]*found[\s\S]*remedy",
        ),
        (changed(VQA, 1, question_id=3), ANNOTATIONS, r"unknown question ids[\s\S]*r\.json[\s\S]*3"),
        (VQA[:1], ANNOTATIONS, r"missing question ids[\s\S]*r\.json[\s\S]*2"),
        ({"answers": VQA}, ANNOTATIONS, r"the whole file[\s\S]*keys answers"),
        (VQA, ANNOTATIONS["annotations"], r"a list of 2 objects[\s\S]*at the root[\s\S]*annotations"),
        (VQA, {"annotations": changed(ANNOTATIONS["annotations"], 1, question_id=1)}, r"annotated twice[\s\S]*a\.json"),
        (VQA, {"annotations": changed(ANNOTATIONS["annotations"], 1, answers=[])}, r"annotations\[1\]\.answers"),
    ],
)
def test_vqa(tmp_path: Path, results: Any, annotations: Any, message: str) -> None:
    files = [file(tmp_path / "r.json", results), file(tmp_path / "a.json", annotations)]
    with pytest.raises(InputError, match=message):
        eval_vqa.main([str(path) for path in files])


@pytest.mark.parametrize(
    ("task", "arrays", "message"),
    [
        ("vqa", {"one": np.zeros(3129)}, r"not a number[\s\S]*a\.npz[\s\S]*one"),
        ("re", {"1": np.zeros(0), "boxes/1": np.zeros((0, 4)), "tgt_box/1": np.array(BOX)}, r"a\.npz[\s\S]*1"),
        ("re", {"1": np.zeros(1), "boxes/1": np.full((1, 4), np.nan), "tgt_box/1": np.array(BOX)}, "1, pred_box"),
        ("nlvr2", {"dev-0-0-0": np.array([0, np.nan])}, r"a\.npz[\s\S]*dev-0-0-0[\s\S]*1 of 2[\s\S]*remedy"),
        ("ve", {"a": np.zeros(4)}, r"a\.npz[\s\S]*\(4,\)[\s\S]*\(3,\)"),
        ("ve", {"a": np.array(["x", "y", "z"])}, r"a\.npz[\s\S]*a"),
    ],
)  # fmt: skip
def test_ensembles(tmp_path: Path, task: str, arrays: Any, message: str) -> None:
    path = file(tmp_path / "a.npz", arrays)
    with pytest.raises(InputError, match=message):
        ensemble.main(["--task", task, "--logits", str(path), "--output", str(tmp_path / "out.json")])
    assert not (tmp_path / "out.json").exists()


def test_contrast_sets_are_scored_by_example(tmp_path: Path) -> None:
    """All variants of an example must be right, as in the contrast set's own evaluation."""
    rows = [{"identifier": f"test1-{n}-1-0-{k}", "label": "True", "sentence": "a"} for n in (7, 8) for k in (1, 2)]
    truth = file(tmp_path / "contrast.jsonl", rows)
    answers = zip(rows, ["True", "False", "True", "True"])
    results = file(tmp_path / "r.csv", "".join(f"{row['identifier']},{answer}\n" for row, answer in answers))
    expected = {"accuracy": 0.75, "consistency": 0.5}
    assert evaluate.main(["nlvr2", str(results), str(truth)]) == expected == eval_nlvr2.main([str(results), str(truth)])


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"dev-0-0-0,True\n" * 99)[:40], b"\xff\xfe", b"[" * 100_000],
    ids=["cut gzip", "no UTF-16", "nested"],
)
def test_eval_nlvr2_on_damaged_files(tmp_path: Path, content: bytes, capsys: Any) -> None:
    path = file(tmp_path / "r.csv.gz", content) if content[:2] == b"\x1f\x8b" else file(tmp_path / "r.csv", content)
    truth = file(tmp_path / "t.jsonl", NLVR2)
    for files in ([path, truth], [truth, path]):
        with pytest.raises(SystemExit) as error:
            eval_nlvr2.main(list(map(str, files)))
        assert error.value.code == 2 and "error: " in capsys.readouterr().err
