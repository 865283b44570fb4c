"""Compute the official VQA v2 accuracy of a results file: overall, by answer type and by question type.

    python -m scripts.eval_vqa output/results_val/results_6000_all.json v2_mscoco_val2014_annotations.json

The results are a list of {"answer", "question_id"}. They must have one answer for each annotated question and no
others; with --questions, for each question of that file (a part of a split). Files may be gzipped.
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().with_name("by_path.py")))

import argparse
from collections.abc import Sequence
from typing import Any

from evaluation.ids import check_ids
from evaluation.metrics import evaluate_vqa
from prepare.annotations import vqa_annotations, vqa_questions, vqa_results
from utils.errors import exit_on_input_error
from utils.files import write_json
from utils.output_files import check_outputs


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the accuracies and return them, in the form of `evaluation.metrics.evaluate_vqa`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="results JSON that inf_vqa.py or scripts.ensemble wrote")
    parser.add_argument("annotations", nargs="+", help="one or more official annotations JSON files")
    parser.add_argument("--questions", metavar="JSON", help="score only the questions of this questions file")
    parser.add_argument("--json", metavar="OUT", help="also write the accuracies, in percent, to this file")
    args = parser.parse_args(argv)
    inputs = [args.results, *args.annotations, *filter(None, [args.questions])]
    check_outputs([args.json] if args.json else [], inputs)
    annotations = [entry for path in args.annotations for entry in vqa_annotations(path)]
    if args.questions:
        annotations = annotations_of(annotations, args.questions)
    accuracies = evaluate_vqa(vqa_results(args.results), annotations, args.results, ", ".join(args.annotations))
    print_accuracies(accuracies)
    if args.json:
        write_json(args.json, accuracies, indent=1)
    return accuracies


def annotations_of(annotations: Sequence[dict[str, Any]], questions: str) -> list[dict[str, Any]]:
    """The annotations of the questions in a questions file. `InputError` if a question has none."""
    question_ids = {int(text.id) for text in vqa_questions(questions)}
    entries = [entry for entry in annotations if entry["question_id"] in question_ids]
    check_ids((entry["question_id"] for entry in entries), question_ids, "annotated question", questions)
    return entries


def print_accuracies(accuracies: dict[str, Any]) -> None:
    """Print one line per accuracy, rounded as in the official evaluation."""
    print(f"overall {accuracies['overall']:.2f} % of {accuracies['questions']:,} questions")
    for key, title in (("answer_type", "by answer type"), ("question_type", "by question type")):
        if accuracies[key]:
            print(title)
        for name, accuracy in accuracies[key].items():
            print(f"  {accuracy:6.2f}  {name}")


if __name__ == "__main__":
    exit_on_input_error(main)
