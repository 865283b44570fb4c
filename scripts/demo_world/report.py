"""Summaries and tables that the demo prints about its scores."""

import json
from pathlib import Path
from typing import Any

Table = dict[str, dict[str, float | None]]  # task and metric → model, or chance → percent


def print_report(root: Path, vqa_scores: dict[str, Any]) -> None:
    """Print the scores of pre-training and VQA, and where the files are."""
    _print_pretraining(root / "output" / "pretrain" / "log" / "metrics.jsonl")
    print(f"\nVQA test accuracy: {vqa_scores['overall']:.1f} % of {vqa_scores['questions']} questions")
    for question_type, accuracy in vqa_scores["question_type"].items():
        print(f"  {question_type:<24}{accuracy:.1f} %")
    print(f"\nAll files are in {root}/:")
    for content, folders in (
        ("images, captions, questions, annotations", "raw/"),
        ("stores", "img_db/ txt_db/"),
        ("pre-training: curves, weights", "output/pretrain/log/metrics.jsonl, output/pretrain/ckpt/"),
        ("VQA: curves, weights", "output/vqa/log/metrics.jsonl, output/vqa/ckpt/"),
        ("submission file of the test split", "output/vqa/results_test/results_best_all.json"),
    ):
        print(f"  {content + ':':<46}{folders}")


def _print_pretraining(metrics: Path) -> None:
    """Print the scores of the last validation of pre-training."""
    last = json.loads(metrics.read_text().splitlines()[-1])
    print("\nPre-training, validation:")
    for name in sorted(key.removesuffix("/loss") for key in last if key.endswith("/loss") and "@" not in key):
        accuracy = f", accuracy {100 * last[f'{name}/acc']:.1f} %" if f"{name}/acc" in last else ""
        print(f"  {name:<12} loss {last[f'{name}/loss']:.4f}{accuracy}")
    right, wrong = last["mlm_demo/acc"], last["mlm_demo@wrong_picture/acc"]
    print(f"  masked words with the right image {100 * right:.1f} %, with another image {100 * wrong:.1f} %")


def print_table(table: Table) -> None:
    """Print one line per metric of the test splits, in percent."""
    columns = ("scratch", "pre-trained", "blind", "chance")
    print(f"\n{'test split, %':<32}" + "".join(f"{name:>13}" for name in columns))
    for metric, row in table.items():
        cells = [row.get(column) for column in columns]
        print(f"{metric:<32}" + "".join(f"{'–':>13}" if cell is None else f"{cell:13.1f}" for cell in cells))
