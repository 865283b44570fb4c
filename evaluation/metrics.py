"""Metrics of the tasks, as their benchmarks define them.

E examples, A answers, R boxes. Retrieval has its own file, `evaluation/recall.py`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from evaluation.ids import check_ids
from evaluation.vqa_answers import normalize, tidy
from utils.errors import InputError
from utils.formats import CHOICES

Entry = Mapping[str, Any]


def vqa_soft_score(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(E,) soft score of each example's predicted answer: `targets` (E, A) at the largest of `scores` (E, A).

    With ten annotators it is that answer's official accuracy; it needs no annotations.
    """
    return targets.gather(1, scores.argmax(dim=1, keepdim=True)).squeeze(1)


def official_vqa_accuracy(answer: str, annotator_answers: Sequence[str]) -> float:
    """The VQA accuracy of `answer`, in 0..1, by all annotators' answers (ten in VQA v2).

    min(1, number of annotators who gave it / 3), averaged over leaving each annotator out. As in the official
    code, answers are normalised only where annotators disagree: where all agree, their spelling must be met.
    """
    answer, references = tidy(answer), [tidy(text) for text in annotator_answers]
    if len(set(references)) > 1:
        answer, references = normalize(answer), [normalize(text) for text in references]
    hits, annotators = references.count(answer), len(references)
    without_a_hit, without_another = min(1.0, (hits - 1) / 3), min(1.0, hits / 3)
    return (hits * without_a_hit + (annotators - hits) * without_another) / annotators


def evaluate_vqa(results: Iterable[Entry], annotations: Iterable[Entry]) -> dict[str, Any]:
    """Official accuracies, in percent, of a results file against annotations.

    `results`: entries `{"question_id", "answer"}`; `annotations`: the official file's entries. `InputError`
    unless both are of the same questions. Returns `overall`, `questions` (their number), and `answer_type` and
    `question_type`, each a dict from its names to accuracies (empty where the annotations do not tell).
    """
    predictions, truth = by_question(results, "answered"), by_question(annotations, "annotated")
    check_ids(predictions, truth, "question")
    accuracies = {
        id_: official_vqa_accuracy(predictions[id_]["answer"], [answer["answer"] for answer in entry["answers"]])
        for id_, entry in truth.items()
    }
    return {
        "overall": 100 * sum(accuracies.values()) / len(accuracies),
        "questions": len(accuracies),
        "answer_type": mean_accuracy_by(accuracies, truth, "answer_type"),
        "question_type": mean_accuracy_by(accuracies, truth, "question_type"),
    }


def by_question(entries: Iterable[Entry], verb: str) -> dict[int, Entry]:
    """Question id to its entry; `InputError` where an id comes twice. `verb` is for its message ("answered")."""
    entry_by_id: dict[int, Entry] = {}
    for entry in entries:
        id_ = entry["question_id"]
        if id_ in entry_by_id:
            raise InputError(f"a question is {verb} twice", key=f"question_id {id_}")
        entry_by_id[id_] = entry
    return entry_by_id


