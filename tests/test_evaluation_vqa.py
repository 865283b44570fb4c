"""VQA answers, accuracy and files, against cases worked by hand from the official evaluation's definition."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.metrics import evaluate_vqa, official_vqa_accuracy, vqa_soft_score
from evaluation.submission import vqa_predictions, write_logits_npz, write_vqa
from evaluation.vqa_answers import (
    CONTRACTIONS,
    answer_vocabulary,
    label2ans,
    majority_answer,
    normalize,
    read_ans2label,
    soft_targets,
)
from scripts import eval_vqa
from utils.errors import InputError

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("  two dogs\n", "2 dogs"),
        ("The man", "man"),
        ("an apple and a pear", "apple and pear"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("red,white", "red white"),  # a mark that touches no space becomes one
        ("red, white", "red white"),  # ... one that does vanishes
        ("black/white, red/blue", "black white red blue"),
        ("black/white / red/blue", "blackwhite redblue"),  # the mark touches a space somewhere: it vanishes everywhere
        ("1,000", "1000"),
        ("1,000 red-white", "1000 redwhite"),  # a comma in a number: every mark vanishes
        ("3.5", "3.5"),
        ("3.", "3"),
        (".5", ".5"),
        ("U.S.A.", "usa"),
        ("10:30", "10:30"),
        ("man's", "man's"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("ID've", "id've"),
        ("what?!", "what"),
        ("(a) b", "b"),
        ("a", ""),
        ("." * 40, "." * 8),  # at most 32 periods are stripped
    ],
)
def test_normalize(answer: str, expected: str) -> None:
    assert normalize(answer) == expected


def test_contractions_lose_one_apostrophe() -> None:
    assert len(CONTRACTIONS) == 114
    assert all(right.replace("'", "") == wrong.replace("'", "") for wrong, right in CONTRACTIONS.items())


def test_release_answers_are_normal_forms() -> None:
    ans2label = read_ans2label()
    assert len(ans2label) == 3129
    assert ans2label["net"] == 0
    assert all(normalize(answer) == answer for answer in ans2label)
    assert label2ans(ans2label)[:3] == ["net", "pitcher", "orange"]


@pytest.mark.parametrize(("votes", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_accuracy_leaves_each_annotator_out(votes: int, expected: float) -> None:
    """3 of 10: leaving one of the three out, 2/3 (3 times); leaving another out, 1 (7 times): mean 0.9."""
    annotators = ["cat"] * votes + [f"other {i}" for i in range(10 - votes)]
    assert official_vqa_accuracy("cat", annotators) == pytest.approx(expected, abs=1e-12)
    by_hand = [min(1, (annotators[:i] + annotators[i + 1 :]).count("cat") / 3) for i in range(10)]
    assert official_vqa_accuracy("cat", annotators) == pytest.approx(sum(by_hand) / 10, abs=1e-12)
    scores = dict(zip(*soft_targets(annotators, {"cat": 7}).values(), strict=True))
    assert scores.get(7, 0.0) == expected


def test_accuracy_normalises_where_annotators_disagree() -> None:
    assert official_vqa_accuracy("The Two!", ["two"] * 4 + ["2"] * 5 + ["three"]) == 1.0
    assert official_vqa_accuracy("2", ["two"] * 10) == 0.0  # all agree: compared as they are
    assert official_vqa_accuracy("two\n", ["two "] * 10) == 1.0
    assert official_vqa_accuracy("2", ["2"]) == 0.0  # one annotator: nobody is left to agree


def test_soft_targets_hold_only_known_answers() -> None:
    annotators = ["Net", "net", "the net", "netting", "mesh", "net.", "two", "2", "pitcher", "orange"]
    ans2label = {"2": 5, "net": 0, "orange": 2}
    assert soft_targets(annotators, ans2label) == {"labels": [0, 5, 2], "scores": [1.0, 0.6, 0.3]}
    assert soft_targets(["mesh"] * 10, ans2label) == {"labels": [], "scores": []}


def test_vocabulary_is_the_most_frequent_majority_answers() -> None:
    majorities = ["yes", "no", "Yes", "two", "2", "the cat", "cat", "dog", "a"]
    assert answer_vocabulary(majorities, 3) == {"2": 0, "cat": 1, "yes": 2}
    assert answer_vocabulary(majorities) == {"2": 0, "cat": 1, "yes": 2, "dog": 3, "no": 4}
    assert answer_vocabulary(reversed(majorities), 4) == {"2": 0, "cat": 1, "yes": 2, "dog": 3}
    assert majority_answer(["b", "a dog", "Dog", "c"]) == "dog"
    assert majority_answer(["b", "c", "c", "b"]) == "b"


@pytest.mark.parametrize("content", ["[]", "{}", '{"a": 1, "b": 2}', '{"a": 0, "b": 0}', '{"a": "0"}', '{"a": true}'])
def test_read_ans2label_refuses(tmp_path: Path, content: str) -> None:
    (tmp_path / "answers.json").write_text(content)
    with pytest.raises(InputError, match="answer vocabulary"):
        read_ans2label(tmp_path / "answers.json")


def test_soft_score_equals_the_release() -> None:
    outputs, batch = np.load(GOLDEN / "vqa" / "outputs.npz"), np.load(GOLDEN / "vqa" / "batch.npz")
    found = vqa_soft_score(torch.tensor(outputs["scores"]), torch.tensor(batch["targets"]))
    np.testing.assert_array_equal(found, outputs["vqa_score_with_logits"].sum(1))


def annotation(question_id: int, answers: list[str], kind: str) -> dict[str, Any]:
    """An entry of an annotations file."""
    return {
        "question_id": question_id,
        "answers": [{"answer": answer, "answer_id": number} for number, answer in enumerate(answers, 1)],
        "question_type": f"what {kind}",
        "answer_type": kind,
    }


ANNOTATIONS = [
    annotation(1, ["net"] * 6 + ["netting", "mesh", "pitcher", "orange"], "other"),
    annotation(2, ["2"] * 3 + ["three"] * 7, "number"),
    annotation(3, ["yes"] * 10, "yes/no"),
    annotation(4, ["a cat"] * 2 + ["dog"] * 8, "other"),
]
RESULTS = [
    {"question_id": 4, "answer": "cat"},  # 0.6
    {"question_id": 1, "answer": "mesh"},  # 0.3
    {"question_id": 2, "answer": "two"},  # 0.9
    {"question_id": 3, "answer": "yes"},  # 1.0
]


def test_evaluate_vqa() -> None:
    accuracies = evaluate_vqa(RESULTS, ANNOTATIONS)
    assert accuracies["overall"] == pytest.approx(70.0)
    assert accuracies["questions"] == 4
    assert accuracies["answer_type"] == pytest.approx({"other": 45.0, "number": 90.0, "yes/no": 100.0})
    assert accuracies["question_type"] == pytest.approx({"what other": 45.0, "what number": 90.0, "what yes/no": 100.0})


def test_evaluate_vqa_wants_every_question_once() -> None:
    with pytest.raises(InputError, match=r"missing question ids[\s\S]*key: +4\b"):
        evaluate_vqa(RESULTS[1:], ANNOTATIONS)
    with pytest.raises(InputError, match=r"unknown question ids[\s\S]*key: +4\b"):
        evaluate_vqa(RESULTS, ANNOTATIONS[:3])
    with pytest.raises(InputError, match="answered twice"):
        evaluate_vqa([*RESULTS, RESULTS[0]], ANNOTATIONS)
    with pytest.raises(InputError, match="there are no questions"):
        evaluate_vqa([], [])


def test_eval_vqa_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: str(tmp_path / f"{name}.json") for name in ("results", "annotations", "questions", "part", "out")}
    Path(files["results"]).write_text(json.dumps(RESULTS))
    Path(files["part"]).write_text(json.dumps(RESULTS[:2]))
    Path(files["annotations"]).write_text(json.dumps({"annotations": ANNOTATIONS}))
    questions = [{"question_id": id_, "question": "what?", "image_id": 9} for id_ in (1, 4)]
    Path(files["questions"]).write_text(json.dumps({"data_subtype": "val2014", "questions": questions}))
    eval_vqa.main([files["results"], files["annotations"], "--json", files["out"]])
    assert capsys.readouterr().out.splitlines()[:4] == [
        "overall 70.00 % of 4 questions",
        "by answer type",
        "   90.00  number",
        "   45.00  other",
    ]
    assert json.loads(Path(files["out"]).read_text())["overall"] == pytest.approx(70.0)
    found = eval_vqa.main([files["part"], files["annotations"], "--questions", files["questions"]])
    assert found["overall"] == pytest.approx(45.0)
    with pytest.raises(InputError, match="missing question ids"):
        eval_vqa.main([files["part"], files["annotations"]])
    Path(files["part"]).write_text(json.dumps([{"question_id": "1", "answer": "mesh"}]))
    with pytest.raises(InputError, match=r"\[0\]\.question_id"):
        eval_vqa.main([files["part"], files["annotations"]])


def test_write_vqa(tmp_path: Path) -> None:
    path = tmp_path / "results" / "results_1_all.json"
    write_vqa(path, [(3, "yes"), (1, "café")], ["1", "3"])
    assert json.loads(path.read_bytes()) == [
        {"answer": "café", "question_id": 1},
        {"answer": "yes", "question_id": 3},
    ]
    write_vqa(path, {3: "no", 1: "net"}, [3, 1])
    assert json.loads(path.read_bytes())[0] == {"answer": "no", "question_id": 3}


@pytest.mark.parametrize(
    ("predictions", "expected", "message"),
    [
        ([(1, "a")], [1, 2], "missing question ids"),
        ([(1, "a"), (2, "b")], [1], "unknown question ids"),
        ([(1, "a"), (1, "b")], [1], "twice"),
        ([(1, "a")], [1, 1], "twice"),
        ([(1, 7)], [1], "not text"),
        ([], [], "there are no questions"),
    ],
)
def test_write_vqa_refuses(tmp_path: Path, predictions: Any, expected: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_vqa(tmp_path / "results.json", predictions, expected)
    assert not list(tmp_path.iterdir())


def test_predictions_are_the_best_answers() -> None:
    scores = np.array([[0.1, -3.0, 2.0], [5.0, 4.0, 4.5]], dtype=np.float32)
    assert vqa_predictions(["7", 8], scores, ["net", "yes", "2"]) == [(7, "2"), (8, "net")]
    scores[1, 1] = np.nan
    with pytest.raises(InputError, match=r"not finite[\s\S]*key: +8\b"):
        vqa_predictions(["7", 8], scores, ["net", "yes", "2"])
    with pytest.raises(InputError, match="do not fit"):
        vqa_predictions(["7", 8], scores, ["net", "yes"])


def test_logits_are_one_fp16_array_an_id(tmp_path: Path) -> None:
    path = tmp_path / "logits_1_all.npz"
    scores = np.random.default_rng(0).normal(size=(300, 17)).astype(np.float32)
    write_logits_npz(path, range(300), scores)
    with np.load(path, allow_pickle=False) as logits:
        assert logits.files == [str(id_) for id_ in range(300)]
        assert logits["7"].dtype == np.float16
        np.testing.assert_array_equal(logits["299"], scores[299].astype(np.float16))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("ids", "scores", "message"),
    [
        ([1, 2], [[0.0, 1.0], [0.0, np.inf]], "not finite"),
        ([1, 2], [[0.0, 1.0], [0.0, 7e4]], "not finite"),  # beyond fp16
        ([1, 1], [[0.0, 1.0], [0.0, 1.0]], "twice"),
        ([1], [[0.0, 1.0], [0.0, 1.0]], "number of ids is not the number of rows"),
    ],
)
def test_logits_refused(tmp_path: Path, ids: list[int], scores: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_logits_npz(tmp_path / "logits.npz", ids, np.array(scores))
    assert not list(tmp_path.iterdir())
