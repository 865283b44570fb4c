"""The downstream tasks of the demo: their stores, commands and scores (`scripts/demo.py --all` runs them).

The commands are those that a user would type; the annotation files of all tasks are under `raw/`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluation.metrics import evaluate_vqa
from scripts.demo_world.runner import DETECTED_BOXES, IMG_NAME, SPLITS, Command, DemoRunner
from utils.files import read_json

Scores = dict[str, float]  # metric → percent
Chances = dict[
    str, Callable[[Path], float] | float | None
]  # metric → score of guessing, in percent, or how to compute it from the root folder
GT_NAME = "visual_grounding_coco_gt_{image_id:012}.npz"
DET_NAME = "visual_grounding_det_coco_{image_id:012}.npz"
RE_TEST = ("testA", "testB")


@dataclass(frozen=True)
class DownstreamTask:
    """A task that is trained with the config `config/demo-{name}.json`.

    `metrics`: the metrics in the table, each with the score of guessing. `test`: a function from the runner and the
    output folder of a training run to the scores on the test split.
    """

    name: str
    metrics: Chances
    test: Callable[[DemoRunner, Path], Scores]


def make_text_stores(runner: DemoRunner) -> None:
    """Make the text stores of all tasks but VQA."""
    raw = runner.root / "raw"
    for split in SPLITS:
        naming: Command = ["--img_name", IMG_NAME.replace("{split}", split)]
        statements, hypotheses = raw / f"nlvr2_{split}.json", raw / f"snli_ve_{split}.jsonl"
        runner.make_text_store("nlvr2", split, flags=["--annotations", statements, *naming])
        runner.make_text_store("ve", split, flags=["--annotations", hypotheses, *naming])
        parts = ["train", "restval"] if split == "train" else [split]
        captions: Command = ["--karpathy", raw / "dataset_coco.json", "--part", *parts]
        runner.make_text_store("itm", split, flags=[*captions, *naming])
        tags: Command = ["--metadata", raw, "--gt_img_name", GT_NAME]
        runner.make_text_store("vcr", split, flags=["--annotations", raw / f"vcr_{split}.jsonl", *naming, *tags])
    order = runner.root / "npz" / "demo_coco_gt" / "iid_to_ann_ids.json"  # describe_regions.py wrote it
    files: Command = ["--refs", raw / "refs(demo).p", "--instances", raw / "instances.json", "--iid_to_ann_ids", order]
    for part in ("train", "val", *RE_TEST):
        runner.make_text_store("re", part, flags=[*files, "--split", part])


def make_image_stores(runner: DemoRunner) -> None:
    """Make the image stores for RE and VCR: ground-truth boxes of all images, detected boxes of validation and test."""
    raw, instances = runner.root / "raw", runner.root / "raw" / "instances.json"
    pictures = {split: raw / "images" / split for split in SPLITS}
    runner.make_image_store(
        "demo_coco_gt",
        pictures=list(pictures.values()),
        boxes=["--boxes", instances],
        naming=["--img_name", GT_NAME],
        selection=["--conf_th", "-1", "--num_bb", "100"],
    )
    runner.make_image_store(
        "demo_coco_det",
        pictures=[pictures["val"], pictures["test"]],
        boxes=["--imitate_detector", instances],
        naming=["--img_name", DET_NAME],
        selection=DETECTED_BOXES,
    )


def evaluate(runner: DemoRunner, task: str, results: Path, annotations: list[Path]) -> Scores:
    """Score a results file with `scripts.evaluate`; returns percent."""
    scores = results.with_name(f"scores_{results.stem}.json")
    runner.call(scores, ["-m", "scripts.evaluate", task, results, *annotations, "--json", scores])
    return percent(scores)


def percent(scores: Path) -> Scores:
    """Read a JSON file of fractions and convert them to percent."""
    return {metric: 100 * share for metric, share in read_json(scores).items()}


def test_stores(runner: DemoRunner, task: str) -> Command:
    """The flags that name the stores of the test split."""
    texts, images = runner.root / "txt_db" / f"{task}_test.db", runner.root / "img_db" / "demo_test"
    return ["--txt_db", texts, "--img_db", images]


def test_nlvr2(runner: DemoRunner, run: Path) -> Scores:
    """Scores of NLVR2 on the test split, and on its balanced and unbalanced parts."""
    results, raw = run / "results_test" / "results.csv", runner.root / "raw"
    source: Command = [*test_stores(runner, "nlvr2"), "--train_dir", run, "--ckpt", "best"]
    runner.call(results, ["inf_nlvr2.py", *source, "--output_dir", results.parent, "--n_workers", "1"])
    annotations = [raw / f"{part}_test.json" for part in ("nlvr2", "balanced", "unbalanced")]
    return evaluate(runner, "nlvr2", results, annotations)


def test_ve(runner: DemoRunner, run: Path) -> Scores:
    """Scores of visual entailment on the test split."""
    results = run / "results_test" / "results_best_all.json"
    source: Command = [*test_stores(runner, "ve"), "--output_dir", run, "--checkpoint", "best"]
    runner.call(results, ["inf_ve.py", *source, "--n_workers", "1"])
    return evaluate(runner, "ve", results, [runner.root / "raw" / "snli_ve_test.jsonl"])


def test_vcr(runner: DemoRunner, run: Path) -> Scores:
    """Scores of VCR on the test split."""
    results = run / "results_test" / "results_best_all.json"
    texts, images = runner.root / "txt_db" / "vcr_test.db", runner.root / "img_db"
    stores: Command = ["--txt_db", texts, "--img_db", f"{images / 'demo_coco_gt'};{images / 'demo_test'}"]
    source: Command = [*stores, "--split", "test", "--output_dir", run, "--checkpoint", "best"]
    runner.call(results, ["inf_vcr.py", *source, "--n_workers", "1"])
    return evaluate(runner, "vcr", results, [runner.root / "raw" / "vcr_labels_test.jsonl"])


def test_retrieval(runner: DemoRunner, run: Path) -> Scores:
    """Recalls of a finetuned retrieval model on the test split."""
    options: Command = ["--train_config", run / "log" / "hps.json", "--model_config", run / "log" / "model.json"]
    weights = run / "ckpt" / "model_step_best.pt"
    return retrieve(runner, run / "results_test", weights=weights, flags=options)


def retrieve(runner: DemoRunner, output: Path, *, weights: Path, flags: Command) -> Scores:
    """Recalls on the test split, for any weights."""
    source: Command = [*test_stores(runner, "itm"), "--checkpoint", weights, "--output_dir", output]
    command: Command = ["inf_itm.py", *source, "--batch_size", "100", "--n_workers", "1", *flags]
    runner.call(output / "scores.json", command)
    return percent(output / "scores.json")


def test_re(runner: DemoRunner, run: Path) -> Scores:
    """Accuracies of RE on ground-truth and on detected boxes; each is the mean of testA and testB."""
    texts = ":".join(str(runner.root / "txt_db" / f"re_{part}.db") for part in RE_TEST)
    accuracies: Scores = {}
    for source in ("gt", "det"):
        images = runner.root / "img_db" / f"demo_coco_{source}"
        results = [run / "results_test" / f"results_best_re_{part}_on_{images.name}_all.json" for part in RE_TEST]
        stores: Command = ["--txt_db", texts, "--img_db", images]
        command: Command = ["inf_re.py", *stores, "--output_dir", run, "--checkpoint", "best", "--n_workers", "1"]
        runner.call(results[-1], command)
        values = [evaluate(runner, "re", path, [])["accuracy"] for path in results]
        accuracies[f"accuracy_{source}"] = sum(values) / len(values)
    return accuracies


def vqa_chance(root: Path) -> float:
    """The accuracy of always answering with the most frequent answer of the training split, in percent."""
    train, test = (read_json(root / "raw" / f"annotations_{split}.json")["annotations"] for split in ("train", "test"))
    ((most_frequent, _),) = Counter(entry["multiple_choice_answer"] for entry in train).most_common(1)
    results = [{"question_id": entry["question_id"], "answer": most_frequent} for entry in test]
    return evaluate_vqa(results, test)["overall"]


def re_chance(root: Path) -> float:
    """The expected accuracy of a random ground-truth box, in percent; the mean of testA and testB."""
    shares: list[float] = []
    for part in RE_TEST:
        folder = root / "txt_db" / f"re_{part}.db"
        n_boxes = {image["id"]: len(image["ann_ids"]) for image in read_json(folder / "images.json")}
        chances = [1 / n_boxes[ref["image_id"]] for ref in read_json(folder / "refs.json") for _ in ref["sentences"]]
        shares.append(sum(chances) / len(chances))
    return 100 * sum(shares) / len(shares)


NLVR2: Chances = {name: 50.0 for name in ("accuracy", "accuracy_balanced_test", "accuracy_unbalanced_test")}
TASKS = (
    DownstreamTask("nlvr2", NLVR2 | {"consistency": None}, test_nlvr2),
    DownstreamTask("ve", {"accuracy": 100 / 3}, test_ve),
    DownstreamTask("vcr", {"acc_qa": 25.0, "acc_qar": 25.0, "acc": 6.25}, test_vcr),
    DownstreamTask("re", {"accuracy_gt": re_chance, "accuracy_det": None}, test_re),
    DownstreamTask("itm", {"img_r1": 1.0, "txt_r1": 1.0}, test_retrieval),
)
