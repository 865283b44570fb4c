"""Metrics of the tasks, as their benchmarks define them. Retrieval has its own file, `evaluation/recall.py`.

Legend: E examples, A answers, R boxes.
"""

import re
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
NLVR2_ID = re.compile("[^-]*(-[^-]*){3}|[^-]+(-[0-9]+){4}")  # the second form is the contrast set's


def vqa_soft_score(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The soft score (E,) of each example's predicted answer: `targets` (E, A) at the largest of `scores` (E, A).

    With ten annotators it equals the official accuracy of that answer, without needing the annotations.
    """
    return targets.gather(1, scores.argmax(dim=1, keepdim=True)).squeeze(1)


def official_vqa_accuracy(answer: str, annotator_answers: Sequence[str]) -> float:
    """The official VQA accuracy of one answer, from 0 to 1, given the answers of all annotators (ten in VQA v2).

    For each annotator who is left out: min(1, number of others who gave the answer / 3); then the mean. As in the
    official code, answers are normalised only where annotators disagree. Where all agree, the spelling must match.
    """
    answer, references = tidy(answer), [tidy(text) for text in annotator_answers]
    if len(set(references)) > 1:
        answer, references = normalize(answer), [normalize(text) for text in references]
    hits, annotators = references.count(answer), len(references)
    without_a_hit, without_another = min(1.0, (hits - 1) / 3), min(1.0, hits / 3)
    return (hits * without_a_hit + (annotators - hits) * without_another) / annotators


def evaluate_vqa(
    results: Iterable[Entry], annotations: Iterable[Entry], file: object = None, annotation_files: object = None
) -> dict[str, Any]:
    """Official VQA accuracies, in percent, of a results file against annotations.

    `results`: entries `{"question_id", "answer"}`; `annotations`: the entries of the official file. Raises `InputError`
    unless both have the same questions. Returns `overall`, `questions` (their number), and `answer_type` and
    `question_type`, each a dict from type to accuracy (empty where the annotations have no types). `file` and
    `annotation_files`: where both are from, for the error.
    """
    predictions = by_question(results, "answered", file)
    truth = by_question(annotations, "annotated", annotation_files)
    check_ids(predictions, truth, "question", file, annotation_files)
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


def by_question(entries: Iterable[Entry], verb: str, file: object = None) -> dict[int, Entry]:
    """Map question ids to entries; `InputError` where an id comes twice, with `verb` ("answered") and `file`."""
    entry_by_id: dict[int, Entry] = {}
    for entry in entries:
        id_ = entry["question_id"]
        if id_ in entry_by_id:
            raise InputError(
                f"a question is {verb} twice",
                file=file,
                key=f"question_id {id_}",
                found="a second entry for it",
                expected="one entry per question",
                remedy="remove one of them, or write the file again",
            )
        entry_by_id[id_] = entry
    return entry_by_id


def mean_accuracy_by(accuracies: Mapping[int, float], annotations: Mapping[int, Entry], key: str) -> dict[str, float]:
    """Mean accuracy, in percent, for each value of `key` in the annotations, in alphabetical order."""
    groups: dict[str, list[float]] = defaultdict(list)
    for id_, value in accuracies.items():
        if key in annotations[id_]:
            groups[annotations[id_][key]].append(value)
    return {name: 100 * sum(values) / len(values) for name, values in sorted(groups.items())}


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Accuracy from 0 to 1: the share of `predicted` labels (E,) that equal `labels` (E,)."""
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    assert predicted.shape == labels.shape and predicted.ndim == 1, (predicted.shape, labels.shape)
    return float((predicted == labels).mean())


def nlvr2_sentence(identifier: str) -> str:
    """The key of the sentence in an NLVR2 identifier "split-set-pair-sentence": the identifier without the pair.

    As in the official evaluation. The text of the sentence is not a key: the official dev set has 2,018 sentences by
    identifier, and 11 texts among them belong to more than one set of images. In the contrast set a fifth part numbers
    the variants of one example, and the key is the example: all variants must be right. `InputError` for another form.
    """
    parts = identifier.split("-")
    if not NLVR2_ID.fullmatch(identifier):
        expected = "four parts, such as dev-896-0-1, or five in the contrast set, such as test1-769-1-0-1"
        raise InputError("not an NLVR2 identifier", found=identifier, expected=expected)
    return "-".join(parts[:4] if len(parts) == 5 else parts[:2] + parts[3:])


def nlvr2_consistency(ids: Sequence[str], correct: Sequence[bool] | np.ndarray) -> float:
    """Consistency from 0 to 1: the share of sentences that are right for all their image pairs. `correct` (E,) bool."""
    all_correct: dict[str, bool] = {}  # by sentence
    for id_, hit in zip(ids, correct, strict=True):
        sentence = nlvr2_sentence(id_)
        all_correct[sentence] = all_correct.get(sentence, True) and bool(hit)
    return sum(all_correct.values()) / len(all_correct)


def vcr_accuracies(scores: ArrayLike, qa_target: ArrayLike, qar_target: ArrayLike) -> dict[str, float]:
    """VCR accuracies from 0 to 1: `acc_qa` (Q→A), `acc_qar` (QA→R, given the right answer), `acc` (Q→AR, both right).

    `scores` (E, 8): four answers, then four rationales given the right answer (validation). Or (E, 20): four answers,
    then four rationales given each answer. Targets (E,), from 0 to 3. With 20 scores, `acc` uses the rationales given
    the predicted answer. Both widths give the same numbers, because `acc` counts only where that answer is right.
    Raises `InputError` for another width and for targets outside 0..3.
    """
    scores, qa_target, qar_target = np.asarray(scores), np.asarray(qa_target), np.asarray(qar_target)
    if scores.ndim != 2 or scores.shape[1] not in (2 * CHOICES, CHOICES + CHOICES**2):
        expected = "8 or 20 scores for each question"
        raise InputError("VCR scores have the wrong width", found=scores.shape, expected=expected)
    if not all(((target >= 0) & (target < CHOICES)).all() for target in (qa_target, qar_target)):
        raise InputError(
            "VCR targets are outside 0..3",
            expected="a split with labels",
            remedy="score another split; the test split's labels are not public",
        )
    rows = np.arange(len(scores))
    # (E, 1) or (E, 4): the best rationale given the right answer, or given each answer
    rationales = scores[:, CHOICES:].reshape(len(scores), -1, CHOICES).argmax(-1)
    answers = scores[:, :CHOICES].argmax(1)
    rationale_of_truth = rationales[rows, qa_target % rationales.shape[1]]
    rationale_of_answer = rationales[rows, answers % rationales.shape[1]]
    return {
        "acc_qa": float((answers == qa_target).mean()),
        "acc_qar": float((rationale_of_truth == qar_target).mean()),
        "acc": float(((answers == qa_target) & (rationale_of_answer == qar_target)).mean()),
    }


def box_iou(a: ArrayLike, b: ArrayLike, inclusive: bool = True) -> np.ndarray:
    """Intersection over union (…) of boxes `a` and `b` (…, 4), each x, y, w, h in pixels.

    `inclusive`: the convention of published results. A box ends on the pixel x + w − 1, and boxes that share only one
    row or column of pixels have no intersection. False: plain areas.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    pixel = 1 if inclusive else 0
    start = np.maximum(a[..., :2], b[..., :2])
    end = np.minimum(a[..., :2] + a[..., 2:] - pixel, b[..., :2] + b[..., 2:] - pixel)
    shared = np.where((start < end).all(-1), (end - start + pixel).prod(-1), 0.0)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def re_accuracy(predicted: ArrayLike, targets: ArrayLike, inclusive: bool = True) -> float:
    """Accuracy from 0 to 1: the share of `predicted` boxes (E, 4) whose IoU with `targets` (E, 4) is above 0.5."""
    return float((box_iou(predicted, targets, inclusive) > 0.5).mean())


def re_upper_bound(
    boxes: Sequence[ArrayLike], targets: Sequence[ArrayLike] | np.ndarray, inclusive: bool = True
) -> float:
    """The accuracy of choosing the best of each expression's `boxes` (R, 4): the limit that detection sets."""
    hits = [
        bool((box_iou(regions, target, inclusive) > 0.5).any()) for regions, target in zip(boxes, targets, strict=True)
    ]
    return float(np.mean(hits))
