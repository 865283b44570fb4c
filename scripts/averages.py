"""The average of several runs' scores: of each example, or of a matrix of texts and images."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from evaluation.ids import check_numbers, split_order
from evaluation.probabilities import PROBABILITIES
from scripts.evaluate import check_retrieval_arrays
from scripts.read_results import read_vcr
from utils.errors import InputError
from utils.npz import open_npz, read_array

Runs = list[tuple[Path, Mapping[str, np.ndarray]]]  # file and arrays by name, of each run
Rows = Iterator[tuple[str, np.ndarray]]  # id, average (A,)
ROWS = 1024  # rows to process at a time, because all rows may not fit into memory


def open_run(stack: ExitStack, path: Path, task: str) -> Mapping[str, np.ndarray]:
    """The arrays of one run's file by name; arrays of an npz are read when they are used."""
    return read_vcr(path) if task == "vcr" and path.suffix == ".json" else stack.enter_context(open_npz(path))


def check_same_ids(runs: Runs, task: str) -> None:
    """Check that the files of all runs hold the same ids of `task`; `InputError` otherwise."""
    first_path, first = runs[0]
    if not len(first):
        raise InputError(
            "the file holds no logits",
            file=first_path,
            found="no arrays",
            expected="an array for each example, as inf_*.py --save_logits writes",
            remedy="name another file, or predict again",
        )
    if task in ("vqa", "re"):
        check_numbers((name.rpartition("/")[2] for name in first), first_path)
    for path, arrays in runs[1:]:
        refuse_other_ids(arrays, first, path, first_path)


def refuse_other_ids(ids: Iterable[str], first_ids: Iterable[str], path: Path, first_path: Path) -> None:
    """`InputError` unless a run's file `path` has the ids of the first run's; their order may be another one."""
    more, fewer = set(ids) - set(first_ids), set(first_ids) - set(ids)
    if more or fewer:
        raise InputError(
            "the runs have different examples",
            file=path,
            key=min(more or fewer),
            found=f"{len(more)} ids that are not in {first_path}; {len(fewer)} of its ids are missing",
            remedy="give runs of the same task on the same split",
        )


def averages(runs: Runs, task: str, average: str) -> Rows:
    """Yield each example's id and its average over all runs, (A,) fp64, in the order of the first file."""
    to_probs, width = PROBABILITIES[task]
    for id_ in runs[0][1]:
        if task == "re" and id_.startswith(("boxes/", "tgt_box/")):
            continue
        total: np.ndarray | None = None
        for path, arrays in runs:
            row = read_array(arrays, id_, path)
            row = row.astype(np.float64) if row.dtype.kind in "fiu" else np.empty(0)
            expected = width or (row.size if total is None else len(total))
            if row.shape != (expected,) or not row.size:
                raise InputError(
                    "the scores have the wrong shape",
                    file=path,
                    key=id_,
                    found=row.shape,
                    expected=f"{(expected,)}, as in {runs[0][0]}",
                    remedy="give runs of the same task with the same outputs",
                )
            if not np.isfinite(row).all():
                raise InputError(
                    "the scores are not finite",
                    file=path,
                    key=id_,
                    found=f"{(~np.isfinite(row)).sum()} of {len(row)} scores are NaN or infinity",
                    expected="finite numbers",
                    remedy="predict again, perhaps with --precision fp32",
                )
            row = to_probs(row) if average == "probs" else row
            total = row if total is None else total + row
        assert total is not None
        yield id_, total / len(runs)


def average_retrieval(runs: Runs, average: str) -> tuple[np.ndarray, list[str], list[str]]:
    """The average of all runs' scores (texts, images), with the ids of texts and images in the order of the first run.

    One run is in memory at a time. Runs may have their texts and images in other orders.
    """
    first_path, first = runs[0]
    txt_ids, img_ids = (read_array(first, key, first_path).ravel().tolist() for key in ("txt_ids", "img_ids"))
    yes, no = np.full((2, len(txt_ids), len(img_ids)), -np.inf if average == "probs" else 0.0)
    for path, arrays in runs:
        scores, own_txt_ids, own_img_ids = (read_array(arrays, key, path) for key in ("scores", "txt_ids", "img_ids"))
        check_retrieval_arrays(scores, own_txt_ids, own_img_ids, path)
        refuse_other_ids(own_txt_ids.tolist(), txt_ids, path, first_path)
        refuse_other_ids(own_img_ids.tolist(), img_ids, path, first_path)
        texts = np.array(split_order(path, own_txt_ids.tolist(), txt_ids, "text"))
        images = np.array(split_order(path, own_img_ids.tolist(), img_ids, "image"))
        for rows in (slice(start, start + ROWS) for start in range(0, len(scores), ROWS)):
            block = scores[texts[rows]].astype(np.float64)[:, images]
            if average == "probs":  # log of the sum of sigmoid(score), and of 1 - sigmoid(score)
                yes[rows] = np.logaddexp(yes[rows], -np.logaddexp(0, -block))
                no[rows] = np.logaddexp(no[rows], -np.logaddexp(0, block))
            else:
                yes[rows] += block / len(runs)
    return yes - no, txt_ids, img_ids