def mean_accuracy_by(accuracies: Mapping[int, float], annotations: Mapping[int, Entry], key: str) -> dict[str, float]:
    """Mean accuracy in percent for each value of the annotations' `key`, in alphabetical order."""
    groups: dict[str, list[float]] = defaultdict(list)
    for id_, value in accuracies.items():
        if key in annotations[id_]:
            groups[annotations[id_][key]].append(value)
    return {name: 100 * sum(values) / len(values) for name, values in sorted(groups.items())}


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Share of examples whose `predicted` (E,) label is that of `labels` (E,): visual entailment, NLVR2."""
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    assert predicted.shape == labels.shape and predicted.ndim == 1, (predicted.shape, labels.shape)
    return float((predicted == labels).mean())


def nlvr2_sentence(identifier: str) -> str:
    """The sentence that an NLVR2 identifier "split-set-pair-sentence" is about: the identifier without its pair.

    As in the official evaluation. The sentence's text would not do: the official dev set has 2,018 sentences by
    identifier, and 11 of their texts were written about more than one set of pictures.
    """
    parts = identifier.split("-")
    if len(parts) != 4:
        raise InputError("not an NLVR2 identifier", key=identifier, expected="four parts, such as dev-896-0-1")
    return "-".join(parts[:2] + parts[3:])


def nlvr2_consistency(ids: Sequence[str], correct: Sequence[bool] | np.ndarray) -> float:
    """Share of sentences that were judged right with all their pairs of pictures; `correct` (E,) bool."""
    all_correct: dict[str, bool] = {}  # by sentence
    for id_, hit in zip(ids, correct, strict=True):
        sentence = nlvr2_sentence(id_)
        all_correct[sentence] = all_correct.get(sentence, True) and bool(hit)
    return sum(all_correct.values()) / len(all_correct)


def vcr_accuracies(scores: ArrayLike, qa_target: ArrayLike, qar_target: ArrayLike) -> dict[str, float]:
    """Accuracies of question → answer, of question and true answer → rationale, and of both at once.

    `scores` (E, 8): four answers, four rationales given the true answer (validation); or (E, 20): four answers,
    four rationales given each answer. Targets (E,), 0..3. With 20 scores, `acc` takes the rationale that is given the
    predicted answer. Where `acc` counts, that answer is the true one, so both widths give the same three numbers.
    """
    scores, qa_target, qar_target = np.asarray(scores), np.asarray(qa_target), np.asarray(qar_target)
    if scores.ndim != 2 or scores.shape[1] not in (2 * CHOICES, CHOICES + CHOICES**2):
        raise InputError("VCR scores of the wrong width", found=scores.shape, expected="8 or 20 for each question")
    if not all(((target >= 0) & (target < CHOICES)).all() for target in (qa_target, qar_target)):
        raise InputError("VCR targets outside 0..3", remedy="a test split has no labels: it cannot be scored here")
    rows = np.arange(len(scores))
    rationales = scores[:, CHOICES:].reshape(len(scores), -1, CHOICES).argmax(-1)  # (E, 1) or (E, 4): one an answer
    answers = scores[:, :CHOICES].argmax(1)
    rationale_of_truth = rationales[rows, qa_target % rationales.shape[1]]
    rationale_of_answer = rationales[rows, answers % rationales.shape[1]]
    return {
        "acc_qa": float((answers == qa_target).mean()),
        "acc_qar": float((rationale_of_truth == qar_target).mean()),
        "acc": float(((answers == qa_target) & (rationale_of_answer == qar_target)).mean()),
    }


def box_iou(a: ArrayLike, b: ArrayLike, inclusive: bool = True) -> np.ndarray:
    """(…) intersection over union of boxes `a` and `b` (…, 4), each x, y, w, h in pixels.

    `inclusive` is the convention that published numbers stand on: a box ends on its pixel x + w − 1, and boxes that
    share one row or column of pixels only do not meet. Else the plain areas of geometry.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    pixel = 1 if inclusive else 0
    start = np.maximum(a[..., :2], b[..., :2])
    end = np.minimum(a[..., :2] + a[..., 2:] - pixel, b[..., :2] + b[..., 2:] - pixel)
    shared = np.where((start < end).all(-1), (end - start + pixel).prod(-1), 0.0)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def re_accuracy(predicted: ArrayLike, targets: ArrayLike, inclusive: bool = True) -> float:
    """Share of expressions whose `predicted` box (E, 4) meets that of `targets` (E, 4) at an IoU above 0.5."""
    return float((box_iou(predicted, targets, inclusive) > 0.5).mean())


def re_upper_bound(
    boxes: Sequence[ArrayLike], targets: Sequence[ArrayLike] | np.ndarray, inclusive: bool = True
) -> float:
    """The accuracy of always choosing the best of each expression's `boxes` (R, 4): what detection leaves."""
    hits = [
        bool((box_iou(regions, target, inclusive) > 0.5).any()) for regions, target in zip(boxes, targets, strict=True)
    ]
    return float(np.mean(hits))
