"""Average the predictions of several runs of one task, and score the result (paper A.4, table 7: ten models for VCR).

    python -m scripts.ensemble --task vcr --logits a/logits_8000_all.npz b/logits_8000_all.npz … \\
        --output ensemble.json --annotations val.jsonl

`--logits`: files that `inf_*.py --save_logits` wrote, for the same examples and the same outputs (itm: `results.npz`;
vcr: the results JSON works too). `--output`: the results file, in the format that `inf_*.py` writes. For vcr, a csv is
written beside the JSON; for itm with annotations, `scores.json` beside the npz.

By default probabilities are averaged, so that each run has the same weight: the scale of logits differs between runs,
and a mean of logits would follow the most confident run. The probabilities are those of the task's training loss:
vqa, ve   sigmoid of each answer
nlvr2     softmax over false and true
vcr       softmax over the four answers, and over the four rationales given each answer
re        softmax over the regions
itm       sigmoid of each pair's score. The logit of the average is written: it has the same order, and fp32 still
          separates values close to 0 and 1. (For zero-shot retrieval, the sigmoid is the model's probability only
          with --score difference, not with the matching logit alone.)
`--average logits` averages the logits instead.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().with_name("by_path.py")))

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from toolz import partition_all

from evaluation.ids import check_numbers
from evaluation.metrics import evaluate_vqa
from evaluation.probabilities import PROBABILITIES
from evaluation.submission import (
    vqa_predictions,
    write_nlvr2_csv,
    write_re,
    write_retrieval,
    write_vcr_csv,
    write_vcr_json,
    write_ve,
    write_vqa,
)
from evaluation.vqa_answers import label2ans, read_ans2label
from prepare.annotations import vqa_annotations, vqa_results
from scripts.eval_vqa import print_accuracies
from scripts.evaluate import TASKS, check_file_count, evaluate, print_scores
from scripts.read_results import read_vcr
from utils.errors import InputError, exit_on_input_error
from utils.files import write_json
from utils.npz import open_npz, read_array

Runs = list[tuple[Path, Mapping[str, np.ndarray]]]  # file and arrays by name, of each run
Rows = Iterator[tuple[str, np.ndarray]]  # id, average (A,)
ROWS = 1024  # rows to process at a time, because all rows may not fit into memory


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Write the ensemble's results file; returns its scores, or None without annotations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=[*PROBABILITIES, "itm"], help="task of the runs")
    parser.add_argument("--logits", required=True, nargs="+", type=Path, metavar="NPZ", help="logits file of each run")
    parser.add_argument("--output", required=True, type=Path, help="results file to write")
    parser.add_argument(
        "--average", choices=["probs", "logits"], default="probs", help="average probabilities or logits"
    )
    parser.add_argument(
        "--annotations", nargs="+", type=Path, default=[], help="annotation files to score by, as in scripts.evaluate"
    )
    parser.add_argument("--split", help="re, itm: split of the annotations to score by")
    parser.add_argument("--ans2label", default="release", help="vqa: JSON file of the answer vocabulary of the logits")
    args = parser.parse_args(argv)
    if args.annotations and args.task in TASKS:
        check_file_count(args.task, args.annotations)
    with ExitStack() as stack:
        runs = [(path, open_run(stack, path, args.task)) for path in args.logits]
        if args.task == "itm":
            average_retrieval(runs, args.output, args.average)
        else:
            check_same_ids(runs, args.task)
            rows = averages(runs, args.task, args.average)
            write_results(args.task, args.output, rows, runs=runs, ans2label=args.ans2label)
    if not args.annotations:
        return None
    try:
        return score(args.task, args.output, args.annotations, args.split)
    except InputError:  # such as annotations of another split: leave no file that looks complete
        for suffix in (args.output.suffix, *((".csv", ".json") if args.task == "vcr" else ())):
            args.output.with_suffix(suffix).unlink(missing_ok=True)
        raise


def open_run(stack: ExitStack, path: Path, task: str) -> Mapping[str, np.ndarray]:
    """The arrays of one run's file by name; arrays of an npz are read when they are used."""
    return read_vcr(path) if task == "vcr" and path.suffix == ".json" else stack.enter_context(open_npz(path))


def check_same_ids(runs: Runs, task: str) -> None:
    """Check that the files of all runs hold the same ids of `task`; `InputError` otherwise."""
    first_path, first = runs[0]
    if not len(first):
        raise InputError("the file holds no logits", file=first_path)
    if task in ("vqa", "re"):
        check_numbers((name.rpartition("/")[2] for name in first), first_path)
    for path, arrays in runs[1:]:
        more, fewer = set(arrays) - set(first), set(first) - set(arrays)
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
                raise InputError("the scores are not finite", file=path, key=id_)
            row = to_probs(row) if average == "probs" else row
            total = row if total is None else total + row
        assert total is not None
        yield id_, total / len(runs)


