"""Tiny stores of NLVR2, VE and referring expressions on the tiny world's pictures, in the real formats."""

import json
from pathlib import Path

import numpy as np

from data.txt_store import TextWriter
from tests.tiny_world import META, WORDS, convert, make_world, write_regions

SIZE = 200  # pixels of a side


def make_tasks(folder: Path, meta: dict = META) -> Path:
    """`make_world` and `txt_db/{nlvr2,nlvr2_test,ve,ve_test,refcoco_val}.db`, `img_db/{re_coco_gt,re_coco_det}`."""
    world = make_world(folder)
    rng = np.random.default_rng(5)
    low = meta["v_range"][0]
    names = [f"tiny_{i:012}.npz" for i in range(24)]
    for name in ("nlvr2", "nlvr2_test"):
        with TextWriter(world / "txt_db" / f"{name}.db", meta) as writer:
            for i in range(60):
                pair = [names[k] for k in rng.choice(24, 2, replace=False)]
                record = {"input_ids": words(rng, low), "img_fname": pair}
                label = {} if name.endswith("test") else {"target": i % 2}
                writer.add(f"dev-{i // 4}-{i % 2}-{i // 2 % 2}", record | label)
    for name in ("ve", "ve_test"):
        with TextWriter(world / "txt_db" / f"{name}.db", meta) as writer:
            for i in range(60):
                record = {"input_ids": words(rng, low), "img_fname": names[i % 24]}
                label = {} if name.endswith("test") else {"target": {"labels": [i % 3], "scores": [1.0]}}
                writer.add(f"{4000 - 7 * i}.jpg#0r1n", record | label)
    make_referring(world, rng, meta)
    return world


def words(rng: np.random.Generator, low: int) -> list[int]:
    return (low + rng.integers(0, WORDS, int(rng.integers(1, 9)))).tolist()


def make_referring(world: Path, rng: np.random.Generator, meta: dict) -> None:
    """Ground-truth and detected boxes of ten pictures; an expression is the word of one object's class."""
    codes = np.random.default_rng(1).normal(size=(WORDS, 2048)).astype(np.float32)
    images, records = [], []
    for i in range(10):
        classes = rng.permutation(WORDS)[: int(rng.integers(2, 7))]
        ann_ids = [100 * i + 17 * k % 13 for k in range(len(classes))]
        gt = world / "npz_gt" / f"visual_grounding_coco_gt_{i:012}.npz"
        gt.parent.mkdir(exist_ok=True)
        write_regions(gt, classes, codes, rng)
        det = world / "npz_det" / f"visual_grounding_det_coco_{i:012}.npz"
        det.parent.mkdir(exist_ok=True)
        write_regions(det, rng.permutation(WORDS)[:5], codes, rng)
        images.append({"id": i, "file_name": f"{i}.jpg", "ann_ids": ann_ids, "height": SIZE, "width": SIZE})
        with np.load(gt) as stored:
            boxes = stored["norm_bb"][:, [0, 1, 4, 5]].astype(float) * SIZE
        for k, kind in enumerate(classes):
            record = {"input_ids": [int(meta["v_range"][0] + kind)], "img_fname": gt.name, "bbox": boxes[k].tolist()}
            ids = {"ann_id": ann_ids[k], "image_id": i, "sent_id": len(records) + 500}
            records.append(record | ids)
    with TextWriter(world / "txt_db" / "refcoco_val.db", meta) as writer:
        for record in records:
            writer.add(str(record["sent_id"]), record)
    (world / "txt_db" / "refcoco_val.db" / "images.json").write_text(json.dumps(images))
    convert(world / "npz_gt", world / "img_db" / "re_coco_gt", "--conf_th", "-1", "--num_bb", "100")
    convert(world / "npz_det", world / "img_db" / "re_coco_det")


def options(world: Path, output: Path, **changes) -> Path:
    """A JSON for a finetuning script on the tiny world; stores by `changes`."""
    made = {
        "data_root": str(world),
        "output_dir": str(output),
        "model_config": str(world / "model.json"),
        "min_bb": 2,
        "train_batch_size": 400,
        "val_batch_size": 600,
        "batching": "full",
        "accumulation": "mean",
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "num_train_steps": 12,
        "valid_steps": 4,
        "log_steps": 2,
        "num_threads": 1,
        "n_workers": 0,
    } | changes
    path = world / f"{output.name}.json"
    path.write_text(json.dumps(made))
    return path
