"""Ensembles: averages computed by hand, an ensemble of one run, and runs that do not belong together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import probabilities
from evaluation.metrics import vcr_accuracies
from evaluation.recall import match_ranks, retrieval_recalls
from evaluation.submission import write_logits_npz, write_re_logits, write_retrieval, write_vcr_json
from scripts import ensemble
from tests.golden_data import GOLDEN, arrays
from utils.errors import InputError
from utils.npz import write_npz

RNG = np.random.default_rng(0)


def combine(task: str, runs: list[Path], output: Path, *more: object) -> Any:
    return ensemble.main(["--task", task, "--logits", *map(str, runs), "--output", str(output), *map(str, more)])


def logits(folder: Path, ids: list[Any], *runs: Any, dtype: Any = np.float32) -> list[Path]:
    """A file of logits for each run's scores."""
    paths = [folder / f"run{number}.npz" for number in range(len(runs))]
    for path, scores in zip(paths, runs):
        write_logits_npz(path, ids, np.array(scores), dtype)
    return paths


def test_nlvr2_by_hand(tmp_path: Path) -> None:
    """Run 0 is sure of False (logit 9); runs 1 and 2 give True 0.88. The average of probabilities follows the two."""
    ids = ["dev-0-0-0", "dev-0-1-0"]
    sure, other = [[9, 0], [0, 1]], [[0, 2], [0, 1]]
    runs = logits(tmp_path, ids, sure, other, other)
    labels = [{"identifier": id_, "label": "True"} for id_ in ids]
    (tmp_path / "dev.json").write_text("".join(json.dumps(entry) + "\n" for entry in labels))
    found = combine("nlvr2", runs, tmp_path / "probs.csv", "--annotations", tmp_path / "dev.json")
    assert found == {"accuracy": 1.0, "consistency": 1.0}
    assert (tmp_path / "probs.csv").read_text() == "dev-0-0-0,True\ndev-0-1-0,True\n"
    assert combine("nlvr2", runs, tmp_path / "logits.csv", "--average", "logits") is None
    assert (tmp_path / "logits.csv").read_text() == "dev-0-0-0,False\ndev-0-1-0,True\n"


def test_answers_to_another_split_leave_no_file(tmp_path: Path) -> None:
    (run,) = logits(tmp_path, ["dev-0-0-0"], [[1, 0]])
    labels = [{"identifier": f"dev-0-{k}-0", "label": "True"} for k in range(2)]
    (tmp_path / "dev.json").write_text("".join(json.dumps(entry) + "\n" for entry in labels))
    with pytest.raises(InputError, match="missing example ids"):
        combine("nlvr2", [run], tmp_path / "o.csv", "--annotations", tmp_path / "dev.json")
    assert not (tmp_path / "o.csv").exists()