def write_results(task: str, output: Path, rows: Rows, *, runs: Runs, ans2label: str) -> None:
    """Write the task's results file: the best output of each example."""
    if task == "vqa":
        predictions = list(best_answers(rows, label2ans(read_ans2label(ans2label))))
        return write_vqa(output, predictions, [id_ for id_, _ in predictions])
    if task == "re":
        entries = [best_box(id_, row, runs) for id_, row in rows]
        return write_re(output, entries, [entry["sent_id"] for entry in entries])
    ids, means = zip(*rows)
    scores = np.stack(means)
    if task == "ve":
        write_ve(output, ids, scores, ids)
    elif task == "nlvr2":
        write_nlvr2_csv(output, ids, scores, ids)
    else:
        write_vcr_csv(output.with_suffix(".csv"), ids, scores, ids)
        write_vcr_json(output.with_suffix(".json"), ids, scores, ids)


def best_answers(rows: Rows, names: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield (question id, best of the answers `names`) for each row.

    Rows are read in blocks, because VQA's test split has 448 thousand questions of 3,129 scores.
    """
    for block in partition_all(ROWS, rows):
        ids, means = zip(*block)
        yield from vqa_predictions(ids, np.stack(means), names)


def best_box(id_: str, row: np.ndarray, runs: Runs) -> dict[str, Any]:
    """The RE results entry of an expression. `InputError` unless all runs chose among the same boxes."""
    first_path, first = runs[0]
    boxes = read_array(first, f"boxes/{id_}", first_path)
    target = read_array(first, f"tgt_box/{id_}", first_path)
    for path, arrays in runs:
        run_boxes = read_array(arrays, f"boxes/{id_}", path)
        if run_boxes.shape != (len(row), 4) or not np.array_equal(run_boxes, boxes, equal_nan=True):
            raise InputError(
                "the runs chose among different boxes",
                file=path,
                key=f"boxes/{id_}",
                found=f"{len(run_boxes)} boxes",
                expected=f"the {len(boxes)} boxes of {first_path}",
                remedy="give runs on the same image store, with the same conf_th and num_bb",
            )
    return {"sent_id": id_, "pred_box": boxes[row.argmax()], "tgt_box": target}


def average_retrieval(runs: Runs, output: Path, average: str) -> None:
    """Write the average of all runs' scores (texts, images); one run is in memory at a time."""
    first_path, first = runs[0]
    txt_ids = read_array(first, "txt_ids", first_path).tolist()
    img_ids = read_array(first, "img_ids", first_path).tolist()
    yes, no = np.full((2, len(txt_ids), len(img_ids)), -np.inf if average == "probs" else 0.0)
    for path, arrays in runs:
        scores = read_array(arrays, "scores", path)
        for key, ids in (("txt_ids", txt_ids), ("img_ids", img_ids)):
            if read_array(arrays, key, path).tolist() != ids or scores.shape != yes.shape:
                raise InputError(
                    "the runs have different examples", file=path, key=key, expected=f"the ids in {first_path}"
                )
        for rows in (slice(start, start + ROWS) for start in range(0, len(scores), ROWS)):
            block = scores[rows].astype(np.float64)
            if average == "probs":  # log of the sum of sigmoid(score), and of 1 - sigmoid(score)
                yes[rows] = np.logaddexp(yes[rows], -np.logaddexp(0, -block))
                no[rows] = np.logaddexp(no[rows], -np.logaddexp(0, block))
            else:
                yes[rows] += block / len(runs)
    write_retrieval(output, yes - no, txt_ids, img_ids)


def score(task: str, output: Path, annotations: Sequence[Path], split: str | None) -> dict[str, Any]:
    """Score the results file that was written, print the scores and return them."""
    if task == "vqa":
        entries = [entry for path in annotations for entry in vqa_annotations(path)]
        accuracies = evaluate_vqa(vqa_results(output), entries, output, ", ".join(map(str, annotations)))
        print_accuracies(accuracies)
        return accuracies
    scores = evaluate(task, output.with_suffix(".json") if task == "vcr" else output, annotations, split)
    print_scores(scores)
    if task == "itm":
        write_json(output.with_name("scores.json"), scores, indent=1)
    return scores


if __name__ == "__main__":
    exit_on_input_error(main)
