"""Metrics of retrieval, NLVR2, VCR and referring expressions: the goldens, cases by hand, invariants."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from evaluation import recall
from evaluation.metrics import (
    accuracy,
    box_iou,
    nlvr2_consistency,
    nlvr2_sentence,
    re_accuracy,
    re_upper_bound,
    vcr_accuracies,
)
from evaluation.recall import match_ranks, picture_columns, rank_of_first, retrieval_recalls
from tests.golden_data import GOLDEN, arrays
from utils.errors import InputError

ITM = json.loads((GOLDEN / "evaluation" / "itm_eval.json").read_text())


def itm_case(name: str) -> tuple[np.ndarray, np.ndarray]:
    case = ITM[name]
    scores = arrays(f"evaluation/itm_{name}.npz")["scores"]
    return scores, picture_columns(case["txt_ids"], case["img_ids"], case["txt2img"])


@pytest.mark.parametrize("name", ITM)
def test_recalls_equal_the_golden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "BLOCK_ROWS", 7)  # several blocks, the last one short
    scores, columns = itm_case(name)
    recalls, original = retrieval_recalls(scores, columns), ITM[name]["original"]
    assert recalls.keys() == original.keys()
    assert {key: value for key, value in recalls.items() if key.startswith("txt_")} == pytest.approx(
        {key: value for key, value in original.items() if key.startswith("txt_")}, abs=1e-15
    )
    if ITM[name]["corrected"]:  # the case with ties has none
        assert {key: recalls[key] for key in ITM[name]["corrected"]} == ITM[name]["corrected"]
    assert recalls["img_r_mean"] == pytest.approx((recalls["img_r1"] + recalls["img_r5"] + recalls["img_r10"]) / 3)
    assert recalls["r_mean"] == pytest.approx((recalls["img_r_mean"] + recalls["txt_r_mean"]) / 2)


@pytest.mark.parametrize("name", ITM)
def test_ranks_give_the_release_numbers_under_its_count(name: str) -> None:
    """The release counts, beside the ranks below k, the row numbers below k of queries found among the first ten.

    With equal scores in fp16 too: the golden counts ties against the right picture.
    """
    scores, columns = itm_case(name)
    ranks, _ = match_ranks(scores, columns)
    rows = np.flatnonzero(ranks < 10)
    for k in (1, 5, 10):
        counted = (ranks < k).sum() + (rows < k).sum()
        assert counted / len(ranks) == pytest.approx(ITM[name]["original"][f"img_r{k}"], abs=1e-15)


def test_recalls_by_hand() -> None:
    """Picture 0 has texts 0 and 1, picture 1 has text 2; text 1 prefers picture 1, picture 1 prefers text 1."""
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    ranks, txt_ranks = match_ranks(scores, np.array([0, 0, 1]))
    assert ranks.tolist() == [0, 1, 0] and txt_ranks.tolist() == [0, 1]
    found = retrieval_recalls(scores, np.array([0, 0, 1]))
    assert found["img_r1"] == pytest.approx(2 / 3) and found["txt_r1"] == 0.5
    assert found["img_r5"] == found["txt_r10"] == 1.0


def test_ranks_equal_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few distinct scores, pictures without a text: as one sorts by hand, with the wrong ones first among equals."""
    monkeypatch.setattr(recall, "BLOCK_ROWS", 16)
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, (70, 25)).astype(np.float32)
    columns = rng.integers(0, 20, 70)
    columns[columns == 3] = 4
    ranks, txt_ranks = match_ranks(scores, columns)
    for text, column in enumerate(columns):
        keys = [(-score, picture == column) for picture, score in enumerate(scores[text])]
        order = sorted(range(25), key=keys.__getitem__)
        assert ranks[text] == order.index(column)
    for picture, rank in zip(np.unique(columns), txt_ranks, strict=True):
        keys = [(-score, column == picture) for score, column in zip(scores[:, picture], columns)]
        order = sorted(range(70), key=keys.__getitem__)
        assert rank == next(place for place, text in enumerate(order) if columns[text] == picture)
    shuffled, moved = rng.permutation(70), rng.permutation(25)
    again = retrieval_recalls(scores[shuffled][:, np.argsort(moved)], moved[columns][shuffled])
    assert again == retrieval_recalls(scores, columns)


def test_equal_scores_earn_nothing() -> None:
    found = retrieval_recalls(np.zeros((60, 12), np.float16), np.repeat(np.arange(12), 5))
    assert not any(found.values())
    assert rank_of_first(np.zeros((2, 5))).tolist() == [4, 4]
    assert rank_of_first(np.array([[3.0, 1, 2], [1, 3, 2], [2, 2, 1], [2, 3, 2]])).tolist() == [0, 2, 1, 2]


def test_retrieval_refuses() -> None:
    scores = np.zeros((3, 2))
    with pytest.raises(InputError, match="not among the scored images"):
        retrieval_recalls(scores, np.array([0, 1, 2]))
    with pytest.raises(InputError, match="do not fit"):
        retrieval_recalls(scores, np.array([0, 1]))
    scores[2, 1] = np.nan
    with pytest.raises(InputError, match="row 2"):
        retrieval_recalls(scores, np.array([0, 1, 1]))
    with pytest.raises(InputError, match="row 2"):
        rank_of_first(scores)
    with pytest.raises(InputError, match=r"key: +t1\n[\s\S]*1 of 2 texts"):
        picture_columns(["t0", "t1"], ["a", "b"], {"t0": "b", "t1": "c"})
    assert picture_columns(["t0", "t1"], ["a", "b"], {"t0": "b", "t1": "a"}).tolist() == [1, 0]