def test_probabilities() -> None:
    x = np.array([0.0, np.log(3), -np.log(3), 800])
    np.testing.assert_allclose(probabilities.sigmoid(x), [0.5, 0.75, 0.25, 1.0], rtol=1e-15)
    np.testing.assert_allclose(probabilities.softmax(np.log([1.0, 2, 3, 4])), [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(probabilities.softmax(np.array([1000.0, 1000])), [0.5, 0.5])
    twenty = probabilities.softmax_of_fours(np.log(np.tile([1.0, 2, 3, 4], 5)) + np.repeat(np.arange(5), 4))
    np.testing.assert_allclose(twenty, np.tile([0.1, 0.2, 0.3, 0.4], 5))


def test_ve_sigmoid_of_each_answer(tmp_path: Path) -> None:
    """Answer 0 has probabilities 0.95 and 0.05, answer 1 twice 0.6: the averages are 0.5 and 0.6."""

    def logit(p: float) -> float:
        return np.log(p / (1 - p))

    runs = logits(tmp_path, ["a"], [[logit(0.95), logit(0.6), -9]], [[logit(0.05), logit(0.6), -9]])
    entry = {"pairID": "a", "gold_label": "entailment", "Flickr30K_ID": "1", "sentence2": "A dog."}
    (tmp_path / "gold.jsonl").write_text(json.dumps(entry))
    assert combine("ve", runs, tmp_path / "ve.json", "--annotations", tmp_path / "gold.jsonl") == {"accuracy": 1.0}
    assert json.loads((tmp_path / "ve.json").read_text()) == [{"id": "a", "label": "entailment"}]


def test_vqa(tmp_path: Path) -> None:
    """fp16 logits of 3 answers; more questions than one block, ids as the release stores them."""
    (tmp_path / "answers.json").write_text('{"yes": 1, "no": 0, "2": 2}')
    ids = [100 + i for i in range(ensemble.ROWS + 5)]
    one, two = RNG.normal(size=(2, len(ids), 3)).astype(np.float16)
    runs = logits(tmp_path, ids, one, two, dtype=np.float16)
    best = (probabilities.sigmoid(one.astype(float)) + probabilities.sigmoid(two.astype(float))).argmax(1)
    names = ["no", "yes", "2"]
    annotations = [{"question_id": id_, "answers": [{"answer": names[b]}] * 10} for id_, b in zip(ids, best)]
    annotations[0]["answers"] = [{"answer": "none of these"}] * 10
    (tmp_path / "gold.json").write_text(json.dumps({"annotations": annotations}))
    options = ("--ans2label", tmp_path / "answers.json")
    found = combine("vqa", runs, tmp_path / "vqa.json", "--annotations", tmp_path / "gold.json", *options)
    assert found["overall"] == pytest.approx(100 * (len(ids) - 1) / len(ids))
    with pytest.raises(
        InputError, match=r"answer vocabulary[\s\S]*run0\.npz[\s\S]*\(3,\)[\s\S]*3129[\s\S]*--ans2label"
    ):
        combine("vqa", runs, tmp_path / "b.json")
    assert not (tmp_path / "b.json").exists()


def test_vcr(tmp_path: Path) -> None:
    """One run alone keeps its scores; JSON and npz are the same run; the average has the accuracies of the mean."""
    golden, batch = arrays("vcr/outputs_eval_test.npz"), arrays("vcr/batch_eval_test.npz")
    ids, targets = ["val-2", "val-0", "val-11"], [batch[key].ravel() for key in ("qa_targets", "qar_targets")]
    one, two = golden["scores_grouped"], RNG.normal(size=(3, 20)).astype(np.float32)
    entries = [{"annot_id": i, "answer_label": int(a), "rationale_label": int(r)} for i, a, r in zip(ids, *targets)]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    runs = logits(tmp_path, ids, one, two)
    gold = ("--annotations", tmp_path / "val.jsonl")
    assert combine("vcr", runs[:1], tmp_path / "one.json", *gold) == vcr_accuracies(one, *targets)
    write_vcr_json(tmp_path / "run.json", ids, one, ids)
    found = combine("vcr", [tmp_path / "run.json", runs[1]], tmp_path / "both.csv", *gold)
    mean = np.stack([[probabilities.softmax_of_fours(row.astype(float)) for row in run] for run in (one, two)]).mean(0)
    assert found == vcr_accuracies(mean, *targets)
    stored = json.loads((tmp_path / "both.json").read_text())
    np.testing.assert_allclose([stored[id_] for id_ in ids], mean, rtol=1e-12)
    combine("vcr", runs, tmp_path / "npz.json")
    assert (tmp_path / "npz.json").read_bytes() == (tmp_path / "both.json").read_bytes()
    assert [line.split(",")[0] for line in (tmp_path / "npz.csv").read_text().split()[1:]] == [
        "val-0",
        "val-2",
        "val-11",
    ]


def test_re(tmp_path: Path) -> None:
    """Three boxes: each run prefers a different wrong box, and both have the right box second."""
    boxes, target = np.array([[0, 0, 9, 9], [50, 50, 9, 9], [100, 0, 9, 9]]), [100.0, 0.0, 9.0, 9.0]
    runs = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path, row in zip(runs, ([3.0, 0, 2.8], [0.0, 3, 2.8])):
        write_re_logits(path, [7], [np.array(row)], [boxes], [target])
        combine("re", [path], tmp_path / "one.json")
        assert json.loads((tmp_path / "one.json").read_text())[0]["pred_box"] != target
    combine("re", runs, tmp_path / "both.json")
    assert json.loads((tmp_path / "both.json").read_text()) == [{"sent_id": 7, "pred_box": target, "tgt_box": target}]
    write_re_logits(runs[1], [7], [np.zeros(3)], [boxes], [[60.0, *target[1:]]])
    with pytest.raises(InputError, match=r"contradict[\s\S]*b\.npz[\s\S]*tgt_box/7[\s\S]*60[\s\S]*100[\s\S]*a\.npz"):
        combine("re", runs, tmp_path / "other.json")
    write_re_logits(runs[1], [7], [np.zeros(3)], [boxes + 1], [target])
    with pytest.raises(InputError, match=r"different boxes[\s\S]*b\.npz[\s\S]*boxes/7"):
        combine("re", runs, tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


def test_retrieval(tmp_path: Path) -> None:
    case = json.loads((GOLDEN / "evaluation" / "itm_eval.json").read_text())["signal_20img"]
    one = arrays("evaluation/itm_signal_20img.npz")["scores"]
    two = one + RNG.normal(size=one.shape).astype(np.float32)
    columns = np.array([case["img_ids"].index(case["txt2img"][id_]) for id_ in case["txt_ids"]])
    runs = [tmp_path / "a" / "results.npz", tmp_path / "b" / "results.npz"]
    for path, scores in zip(runs, (one, two)):
        write_retrieval(path, scores, case["txt_ids"], case["img_ids"])
    (tmp_path / "txt2img.json").write_text(json.dumps(case["txt2img"]))
    gold = ("--annotations", tmp_path / "txt2img.json")
    assert combine("itm", runs[:1] * 3, tmp_path / "same.npz") is None
    np.testing.assert_allclose(np.load(tmp_path / "same.npz")["scores"], one, atol=1e-6)
    mean = (probabilities.sigmoid(one.astype(float)) + probabilities.sigmoid(two.astype(float))) / 2
    found = combine("itm", runs, tmp_path / "both.npz", *gold)
    assert found == retrieval_recalls(mean, columns) == json.loads((tmp_path / "scores.json").read_text())
    logits_found = combine("itm", runs, tmp_path / "c" / "logits.npz", "--average", "logits", *gold)
    assert logits_found == retrieval_recalls((one + two) / 2, columns)
    write_retrieval(runs[1], two[::-1, ::-1], case["txt_ids"][::-1], case["img_ids"][::-1])
    assert combine("itm", runs, tmp_path / "both.npz", *gold) == found  # also by its ids in another order
    write_retrieval(runs[1], two, case["txt_ids"], [*case["img_ids"][1:], "another.npz"])
    with pytest.raises(InputError, match=r"different examples[\s\S]*b/results\.npz[\s\S]*another\.npz[\s\S]*1 ids"):
        combine("itm", runs, tmp_path / "other.npz")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("average", ["probs", "logits"])
def test_retrieval_scores_that_are_not_finite(tmp_path: Path, value: float, average: str) -> None:
    ids = {"txt_ids": np.array(["0", "1"]), "img_ids": np.array(["x", "y"])}
    np.savez(tmp_path / "good.npz", scores=np.eye(2, dtype=np.float32), **ids)
    np.savez(tmp_path / "bad.npz", scores=np.array([[0, 1], [value, 0]], np.float32), **ids)
    runs = [tmp_path / "good.npz", tmp_path / "bad.npz"]
    with pytest.raises(
        InputError, match=r"not finite[\s\S]*bad\.npz[\s\S]*scores of 1[\s\S]*finite numbers[\s\S]*remedy"
    ):
        combine("itm", runs, tmp_path / "out.npz", "--average", average)
    assert not (tmp_path / "out.npz").exists()


def test_itm_keeps_apart_what_sigmoid_would_not(tmp_path: Path) -> None:
    """Scores of 30 and 40 are both 1 as fp32 probabilities; their order must not be lost."""
    scores = np.array([[40.0, 30], [30, 40], [-200, -300]])
    write_retrieval(tmp_path / "a.npz", scores, ["0", "1", "2"], ["x", "y"])
    combine("itm", [tmp_path / "a.npz"] * 2, tmp_path / "b.npz")
    found = np.load(tmp_path / "b.npz")["scores"]
    assert match_ranks(found, np.array([0, 1, 0]))[0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(found, scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("task", "ids", "scores", "message"),
    [
        ("ve", ["a", "c"], np.zeros((2, 3)), r"different examples[\s\S]*other\.npz[\s\S]*key: +c\b"),
        (
            "ve",
            ["a"],
            np.zeros((1, 3)),
            r"different examples[\s\S]*other\.npz[\s\S]*0 ids that are not in .*run0\.npz; 1",
        ),
        ("ve", ["a", "b"], np.zeros((2, 4)), r"wrong shape[\s\S]*other\.npz[\s\S]*key: +a[\s\S]*\(4,\)[\s\S]*\(3,\)"),
        ("ve", ["a", "b"], np.zeros((2, 1, 3)), "wrong shape"),
        ("ve", ["a", "b"], np.array([[0, 0, 0], [0, np.nan, 0]]), r"not finite[\s\S]*other\.npz[\s\S]*key: +b"),
        ("nlvr2", ["a", "b"], np.zeros((2, 3)), r"wrong shape[\s\S]*run0\.npz[\s\S]*\(2,\)"),
    ],
)
def test_refused(tmp_path: Path, task: str, ids: list[str], scores: np.ndarray, message: str) -> None:
    runs = logits(tmp_path, ["a", "b"], np.zeros((2, 3)))
    write_npz(tmp_path / "other.npz", zip(ids, scores))
    with pytest.raises(InputError, match=message):
        combine(task, [*runs, tmp_path / "other.npz"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
