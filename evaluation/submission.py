"""Writers of the submission files that leaderboards take, and of the logits behind them.

Legend: E examples with `ids` (E,), A answers, R regions. `expected_ids` are the ids of the split, and give the order in
the file. Every writer raises `InputError` for missing, duplicate and unknown ids and for scores that are not finite.
Then no file is written; an old one stays.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from evaluation.ids import check_csv_ids, check_numbers, split_order
from utils.errors import InputError
from utils.files import atomic_write, write_json
from utils.formats import CHOICES, VE_LABELS
from utils.npz import write_npz

Id = int | str
VCR_COLUMNS = [f"answer_{a}" for a in range(CHOICES)]
VCR_COLUMNS += [f"rationale_conditioned_on_a{a}_{r}" for a in range(CHOICES) for r in range(CHOICES)]


def vqa_predictions(ids: Sequence[Id], scores: np.ndarray, answers: Sequence[str]) -> list[tuple[int, str]]:
    """The best answer for each row of `scores` (E, A) as (question id, answer); `answers` (A,) names the columns.

    Raises `InputError` for a wrong shape, and for scores that are not finite: their argmax would look like an answer.
    """
    if scores.shape != (len(ids), len(answers)):
        raise InputError(
            "scores do not fit the answer vocabulary",
            found=scores.shape,
            expected=(len(ids), len(answers)),
            remedy="use the ans2label.json that the checkpoint was trained with",
        )
    check_finite(ids, scores)
    return [(number, answers[column]) for number, column in zip(question_numbers(ids), scores.argmax(axis=1))]


def question_numbers(ids: Iterable[Id], file: object = None) -> list[int]:
    """Question ids as the whole numbers that VQA's server expects; `InputError` when one, of `file`, is no number."""
    ids = list(ids)
    check_numbers(map(str, ids), file)
    return [int(id_) for id_ in ids]


def write_vqa(
    path: str | Path, predictions: Mapping[int, str] | Iterable[tuple[int, str]], expected_ids: Iterable[Id]
) -> None:
    """Write VQA's submission: a list of `{"answer": str, "question_id": int}`.

    `predictions`: question ids and answers. Raises `InputError` also for an answer that is not text.
    """
    pairs = list(predictions.items() if isinstance(predictions, Mapping) else predictions)
    ids = [int(id_) for id_, _ in pairs]
    for id_, (_, answer) in zip(ids, pairs):
        if not isinstance(answer, str):
            raise InputError("an answer is not text", file=path, key=id_, found=repr(answer), expected="a string")
    order = split_order(path, ids, [int(id_) for id_ in expected_ids], "question")
    write_json(path, [{"answer": pairs[row][1], "question_id": ids[row]} for row in order])


def write_ve(path: str | Path, ids: Sequence[str], scores: np.ndarray, expected_ids: Iterable[str]) -> None:
    """Write visual entailment's file: a list of `{"id": str, "label": name}`, the best of `scores` (E, 3).

    The columns of `scores` are in the order of `VE_LABELS`.
    """
    order = split_order(path, ids, expected_ids, "pair")
    labels = argmax_rows(path, ids, scores, len(VE_LABELS))
    write_json(path, [{"id": ids[row], "label": VE_LABELS[labels[row]]} for row in order])


def write_nlvr2_csv(path: str | Path, ids: Sequence[str], scores: np.ndarray, expected_ids: Iterable[str]) -> None:
    """Write NLVR2's submission: lines `identifier,True` or `identifier,False`, the best of `scores` (E, 2).

    Column 0 is False, column 1 is True. Raises `InputError` also for an id that breaks a line (`check_csv_ids`).
    """
    check_csv_ids(ids, path)
    order = split_order(path, ids, expected_ids, "example")
    labels = argmax_rows(path, ids, scores, 2)
    atomic_write(path, "".join(f"{ids[row]},{bool(labels[row])}\n" for row in order).encode())


def write_vcr_json(path: str | Path, ids: Sequence[str], scores: np.ndarray, expected_ids: Iterable[str]) -> None:
    """Write `{annot_id: 20 raw scores}`. `scores` (E, 20): four answers, then four rationales given each answer."""
    order = vcr_order(path, ids, scores, expected_ids)
    write_json(path, {ids[row]: np.asarray(scores[row]).tolist() for row in order})


