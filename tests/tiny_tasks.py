"""NLVR2, VE and referring expressions on the tiny world's pictures: official files, prepared by prepro.py."""

import json
import pickle
from pathlib import Path

import numpy as np

import prepro
from data.txt_store import TextStore, TextWriter
from tests.tiny_world import WORDS, convert, make_world, write_regions

SIZE = 200  # pixels of a side
SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
PIECES = ["!", *(f"w{chr(97 + k)}" for k in range(WORDS - 1))]  # a class's word


def make_tasks(folder: Path, specials: tuple[str, ...] = SPECIALS) -> Path:
    """`make_world`, official annotation files in `raw/`, and the stores that prepro.py makes of them.

    `txt_db/{nlvr2,nlvr2_test,ve,ve_test,refcoco_val}.db`, `img_db/{re_coco_gt,re_coco_det}`; the `_test` ones have no
    labels. `specials`: the first names of the vocabulary, whose ids they get by their order.
    """
    world = make_world(folder)
    raw = world / "raw"
    raw.mkdir()
    fillers = [f"[unused{k}]" for k in range(10 - len(specials))]
    (raw / "vocab.txt").write_text("\n".join([*specials, *fillers, *PIECES]) + "\n")
    rng = np.random.default_rng(5)
    for name in ("nlvr2", "nlvr2_test"):
        write_lines(raw / f"{name}.json", [pair(rng, i, name == "nlvr2") for i in range(60)])
        prepare(raw, "nlvr2", name, "--annotations", raw / f"{name}.json", "--img_name", "{stem}.npz")
    write_lines(raw / "ve.json", [hypothesis(rng, i) for i in range(60)])
    prepare(raw, "ve", "ve", "--annotations", raw / "ve.json", "--img_name", "tiny_{image_id:012}.npz")
    texts = TextStore(world / "txt_db" / "ve.db")
    side = json.loads((world / "txt_db" / "ve.db" / "meta.json").read_text())
    with TextWriter(world / "txt_db" / "ve_test.db", side) as writer:
        for i in range(len(texts)):
            writer.add(texts.id(i), {key: texts.read(i)[key] for key in ("input_ids", "img_fname")})
    texts.close()
    make_referring(world, raw, rng)
    return world


def prepare(raw: Path, task: str, name: str, *flags: str | Path) -> None:
    store = raw.parent / "txt_db" / f"{name}.db"
    prepro.main([task, *map(str, flags), "--vocab", str(raw / "vocab.txt"), "--output", str(store)])


def write_lines(path: Path, entries: list[dict]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def pair(rng: np.random.Generator, i: int, labelled: bool) -> dict:
    """A line of NLVR2's jsonl: four sentences a set of pictures, in two pairs."""
    left, right = (f"tiny_{k:012}.png" for k in rng.choice(24, 2, replace=False))
    label = {"label": str(i % 2 == 1)} if labelled else {}
    identifier = f"dev-{i // 4}-{i % 2}-{i // 2 % 2}"
    return {"identifier": identifier, "sentence": phrase(rng), "left_image": left, "right_image": right} | label


def hypothesis(rng: np.random.Generator, i: int) -> dict:
    """A line of SNLI-VE's jsonl; ids neither sorted nor without gaps."""
    label = ("contradiction", "entailment", "neutral")[i % 3]
    ids = {"Flickr30K_ID": str(i % 24), "pairID": f"{4000 - 7 * i}.jpg#0r1n"}
    return ids | {"gold_label": label, "sentence1": "x", "sentence2": phrase(rng)}


def phrase(rng: np.random.Generator) -> str:
    return " ".join(PIECES[k] for k in rng.integers(0, WORDS, int(rng.integers(1, 9))))


def make_referring(world: Path, raw: Path, rng: np.random.Generator) -> None:
    """Ground-truth and detected boxes of ten pictures; an expression is the word of one object's class."""
    codes = np.random.default_rng(1).normal(size=(WORDS, 2048)).astype(np.float32)
    for kind in ("gt", "det"):
        (world / f"npz_{kind}").mkdir()
    images, annotations, refs, orders = [], [], [], {}
    for i in range(10):
        classes = rng.permutation(WORDS)[: int(rng.integers(2, 7))]
        gt = world / "npz_gt" / f"visual_grounding_coco_gt_{i:012}.npz"
        write_regions(gt, classes, codes, rng)
        write_regions(
            world / "npz_det" / f"visual_grounding_det_coco_{i:012}.npz", rng.permutation(WORDS)[:5], codes, rng
        )
        images.append({"id": i, "file_name": f"{i}.jpg", "height": SIZE, "width": SIZE})
        orders[str(i)] = [100 * i + 17 * k % 13 for k in range(len(classes))]
        with np.load(gt) as stored:
            boxes = stored["norm_bb"][:, [0, 1, 4, 5]].astype(float) * SIZE
        for ann_id, kind, box in zip(orders[str(i)], classes, boxes.tolist()):
            annotations.append({"id": ann_id, "image_id": i, "category_id": 1, "bbox": box, "area": 1.0, "iscrowd": 0})
            sentence = {"sent_id": 500 + len(refs), "sent": PIECES[kind], "raw": PIECES[kind], "tokens": [PIECES[kind]]}
            ids = {"ref_id": len(refs), "ann_id": ann_id, "image_id": i, "category_id": 1, "split": "val"}
            refs.append(ids | {"sentences": [sentence], "sent_ids": [sentence["sent_id"]], "file_name": f"{i}.jpg"})
    (raw / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    categories = [{"id": 1, "name": "thing", "supercategory": "thing"}]
    world_file = {"images": images, "annotations": annotations[::-1], "categories": categories}
    (raw / "instances.json").write_text(json.dumps(world_file))
    (raw / "iid_to_ann_ids.json").write_text(json.dumps({"iid_to_ann_ids": orders}))
    files = ["--refs", raw / "refs(unc).p", "--instances", raw / "instances.json"]
    prepare(raw, "re", "refcoco_val", *files, "--iid_to_ann_ids", raw / "iid_to_ann_ids.json", "--split", "val")
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
