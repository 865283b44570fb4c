"""The leaderboards' own files: complete, without duplicates, finite, or not written at all."""

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.files import write_json
from utils.metrics import check_ids


def vqa_predictions(ids: Sequence[int | str], scores: np.ndarray, answers: Sequence[str]) -> list[tuple[int, str]]:
    """(question id, best answer) of each row of `scores` (E, A); `answers` (A,) names the columns.

    Refuses scores that are not finite: their argmax would look like an answer.
    """
    if scores.shape != (len(ids), len(answers)):
        raise InputError(
            "scores do not fit the answer vocabulary",
            found=scores.shape,
            expected=(len(ids), len(answers)),
            remedy="use the ans2label.json that the checkpoint was trained with",
        )
    check_finite(ids, scores)
    return [(int(id_), answers[best]) for id_, best in zip(ids, scores.argmax(axis=1))]


def write_vqa(
    path: str | Path,
    predictions: Mapping[int, str] | Iterable[tuple[int, str]],
    expected_ids: Iterable[int | str],
) -> None:
    """Write the VQA server's file: a list of `{"answer": str, "question_id": int}`, in `expected_ids`' order.

    Refuses an answer given twice, missing or unknown, and answers that are not text.
    """
    pairs = predictions.items() if isinstance(predictions, Mapping) else predictions
    answers: dict[int, str] = {}
    for id_, answer in pairs:
        if int(id_) in answers:
            raise InputError("a question is answered twice", file=path, key=id_)
        if not isinstance(answer, str):
            raise InputError("an answer is not text", file=path, key=id_, found=repr(answer))
        answers[int(id_)] = answer
    order = [int(id_) for id_ in expected_ids]
    if len(set(order)) < len(order):
        raise InputError("the split names a question twice", file=path)
    check_ids(answers, order, "question")
    write_json(path, [{"answer": answers[id_], "question_id": id_} for id_ in order])


def write_logits_npz(path: str | Path, ids: Sequence[int | str], scores: np.ndarray) -> None:
    """Write one fp16 array (A,) for each id, from the rows of `scores` (E, A), whole or not at all.

    Refuses duplicate ids and values that are not finite in fp16. Read it with `numpy.load(path)[str(id)]`.
    """
    if len(ids) != len(scores):
        raise InputError("as many ids as rows are needed", file=path, found=f"{len(ids)} and {len(scores)}")
    if len(set(map(str, ids))) < len(ids):
        raise InputError("an id stands twice", file=path)
    with np.errstate(over="ignore"):
        rows = np.asarray(scores).astype(np.float16)
    check_finite(ids, rows)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            write_npz(stream, ids, rows)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_npz(stream: Any, names: Sequence[int | str], rows: np.ndarray) -> None:
    """An npz of one array a name. `numpy.savez` would take all names as arguments, "file" not among them."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, row in zip(names, rows):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, row, allow_pickle=False)


def check_finite(ids: Sequence[int | str], scores: np.ndarray) -> None:
    """`InputError` that names the first id whose row of `scores` holds NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise InputError(
            "scores that are not finite",
            key=ids[bad[0]],
            found=f"{len(bad)} of {len(ids)} rows hold NaN or infinity",
            expected="finite numbers (fp16 where logits are saved)",
            remedy="the checkpoint or the precision is broken: try --no-fp16",
        )
