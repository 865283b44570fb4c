"""Metrics of the tasks, as their benchmarks define them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from utils.errors import InputError
from utils.vqa_answers import normalize, tidy

Entry = Mapping[str, Any]


def vqa_soft_score(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(E,) soft score of each example's predicted answer: `targets` (E, A) at the largest of `scores` (E, A).

    With ten annotators it is that answer's official accuracy; it needs no annotations.
    """
    return targets.gather(1, scores.argmax(dim=1, keepdim=True)).squeeze(1)


def official_vqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """The VQA accuracy of `answer`, in 0..1, given all annotators' answers (ten in VQA v2).

    min(1, number of annotators who gave it / 3), averaged over leaving each annotator out. As in the official
    code, answers are normalised only where annotators disagree: where all agree, their spelling must be met.
    """
    answer, annotators = tidy(answer), [tidy(given) for given in annotators]
    if len(set(annotators)) > 1:
        answer, annotators = normalize(answer), [normalize(given) for given in annotators]
    hits, others = annotators.count(answer), len(annotators)
    without_a_hit, without_another = min(1.0, (hits - 1) / 3), min(1.0, hits / 3)
    return (hits * without_a_hit + (others - hits) * without_another) / others


def evaluate_vqa(results: Iterable[Entry], annotations: Iterable[Entry]) -> dict[str, Any]:
    """Official accuracies, in percent, of a results file against annotations.

    `results`: entries `{"question_id", "answer"}`; `annotations`: the official file's entries. `InputError`
    unless both are of the same questions. Returns `overall`, `questions` (their number), and `answer_type` and
    `question_type`, each a dict from its names to accuracies (empty where the annotations do not tell).
    """
    given, truth = by_question(results, "answered"), by_question(annotations, "annotated")
    check_ids(given, truth, "question")
    accuracy = {
        id_: official_vqa_accuracy(given[id_]["answer"], [answer["answer"] for answer in entry["answers"]])
        for id_, entry in truth.items()
    }
    return {
        "overall": 100 * sum(accuracy.values()) / len(accuracy),
        "questions": len(accuracy),
        "answer_type": accuracy_by(accuracy, truth, "answer_type"),
        "question_type": accuracy_by(accuracy, truth, "question_type"),
    }


def by_question(entries: Iterable[Entry], what: str) -> dict[int, Entry]:
    """Question id to its entry; `InputError` where one comes twice."""
    found: dict[int, Entry] = {}
    for entry in entries:
        id_ = entry["question_id"]
        if id_ in found:
            raise InputError(f"a question is {what} twice", key=f"question_id {id_}")
        found[id_] = entry
    return found


def accuracy_by(accuracy: Mapping[int, float], annotations: Mapping[int, Entry], key: str) -> dict[str, float]:
    """Mean accuracy in percent for each value of the annotations' `key`, in alphabetical order."""
    groups: dict[str, list[float]] = defaultdict(list)
    for id_, value in accuracy.items():
        if key in annotations[id_]:
            groups[annotations[id_][key]].append(value)
    return {name: 100 * sum(values) / len(values) for name, values in sorted(groups.items())}


def check_ids(found: Iterable[Any], expected: Iterable[Any], what: str) -> None:
    """`InputError` unless `found` and `expected` hold the same ids, at least one; names a few."""
    found, expected = set(found), set(expected)
    for name, ids in (("unknown", found - expected), ("missing", expected - found)):
        if ids:
            few = ", ".join(map(str, sorted(ids, key=str)[:5]))
            raise InputError(
                f"{name} {what} ids",
                key=few + (", ..." if len(ids) > 5 else ""),
                found=f"{len(ids)} {name} of {len(found)} given",
                expected=f"exactly the {len(expected)} {what}s of the split",
                remedy="check that predictions and split belong together",
            )
    if not expected:
        raise InputError(f"no {what}s at all")
