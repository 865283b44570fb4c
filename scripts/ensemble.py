"""Average the predictions of several runs of one task, and score the result (paper A.4, table 7: ten models for VCR).

    python -m scripts.ensemble --task vcr --logits a/logits_8000_all.npz b/logits_8000_all.npz … \\
        --output ensemble.json --annotations val.jsonl

`--logits`: files that `inf_*.py --save_logits` wrote, for the same examples and the same outputs (itm: `results.npz`;
vcr: the results JSON works too). `--output`: the results file, in the format that `inf_*.py` writes. For vcr, its name
ends with .json or .csv, and both files are written; for itm with annotations, `scores.json` beside the npz. Nothing is
written where scoring fails.

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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from toolz import partition_all

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
from prepare.entries import Location
from scripts.averages import ROWS, Rows, Runs, average_retrieval, averages, check_same_ids, open_run
from scripts.eval_vqa import print_accuracies
from scripts.evaluate import TASKS, check_file_count, evaluate, print_scores
from scripts.read_results import check_same_box
from utils.errors import InputError, exit_on_input_error
from utils.files import write_json
from utils.npz import read_array
from utils.os_errors import open_input
from utils.output_files import check_outputs, moved_together


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
    outputs = output_files(args.task, args.output, scored=bool(args.annotations))
    vocabulary = [args.ans2label] if args.ans2label != "release" else []
    check_outputs(outputs, [*args.logits, *args.annotations, *vocabulary])
    check_annotations(args.task, args.annotations)
    with moved_together(args.output.parent) as folder:
        results = folder / outputs[0].name
        with ExitStack() as stack:
            runs = [(path, open_run(stack, path, args.task)) for path in args.logits]
            write_average(args.task, results, runs, average=args.average, ans2label=args.ans2label)
        scores = score(args.task, results, args.annotations, args.split) if args.annotations else None
    if scores is not None:
        (print_accuracies if args.task == "vqa" else print_scores)(scores)
    return scores


def output_files(task: str, output: Path, scored: bool) -> list[Path]:
    """All files that an ensemble writes, the results to score first; `InputError` for an unfit `output`.

    `scored`: whether there are annotations. An older `scores.json` that belongs to other results is not replaced.
    """
    if task == "vcr":
        if output.suffix not in (".json", ".csv"):
            expected = "a name that ends with .json or .csv; both files are written"
            raise InputError("the output has no name for vcr", key="--output", found=output, expected=expected)
        return [output.with_suffix(".json"), output.with_suffix(".csv")]
    scores = output.with_name("scores.json")
    if task != "itm" or not scored:
        return [output]
    other = output.with_name("results.npz") if output.name != "results.npz" else output
    if scores.exists() and not (output.exists() and (output == other or not other.exists())):
        raise InputError(
            "the scores would replace those of other results",
            file=scores,
            found=f"scores that are older than {output.name}",
            expected="a folder without scores.json",
            remedy="name an --output in a folder of its own, or move the old scores",
        )
    return [output, scores]


def check_annotations(task: str, annotations: Sequence[Path]) -> None:
    """`InputError` unless `annotations` are files, as many as `task` needs; before a long average is computed."""
    if annotations and task in TASKS:
        check_file_count(task, annotations)
    for path in annotations:
        open_input(path).close()


def write_average(task: str, results: Path, runs: Runs, *, average: str, ans2label: str) -> None:
    """Average the runs of `task` and write the file `results`."""
    if task == "itm":
        return write_retrieval(results, *average_retrieval(runs, average))
    check_same_ids(runs, task)
    write_results(task, results, averages(runs, task, average), runs=runs, ans2label=ans2label)


def write_results(task: str, output: Path, rows: Rows, *, runs: Runs, ans2label: str) -> None:
    """Write the task's results file: the best output of each example."""
    if task == "vqa":
        names = label2ans(read_ans2label(ans2label))
        check_vocabulary(runs, names, ans2label)
        predictions = list(best_answers(rows, names))
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


def check_vocabulary(runs: Runs, names: Sequence[str], ans2label: str) -> None:
    """`InputError` unless the first run has a score for each of the answers `names`."""
    path, arrays = runs[0]
    id_ = next(iter(arrays))
    shape = read_array(arrays, id_, path).shape
    if shape != (len(names),):
        raise InputError(
            "the scores do not fit the answer vocabulary",
            file=path,
            key=id_,
            found=f"scores of shape {shape}",
            expected=f"{(len(names),)}, the answers of --ans2label {ans2label}",
            remedy="give --ans2label the ans2label.json that the runs were trained with (ckpt/ans2label.json)",
        )


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
        check_same_box(read_array(arrays, f"tgt_box/{id_}", path), target, Location(path, f"tgt_box/{id_}"), first_path)
    return {"sent_id": id_, "pred_box": boxes[row.argmax()], "tgt_box": target}


def score(task: str, results: Path, annotations: Sequence[Path], split: str | None) -> dict[str, Any]:
    """Score the results file that was written; for retrieval, the scores are written beside it."""
    if task == "vqa":
        entries = [entry for path in annotations for entry in vqa_annotations(path)]
        return evaluate_vqa(vqa_results(results), entries, results, ", ".join(map(str, annotations)))
    scores = evaluate(task, results, annotations, split)
    if task == "itm":
        write_json(results.with_name("scores.json"), scores, indent=1)
    return scores


if __name__ == "__main__":
    exit_on_input_error(main)
