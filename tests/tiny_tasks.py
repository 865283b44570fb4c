"""NLVR2, VE and referring expressions on the tiny world's pictures: official files, prepared by prepro.py."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import lmdb
import numpy as np

import prepro
from data.txt_store import TextStore
from data.txt_writer import TextWriter
from tests.tiny_world import WORDS, convert, make_world, write_regions

SIZE = 200  # pixels of a side
SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
PIECES = ["!", *(f"w{chr(97 + k)}" for k in range(WORDS - 1))]  # a class's word


def make_tasks(folder: Path, specials: tuple[str, ...] = SPECIALS) -> Path:
    """`make_world`, official annotation files in `raw/`, and the stores that prepro.py makes of them.

    `txt_db/{nlvr2,nlvr2_test,ve,ve_test,refcoco_val,vcr,itm,vqa_raw}.db`, `img_db/{re_coco_gt,re_coco_det,vcr_gt}`; the
    `_test` ones have no labels. `specials`: the first names of the vocabulary, whose ids they get by their order.
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
    make_commonsense(world, raw, rng)
    make_questions(raw, np.random.default_rng(6))
    pictures = [{"filename": f"tiny_{i:012}.png", "imgid": i, "split": "val"} for i in range(24)]
    for i, picture in enumerate(pictures):
        picture["sentences"] = [{"raw": phrase(rng), "sentid": 3 * i + k, "imgid": i, "tokens": []} for k in range(2)]
    (raw / "itm.json").write_text(json.dumps({"dataset": "tiny", "images": pictures}))
    prepare(raw, "itm", "itm", "--karpathy", raw / "itm.json", "--part", "val", "--img_name", "{stem}.npz")
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
    ids = {"Flickr30K_ID": str(i % 24), "pairID": f"{i % 24}.jpg#{4000 - 7 * i}r1n"}
    return ids | {"gold_label": label, "sentence1": "x", "sentence2": phrase(rng)}


def make_questions(raw: Path, rng: np.random.Generator) -> None:
    """VQA v2's two files, and `txt_db/vqa_raw.db`; all ten people give the same answer."""
    ids = [{"question_id": 700 - 3 * i, "image_id": i % 24} for i in range(60)]
    questions = [id_ | {"question": phrase(rng)} for id_ in ids]
    told = ["yes" if rng.random() < 0.5 else "no" for _ in ids]
    annotations = [
        id_
        | {"multiple_choice_answer": answer, "answer_type": "yes/no", "question_type": "is"}
        | {"answers": [{"answer": answer, "answer_id": k, "answer_confidence": "yes"} for k in range(1, 11)]}
        for id_, answer in zip(ids, told)
    ]
    files = {"questions": raw / "vqa_questions.json", "annotations": raw / "vqa.json"}
    for (key, file), entries in zip(files.items(), (questions, annotations)):
        file.write_text(json.dumps({"data_subtype": "tiny", key: entries}))
    flags = [part for key, file in files.items() for part in (f"--{key}", file)]
    prepare(raw, "vqa", "vqa_raw", *flags, "--img_name", "tiny_{image_id:012}.npz")


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


def make_commonsense(world: Path, raw: Path, rng: np.random.Generator) -> None:
    """VCR questions about the tiny pictures, each with one tag; the same boxes as ground truth and as detected ones."""
    lines = []
    for i in range(30):
        choices = [[[phrase(rng).split()[0], [k % 2], phrase(rng).split()[0]] for k in range(4)] for _ in range(2)]
        files = {
            "img_fn": f"tiny/tiny_{i % 24:012}.png",
            "metadata_fn": f"tiny_{i % 24:012}.json",
            "objects": ["wa", "wb"],
        }
        labels = {"answer_label": int(rng.integers(4)), "rationale_label": int(rng.integers(4))}
        texts = {"question": ["wa", [1], "?"], "answer_choices": choices[0], "rationale_choices": choices[1]}
        lines.append({"annot_id": f"val-{7 * (11 * i % 30)}"} | files | texts | labels)
        boxes = [[10.0 * i, 5.0, 10.0 * i + 9, 60.0, 1.0], [3.0, 7.0, 90.0, 99.0, 1.0]]
        metadata = {"boxes": boxes, "names": ["wa", "wb"], "width": 400, "height": 100, "segms": [[], []]}
        (raw / files["metadata_fn"]).write_text(json.dumps(metadata))
    write_lines(raw / "vcr.json", lines)
    names = ["--img_name", "{stem}.npz", "--gt_img_name", "{stem}.npz", "--object_names", "none"]
    prepare(raw, "vcr", "vcr", "--annotations", raw / "vcr.json", "--metadata", raw, *names)
    convert(world / "npz", world / "img_db" / "vcr_gt", "--conf_th", "-1", "--num_bb", "100")


def make_old(raw: Path, store: Path, *flags: str) -> None:
    """An image store of the release's days: compressed, every record with the member that numpy before 2.1 left there;
    where there is a table of counts, one picture holds fewer regions than it says, another more."""
    convert(raw, store, "--compress", *flags)
    (folder,) = store.glob("feat_*_compressed")
    with lmdb.open(str(folder), map_size=1 << 30, lock=False) as env, env.begin(write=True) as transaction:
        for key, value in list(transaction.cursor()):
            if key != b"__keys__":
                stream = io.BytesIO(value)
                with zipfile.ZipFile(stream, "a") as archive, archive.open("allow_pickle.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(True))
                transaction.put(key, stream.getvalue())
    for file in store.glob("nbb_*.json"):
        counts = json.loads(file.read_text())
        first, second = sorted(counts)[:2]
        file.write_text(json.dumps(counts | {first: counts[first] + 5, second: counts[second] - 1}))


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