def write_vcr_csv(path: str | Path, ids: Sequence[str], scores: np.ndarray, expected_ids: Iterable[str]) -> None:
    """Write VCR's submission: a header, then `annot_id` and its 20 raw scores, sorted by the number in `annot_id`.

    Raises `InputError` also for an `annot_id` that does not end with a number or breaks a line (`check_csv_ids`).
    """
    check_csv_ids(ids, path)
    order = vcr_order(path, ids, scores, expected_ids)
    numbers = {row: re.search(r"-(\d+)$", ids[row]) for row in order}
    for row, number in numbers.items():
        if number is None:
            expected = "an id that ends with a number, such as test-17"
            remedy = "predict for a text store that prepro.py vcr made from the official files"
            raise InputError("not a VCR annot_id", file=path, key=ids[row], expected=expected, remedy=remedy)
    order = sorted(order, key=lambda row: int(numbers[row][1]))  # type: ignore[index]
    lines = [",".join(["annot_id", *VCR_COLUMNS])]
    lines += [",".join([ids[row], *map(repr, np.asarray(scores[row]).tolist())]) for row in order]
    atomic_write(path, "".join(f"{line}\n" for line in lines).encode())


def vcr_order(path: str | Path, ids: Sequence[str], scores: np.ndarray, expected_ids: Iterable[str]) -> list[int]:
    """The rows of `scores` (E, 20) in the order of the split; `InputError` for another shape or NaN or infinity."""
    if scores.shape != (len(ids), len(VCR_COLUMNS)):
        raise InputError(
            "VCR scores have the wrong shape", file=path, found=scores.shape, expected=(len(ids), len(VCR_COLUMNS))
        )
    check_finite(ids, scores)
    return split_order(path, ids, expected_ids, "question")


def write_re(path: str | Path, rows: Iterable[Mapping[str, Any]], expected_ids: Iterable[Id]) -> None:
    """Write referring expressions' results: a list of `{"sent_id": int, "pred_box": box, "tgt_box": box}`.

    A box is `[x, y, w, h]` in pixels. `rows`: entries with these keys, boxes as any sequence of four numbers.
    """
    rows = list(rows)
    check_numbers((str(row["sent_id"]) for row in rows), path)
    entries: list[dict[str, Any]] = [
        {"sent_id": int(row["sent_id"])} | {key: checked_box(path, row, key) for key in ("pred_box", "tgt_box")}
        for row in rows
    ]
    ids = [entry["sent_id"] for entry in entries]
    order = split_order(path, ids, [int(id_) for id_ in expected_ids], "expression")
    write_json(path, [entries[row] for row in order])


def checked_box(path: str | Path, row: Mapping[str, Any], key: str) -> list[float]:
    """The box `row[key]` as a list of four numbers; `InputError` for anything else and for negative width or height."""
    numbers = np.asarray(row[key], np.float64)
    if numbers.shape != (4,) or not np.isfinite(numbers).all() or (numbers[2:] < 0).any():
        raise InputError(
            "not a box",
            file=path,
            key=f"sent_id {row['sent_id']}, {key}",
            found=row[key],
            expected="x, y, w, h in pixels, with w and h at least 0",
        )
    return numbers.tolist()


def write_retrieval(path: str | Path, scores: np.ndarray, txt_ids: Sequence[str], img_ids: Sequence[str]) -> None:
    """Write retrieval's `results.npz`: `scores` (T, I) fp32, `txt_ids` (T,) and `img_ids` (I,), which name its rows
    and columns. The recalls go to `scores.json` in the same folder (`inf_itm.py`)."""
    if scores.shape != (len(txt_ids), len(img_ids)):
        raise InputError(
            "scores do not fit texts and images", file=path, found=scores.shape, expected=(len(txt_ids), len(img_ids))
        )
    for ids, noun in ((txt_ids, "text"), (img_ids, "image")):
        split_order(path, ids, ids, noun)
    with np.errstate(over="ignore"):
        scores = np.asarray(scores, np.float32)  # before the check: what is too large becomes infinite
    for start in range(0, len(txt_ids), 1024):
        check_finite(txt_ids[start : start + 1024], scores[start : start + 1024])
    arrays = [
        ("scores", scores),
        ("txt_ids", np.array(txt_ids, np.str_)),
        ("img_ids", np.array(img_ids, np.str_)),
    ]
    write_npz(path, arrays)


