"""Score a results file that an `inf_*.py` wrote, with official annotations only: no model, no store.

    python -m scripts.evaluate ve    results_best_all.json snli_ve_dev.jsonl
    python -m scripts.evaluate nlvr2 results.csv dev.json balanced_dev.json unbalanced_dev.json
    python -m scripts.evaluate vcr   results_8000_all.json val.jsonl
    python -m scripts.evaluate re    results_best_…_all.json refs.json annotations.json
    python -m scripts.evaluate itm   results.npz dataset_flickr30k.json --split test

The results must have one answer for each annotated example, and no others. Files may be gzipped.
  nlvr2  further annotation files are parts of the first (balanced, unbalanced); each gets scores under its name
  vcr    results are the JSON or the submission's csv
  re     refs.json and annotations.json of a text store, or refs(unc).p and instances.json with --split; without
         annotation files, the true boxes stored in the results are used
  itm    the text store's txt2img.json or img2txts.json, or a Karpathy dataset JSON with --split; its images are
         matched by the number at the end of their names (COCO_val2014_000000000042.jpg is
         coco_val2014_000000000042.npz)
For VQA use scripts/eval_vqa.py. Scores are printed in percent; --json writes fractions.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().with_name("by_path.py")))

import argparse
from collections.abc import Callable, Collection, Sequence

import numpy as np

from evaluation.ids import check_ids
from evaluation.metrics import accuracy, nlvr2_consistency, re_accuracy, vcr_accuracies
from evaluation.recall import BLOCK_ROWS, picture_columns, retrieval_recalls
from prepare.annotations_tasks import ve_examples
from prepare.entries import Location, bad_field, contradiction, lines, take
from scripts.read_results import (
    add_new,
    check_box,
    check_same_box,
    read_entries,
    read_nlvr2_labels,
    read_re_targets,
    read_txt2img,
    read_vcr,
    read_vcr_labels,
    refuse_repeated_pair_ids,
    text_by_id,
    truth_value,
)
from utils.errors import InputError, exit_on_input_error
from utils.files import write_json
from utils.formats import VE_LABELS
from utils.npz import open_npz, read_array
from utils.output_files import check_outputs

Scores = dict[str, float]


def main(argv: Sequence[str] | None = None) -> Scores:
    """Print the scores and return them, as fractions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS, help="task of the results")
    parser.add_argument("results", type=Path, help="results file of inf_TASK.py or scripts.ensemble")
    parser.add_argument(
        "annotations", nargs="*", type=Path, help="official annotation files of the task; optional for re"
    )
    parser.add_argument("--split", help="re, itm: split of the annotations to score by, such as val, testA, test")
    parser.add_argument("--json", metavar="OUT", help="also write the scores, as fractions, to this file")
    args = parser.parse_args(argv)
    check_outputs([args.json] if args.json else [], [args.results, *args.annotations])
    scores = evaluate(args.task, args.results, args.annotations, args.split)
    print_scores(scores)
    if args.json:
        write_json(args.json, scores, indent=1)
    return scores


def evaluate(task: str, results: Path, annotations: Sequence[Path], split: str | None = None) -> Scores:
    """Score a results file of `task`; returns fractions."""
    check_file_count(task, annotations)
    if split is not None and (task not in ("re", "itm") or not annotations):
        raise InputError(
            f"the option --split does nothing for {task} with these files",
            key="--split",
            found=split,
            expected="re or itm, with annotation files that hold several splits",
            remedy="leave out --split, and give the annotations of one split",
        )
    score, _ = TASKS[task]
    return score(results, annotations, split)


def check_file_count(task: str, annotations: Sequence[Path]) -> None:
    """Check the number of annotation files of `task`; `InputError` if it is wrong."""
    _, counts = TASKS[task]
    if len(annotations) not in counts:
        raise InputError(
            f"the number of annotation files for {task} is wrong",
            key="annotations",
            found=len(annotations),
            expected=f"1 to {counts[-1]}" if isinstance(counts, range) else " or ".join(map(str, counts)),
            remedy="see the commands for each task in python -m scripts.evaluate --help",
        )


def print_scores(scores: Scores) -> None:
    """Print one line per score, in percent."""
    for name, value in scores.items():
        print(f"{100 * value:6.2f}  {name}")


def score_ve(results: Path, annotations: Sequence[Path], split: str | None) -> Scores:
    """Score visual entailment: accuracy on the pairs with a label. Ids are those of `prepro.py`: see `ve_examples`."""
    texts, _ = ve_examples(annotations)
    truth = {text.id: VE_LABELS[text.fields["target"]["labels"][0]] for text in texts if text.fields}
    answers = text_by_id(read_entries(results), "id", "label")
    for id_, label in answers.items():
        if label not in VE_LABELS:
            raise bad_field(Location(results, f"id {id_}"), label, " or ".join(VE_LABELS))
    try:
        check_ids(answers, truth, "pair", results, annotations[0])
    except InputError:
        refuse_repeated_pair_ids(annotations)  # the cause, where there are any: then pairs have running numbers
        raise
    return {"accuracy": accuracy(np.array([answers[id_] for id_ in truth]), np.array(list(truth.values())))}