def test_accuracy() -> None:
    assert accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0])) == 0.75


def test_nlvr2_golden() -> None:
    folder = GOLDEN / "evaluation"
    labels = {e["identifier"]: e["label"] for e in map(json.loads, (folder / "nlvr2_ann.jsonl").open())}
    answers = dict(line.split(",") for line in (folder / "nlvr2_pred.csv").read_text().split())
    correct = [answers[id_] == label for id_, label in labels.items()]
    assert (
        f"accuracy={np.mean(correct)}\nconsistency={nlvr2_consistency(list(labels), correct)}\n"
        == (folder / "nlvr2_stdout.txt").read_text()
    )


def test_nlvr2_consistency_by_hand() -> None:
    ids = ["dev-1-0-0", "dev-1-1-0", "dev-1-0-1", "dev-2-0-0", "test1-1-0-0"]
    assert nlvr2_consistency(ids, [True, False, True, True, False]) == 0.5  # dev-1·0 no, dev-1·1, dev-2·0, test1-1·0 no
    assert nlvr2_sentence("dev-850-3-1") == "dev-850-1"
    with pytest.raises(InputError, match="dev-850-3"):
        nlvr2_sentence("dev-850-3")


def test_nlvr2_identifiers_are_sentences() -> None:
    if not (folder := os.environ.get("UNITER_REALDATA")):
        pytest.skip("UNITER_REALDATA names no folder of real data")
    texts: dict[str, set[str]] = {}
    with gzip.open(Path(folder) / "nlvr2" / "dev.json.gz") as stream:
        for entry in map(json.loads, stream):
            texts.setdefault(nlvr2_sentence(entry["identifier"]), set()).add(entry["sentence"])
    assert len(texts) == 2018 and all(len(found) == 1 for found in texts.values())
    assert len(set.union(*texts.values())) == 2004


@pytest.mark.parametrize("split", ["val", "test"])
def test_vcr_golden(split: str) -> None:
    golden, batch = arrays(f"vcr/outputs_eval_{split}.npz"), arrays(f"vcr/batch_eval_{split}.npz")
    scores = golden["scores_grouped"]
    found = vcr_accuracies(scores, batch["qa_targets"].ravel(), batch["qar_targets"].ravel())
    right = (golden["n_correct_qa_qar_joint"] / len(scores)).tolist()
    assert [found["acc_qa"], found["acc_qar"], found["acc"]] == pytest.approx(right, abs=1e-15)


def test_vcr_twenty_scores_equal_eight() -> None:
    rng = np.random.default_rng(1)
    full, answer, rationale = rng.normal(size=(500, 20)), rng.integers(0, 4, 500), rng.integers(0, 4, 500)
    given_truth = np.stack([np.r_[row[:4], row[4 + 4 * a : 8 + 4 * a]] for row, a in zip(full, answer)])
    found = vcr_accuracies(full, answer, rationale)
    assert found == vcr_accuracies(given_truth, answer, rationale)
    assert 0 < found["acc"] < min(found["acc_qa"], found["acc_qar"])


def test_vcr_by_hand_and_refused() -> None:
    """Wrong answer 1 for 0: its rationale is right, that of the true answer too, and the joint one still wrong."""
    scores = np.zeros((1, 20))
    scores[0, [1, 4 + 2, 8 + 2]] = 1
    assert vcr_accuracies(scores, [0], [2]) == {"acc_qa": 0.0, "acc_qar": 1.0, "acc": 0.0}
    assert vcr_accuracies(scores, [1], [2]) == {"acc_qa": 1.0, "acc_qar": 1.0, "acc": 1.0}
    with pytest.raises(InputError, match=r"0\.\.3"):
        vcr_accuracies(scores, [-1], [-1])
    with pytest.raises(InputError, match="8 or 20"):
        vcr_accuracies(scores[:, :12], [0], [2])


def test_iou_golden() -> None:
    cases = json.loads((GOLDEN / "evaluation" / "re_iou.json").read_text())["cases"]
    one, two, expected = (np.array([case[key] for case in cases]) for key in ("box1", "box2", "iou"))
    np.testing.assert_array_equal(box_iou(one, two), expected)
    np.testing.assert_array_equal(box_iou(two, one), expected)


def test_iou_conventions_and_threshold() -> None:
    ten = [0, 0, 10, 10]
    assert box_iou(ten, [9, 9, 5, 5], inclusive=False) == 1 / 124  # one shared pixel
    assert box_iou(ten, [9, 9, 5, 5]) == 0
    assert box_iou(ten, [10, 0, 10, 10], inclusive=False) == 0
    assert box_iou([0, 0, 0, 0], [0, 0, 0, 0], inclusive=False) == 0
    assert box_iou(ten, [0, 0, 10, 20]) == 0.5
    assert re_accuracy([ten, ten], [[0, 0, 10, 20], [0, 0, 10, 19]]) == 0.5  # above one half, not at it
    boxes = [np.array([[50, 50, 5, 5], ten]), np.array([[50, 50, 5, 5]]), np.array([[0, 0, 10, 5]])]
    assert re_upper_bound(boxes, np.array([ten, ten, ten])) == pytest.approx(1 / 3)