def write_logits_npz(
    path: str | Path, ids: Sequence[Id], scores: Sequence[np.ndarray] | np.ndarray, dtype: DTypeLike = np.float16
) -> None:
    """Write an npz with one array of logits for each id, from the rows of `scores` (E, A).

    `dtype`: fp16 as in the release for VQA; use fp32 for tasks with few scores. Raises `InputError` for duplicate ids
    and for values that are not finite in that type. Read an array with `numpy.load(path)[str(id)]`.
    """
    rows = logit_rows(path, ids, scores, dtype)
    write_npz(path, [(str(id_), row) for id_, row in zip(ids, rows)])


def write_re_logits(
    path: str | Path,
    ids: Sequence[Id],
    scores: Sequence[np.ndarray],
    boxes: Sequence[ArrayLike],
    tgt_boxes: Sequence[ArrayLike] | np.ndarray,
) -> None:
    """Write the logits of referring expressions, with the boxes that an ensemble needs.

    Arrays of the npz: `{sent_id}` (R,) fp32, one score for each region; `boxes/{sent_id}` (R, 4) and
    `tgt_box/{sent_id}` (4,), boxes as x, y, w, h in pixels.
    """
    arrays: list[tuple[str, np.ndarray]] = []
    rows = logit_rows(path, ids, scores, np.float32)
    for id_, row, regions, target in zip(ids, rows, boxes, tgt_boxes, strict=True):
        if np.shape(regions) != (len(row), 4):
            raise InputError(
                "the number of boxes is not the number of scores",
                file=path,
                key=id_,
                found=np.shape(regions),
                expected=(len(row), 4),
            )
        target = np.array(checked_box(path, {"sent_id": id_, "tgt_box": target}, "tgt_box"))
        arrays += [(f"{id_}", row), (f"boxes/{id_}", np.asarray(regions, np.float32)), (f"tgt_box/{id_}", target)]
    write_npz(path, arrays)


def logit_rows(
    path: str | Path, ids: Sequence[Id], scores: Sequence[np.ndarray] | np.ndarray, dtype: DTypeLike
) -> list[np.ndarray]:
    """The rows of `scores` as arrays of `dtype`; `InputError` for duplicate ids and values that are not finite."""
    if len(ids) != len(scores):
        found = f"{len(ids)} ids and {len(scores)} rows"
        raise InputError("the number of ids is not the number of rows", file=path, found=found)
    if len(set(map(str, ids))) < len(ids):
        twin = next(id_ for id_, count in Counter(map(str, ids)).items() if count > 1)
        raise InputError("an id is given twice", file=path, key=twin, expected="one row for each id")
    with np.errstate(over="ignore"):
        rows = [np.asarray(row).astype(dtype) for row in scores]
    check_finite(ids, rows)
    return rows


def argmax_rows(path: str | Path, ids: Sequence[Id], scores: np.ndarray, width: int) -> np.ndarray:
    """The column (E,) of the largest score in each row of `scores` (E, width).

    Raises `InputError` for another shape, and for values that are not finite: their argmax would look like an answer.
    """
    if np.shape(scores) != (len(ids), width):
        raise InputError("scores have the wrong shape", file=path, found=np.shape(scores), expected=(len(ids), width))
    check_finite(ids, scores)
    return scores.argmax(1)


def check_finite(ids: Sequence[Id], scores: Sequence[np.ndarray] | np.ndarray) -> None:
    """Raise `InputError` for the first id whose row of `scores` holds NaN or infinity."""
    if isinstance(scores, np.ndarray):
        bad_rows = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    else:
        bad_rows = np.flatnonzero([not np.isfinite(row).all() for row in scores])
    if len(bad_rows):
        raise InputError(
            "scores are not finite",
            key=ids[bad_rows[0]],
            found=f"{len(bad_rows)} of {len(ids)} rows hold NaN or infinity",
            expected="finite numbers (in fp16 for VQA's saved logits)",
            remedy="the checkpoint or the precision may be the cause: try --precision fp32",
        )
