"""The downstream tasks of the demo: their stores, commands and scores (`scripts/demo.py --all` runs them).

Every command is one a user would type; what a task needs of official files is under `raw/`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.metrics import evaluate_vqa
from utils.files import read_json

Command = list[str | Path]
Chances = dict[str, Callable[[Any], float] | float | None]
SPLITS = ("train", "val", "test")
IMG_NAME = "demo_{split}_{image_id:012}.npz"
GT_NAME = "visual_grounding_coco_gt_{image_id:012}.npz"
DET_NAME = "visual_grounding_det_coco_{image_id:012}.npz"
RE_TEST = ("testA", "testB")


@dataclass(frozen=True)
class Downstream:
    """A task: its config `config/demo-{name}.json`, how it is tested, which scores are shown, what guessing gives."""

    name: str
    metrics: Chances  # each with what guessing gives, in percent
    test: Callable[[Any, Path], dict[str, float]]  # demo, folder of a run → scores of the test split, in percent


def prepare(demo: Any) -> None:
    """The stores of all tasks but VQA."""
    raw = demo.root / "raw"
    for split in SPLITS:
        naming: Command = ["--img_name", IMG_NAME.replace("{split}", split)]
        demo.prepare("nlvr2", split, "--annotations", raw / f"nlvr2_{split}.json", *naming)
        demo.prepare("ve", split, "--annotations", raw / f"snli_ve_{split}.jsonl", *naming)
        parts = ["train", "restval"] if split == "train" else [split]
        demo.prepare("itm", split, "--karpathy", raw / "dataset_coco.json", "--part", *parts, *naming)
        tags: Command = ["--metadata", raw, "--gt_img_name", GT_NAME]
        demo.prepare("vcr", split, "--annotations", raw / f"vcr_{split}.jsonl", *naming, *tags)
    order = demo.root / "npz" / "demo_coco_gt" / "iid_to_ann_ids.json"  # as written beside the features
    for part in ("train", "val", *RE_TEST):
        files: Command = ["--instances", raw / "instances.json", "--iid_to_ann_ids", order]
        demo.prepare("re", part, "--refs", raw / "refs(demo).p", *files, "--split", part)


def describe(demo: Any) -> None:
    """Image stores of ground-truth boxes (all pictures) and of detected ones (validation and test), for RE and VCR."""
    raw, boxes = demo.root / "raw", demo.root / "raw" / "instances.json"
    every = [raw / "images" / split for split in SPLITS]
    demo.images(
        "demo_coco_gt", every, ["--boxes", boxes], ["--img_name", GT_NAME], "--conf_th", "-1", "--num_bb", "100"
    )
    detected: Command = ["--imitate_detector", boxes]
    demo.images("demo_coco_det", every[1:], detected, ["--img_name", DET_NAME], *demo.BOUNDS)


def scored(demo: Any, task: str, results: Path, *truth: str | Path) -> dict[str, float]:
    """What the separate evaluator says of a results file, in percent."""
    found = results.with_name(f"scores_{results.stem}.json")
    demo.call(found, "-m", "scripts.evaluate", task, results, *truth, "--json", found)
    return {name: 100 * value for name, value in read_json(found).items()}


def stores(demo: Any, task: str, images: str = "demo_test") -> Command:
    return ["--txt_db", demo.root / "txt_db" / f"{task}_test.db", "--img_db", demo.root / "img_db" / images]


def test_nlvr2(demo: Any, run: Path) -> dict[str, float]:
    results, raw = run / "results_test" / "results.csv", demo.root / "raw"
    where: Command = ["--train_dir", run, "--ckpt", "best", "--output_dir", results.parent, "--n_workers", "1"]
    demo.call(results, "inf_nlvr2.py", *stores(demo, "nlvr2"), *where)
    parts = [raw / f"{part}_test.json" for part in ("nlvr2", "balanced", "unbalanced")]
    return scored(demo, "nlvr2", results, *parts)


def test_ve(demo: Any, run: Path) -> dict[str, float]:
    results = run / "results_test" / "results_best_all.json"
    where: Command = ["--output_dir", run, "--checkpoint", "best", "--n_workers", "1"]
    demo.call(results, "inf_ve.py", *stores(demo, "ve"), *where)
    return scored(demo, "ve", results, demo.root / "raw" / "snli_ve_test.jsonl")


def test_vcr(demo: Any, run: Path) -> dict[str, float]:
    results = run / "results_test" / "results_best_all.json"
    where: Command = ["--split", "test", "--output_dir", run, "--checkpoint", "best", "--n_workers", "1"]
    both = f"{demo.root / 'img_db' / 'demo_coco_gt'};{demo.root / 'img_db' / 'demo_test'}"
    texts: Command = ["--txt_db", demo.root / "txt_db" / "vcr_test.db", "--img_db", both]
    demo.call(results, "inf_vcr.py", *texts, *where)
    return scored(demo, "vcr", results, demo.root / "raw" / "vcr_labels_test.jsonl")


def test_retrieval(demo: Any, run: Path) -> dict[str, float]:
    hps: Command = ["--train_config", run / "log" / "hps.json", "--model_config", run / "log" / "model.json"]
    return retrieve(demo, run / "results_test", run / "ckpt" / "model_step_best.pt", *hps)


def retrieve(demo: Any, output: Path, weights: Path, *flags: str | Path) -> dict[str, float]:
    """Recalls over the test pictures, in percent."""
    where: Command = ["--checkpoint", weights, "--output_dir", output, "--batch_size", "100", "--n_workers", "1"]
    demo.call(output / "scores.json", "inf_itm.py", *stores(demo, "itm"), *where, *flags)
    return {name: 100 * value for name, value in read_json(output / "scores.json").items()}


def test_re(demo: Any, run: Path) -> dict[str, float]:
    """On ground-truth and on detected boxes, testA and testB together."""
    texts = ":".join(str(demo.root / "txt_db" / f"re_{part}.db") for part in RE_TEST)
    shares: dict[str, list[float]] = {}
    for source in ("gt", "det"):
        images = demo.root / "img_db" / f"demo_coco_{source}"
        names = [run / "results_test" / f"results_best_re_{part}_on_{images.name}_all.json" for part in RE_TEST]
        where: Command = ["--output_dir", run, "--checkpoint", "best", "--n_workers", "1"]
        demo.call(names[-1], "inf_re.py", "--txt_db", texts, "--img_db", images, *where)
        shares[source] = [scored(demo, "re", name)["accuracy"] for name in names]
    return {f"accuracy_{source}": sum(values) / len(values) for source, values in shares.items()}


def vqa_chance(demo: Any) -> float:
    """The accuracy of always giving the training questions' most frequent answer."""
    train, test = (read_json(demo.root / "raw" / f"annotations_{split}.json")["annotations"] for split in SPLITS[::2])
    ((most, _),) = Counter(entry["multiple_choice_answer"] for entry in train).most_common(1)
    results = [{"question_id": entry["question_id"], "answer": most} for entry in test]
    return evaluate_vqa(results, test)["overall"]


def re_chance(demo: Any) -> float:
    """One of the picture's ground-truth boxes at random."""
    shares: dict[str, list[float]] = {part: [] for part in RE_TEST}
    for part in RE_TEST:
        folder = demo.root / "txt_db" / f"re_{part}.db"
        boxes = {image["id"]: len(image["ann_ids"]) for image in read_json(folder / "images.json")}
        shares[part] = [1 / boxes[ref["image_id"]] for ref in read_json(folder / "refs.json") for _ in ref["sentences"]]
    return 100 * sum(sum(part) / len(part) for part in shares.values()) / len(shares)


NLVR2: Chances = {name: 50.0 for name in ("accuracy", "accuracy_balanced_test", "accuracy_unbalanced_test")}
TASKS = (
    Downstream("nlvr2", NLVR2 | {"consistency": None}, test_nlvr2),
    Downstream("ve", {"accuracy": 100 / 3}, test_ve),
    Downstream("vcr", {"acc_qa": 25.0, "acc_qar": 25.0, "acc": 6.25}, test_vcr),
    Downstream("re", {"accuracy_gt": re_chance, "accuracy_det": None}, test_re),
    Downstream("itm", {"img_r1": 1.0, "txt_r1": 1.0}, test_retrieval),
)