def score_nlvr2(results: Path, annotations: Sequence[Path], split: str | None) -> Scores:
    """Score NLVR2: accuracy and consistency, for each annotation file on its own examples."""
    answers: dict[str, str] = {}
    for number, line in lines(results):
        id_, _, answer = line.rpartition(",")
        truth = truth_value(answer.strip(), Location(results, f"line {number}"))
        add_new(answers, id_.strip(), truth, results)
    scores: Scores = {}
    all_labels: dict[str, str] = {}  # those of the first file
    for path in annotations:
        labels = read_nlvr2_labels(path)
        all_labels = all_labels or labels
        given = answers if not scores else [id_ for id_ in labels if id_ in answers]
        check_ids(given, labels, "example", results, path)
        for id_, label in labels.items():
            if all_labels[id_] != label:
                raise contradiction(Location(path, id_), label, f"{all_labels[id_]}, as in {annotations[0]}")
        hits = [answers[id_] == label for id_, label in labels.items()]
        suffix = f"_{path.name.split('.')[0]}" if scores else ""
        if f"accuracy{suffix}" in scores:
            expected = "files of different names, by which their scores are told apart"
            remedy = "rename one of them, or give each file once"
            raise InputError(
                "two annotation files have one name", file=path, key=suffix[1:], expected=expected, remedy=remedy
            )
        scores[f"accuracy{suffix}"] = float(np.mean(hits))
        scores[f"consistency{suffix}"] = nlvr2_consistency(list(labels), hits)
    return scores


def score_vcr(results: Path, annotations: Sequence[Path], split: str | None) -> Scores:
    """Score VCR: the accuracies Q→A, QA→R and Q→AR by `answer_label` and `rationale_label`."""
    answers = read_vcr(results)
    truth = read_vcr_labels(annotations[0])
    check_ids(answers, truth, "question", results, annotations[0])
    qa_target, qar_target = np.array(list(truth.values())).T
    return vcr_accuracies(np.stack([answers[id_] for id_ in truth]), qa_target, qar_target)


def score_re(results: Path, annotations: Sequence[Path], split: str | None) -> Scores:
    """Score referring expressions: accuracy at IoU > 0.5, by the inclusive IoU of publications and by the plain one."""
    predictions: dict[int, list[float]] = {}
    stored: dict[int, tuple[Location, list[float]]] = {}  # true boxes in the results: needed without annotations
    for location, entry in read_entries(results):
        predicted_box = check_box(entry.get("pred_box"), location.child("pred_box"))
        id_ = take(entry, "sent_id", int, location)
        add_new(predictions, id_, predicted_box, results)
        if "tgt_box" in entry or not annotations:
            place = location.child("tgt_box")
            stored[id_] = place, check_box(entry.get("tgt_box"), place, with_area=not annotations)
    targets = {id_: box for id_, (_, box) in stored.items()}
    if annotations:
        targets = read_re_targets(annotations[0], annotations[1], split)
    check_ids(predictions, targets, "expression", results, annotations[0] if annotations else None)
    for id_, (location, box) in stored.items() if annotations else ():
        check_same_box(box, targets[id_], location, annotations[1])
    boxes, truth = np.array([predictions[id_] for id_ in targets]), np.array(list(targets.values()))
    return {
        "accuracy": re_accuracy(boxes, truth),
        "accuracy_plain_iou": re_accuracy(boxes, truth, inclusive=False),
    }


def score_itm(results: Path, annotations: Sequence[Path], split: str | None) -> Scores:
    """Score retrieval: the recalls of `results.npz`, which must hold every text and every image of the annotations."""
    with open_npz(results) as file:
        scores, txt_ids, img_ids = (read_array(file, name, results) for name in ("scores", "txt_ids", "img_ids"))
    check_retrieval_arrays(scores, txt_ids, img_ids, results)
    truth = read_txt2img(annotations[0], img_ids.tolist(), split)
    check_ids(txt_ids.tolist(), truth, "text", results, annotations[0])
    columns = picture_columns(txt_ids.tolist(), img_ids.tolist(), truth, annotations[0])
    check_ids(img_ids.tolist(), truth.values(), "image", results, annotations[0])
    return retrieval_recalls(scores, columns)


def check_retrieval_arrays(scores: np.ndarray, txt_ids: np.ndarray, img_ids: np.ndarray, file: Path) -> None:
    """`InputError` unless `scores` are finite numbers, a row for each text id and a column for each image id."""
    for key, ids in (("txt_ids", txt_ids), ("img_ids", img_ids)):
        if ids.ndim != 1 or ids.dtype.kind != "U" or len(set(ids.tolist())) < len(ids):
            content = f"{ids.dtype} of shape {ids.shape}, {len(set(ids.ravel().tolist()))} different ones"
            raise InputError(
                "not a list of ids",
                file=file,
                key=key,
                found=content,
                expected="texts that all differ",
                remedy="name a results.npz that inf_itm.py or scripts.ensemble wrote",
            )
    shape = (len(txt_ids), len(img_ids))
    if scores.shape != shape or scores.dtype.kind != "f":
        content, expected = f"{scores.dtype} of shape {scores.shape}", f"floating-point numbers of shape {shape}"
        raise InputError(
            "the scores do not fit the ids",
            file=file,
            key="scores",
            found=content,
            expected=expected,
            remedy="name a results.npz that inf_itm.py or scripts.ensemble wrote",
        )
    for start in range(0, len(scores), BLOCK_ROWS):
        bad_rows = np.flatnonzero(~np.isfinite(scores[start : start + BLOCK_ROWS]).all(axis=1))
        if len(bad_rows):
            key = f"scores of {txt_ids[start + bad_rows[0]]}"
            raise InputError(
                "scores are not finite",
                file=file,
                key=key,
                found="NaN or infinity",
                expected="finite numbers",
                remedy="predict again, perhaps with --precision fp32",
            )


# task → (its function, allowed numbers of annotation files)
TASKS: dict[str, tuple[Callable[[Path, Sequence[Path], str | None], Scores], Collection[int]]] = {
    "ve": (score_ve, range(1, 10)),
    "nlvr2": (score_nlvr2, range(1, 10)),
    "vcr": (score_vcr, (1,)),
    "re": (score_re, (0, 2)),
    "itm": (score_itm, (1,)),
}

if __name__ == "__main__":
    exit_on_input_error(main)
