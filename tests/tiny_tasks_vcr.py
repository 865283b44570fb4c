"""A small VCR in the real formats: the right answers and rationales hold a word that no wrong one has."""

import json
from pathlib import Path

import numpy as np

from data.txt_writer import TextWriter
from tests.tiny_world import META, MODEL, VOCAB, WORDS, convert, write_regions
from utils.formats import VCR_TOKENS

RIGHT, LONG = 10, 24  # the word that tells; word pieces of the longest test text
OTHER_META = META | {"CLS": 7, "SEP": 9, "MASK": 8, "UNK": 5}  # a vocabulary with other marks
SPLITS = ("train", "val", "test")


def make_vcr_world(folder: Path, meta: dict = META, texts: int = 40, pictures: int = 12, seed: int = 0) -> Path:
    """`folder` with `img_db/vcr_{gt_,}tiny`, `txt_db/vcr_{train,val,test}.db` and `model.json`.

    Ids are neither sorted nor contiguous; test has no labels, and a text longer than `max_txt_len` of the options. Of
    the detected boxes one record holds fewer than announced, one more.
    """
    rng = np.random.default_rng(seed)
    codes = np.random.default_rng(1).normal(size=(WORDS, 2048)).astype(np.float32)
    for store, prefix, flags in (("vcr_gt_tiny", "vcr_gt_", ("--conf_th", "-1")), ("vcr_tiny", "vcr_", ())):
        raw = folder / "npz" / store
        raw.mkdir(parents=True)
        for i in range(pictures):
            write_regions(raw / f"{prefix}{i}.npz", rng.integers(0, WORDS, int(rng.integers(3, 7))), codes, rng)
        convert(raw, folder / "img_db" / store, *flags)
    counts = next((folder / "img_db" / "vcr_tiny").glob("nbb_*.json"))
    announced = json.loads(counts.read_text())
    counts.write_text(json.dumps(announced | {"vcr_0.npz": 9, "vcr_1.npz": 2}))
    for split in SPLITS:
        with TextWriter(folder / "txt_db" / f"vcr_{split}.db", meta) as writer:
            for i in range(texts):
                record = question(rng, LONG if (split, i) == ("test", 3) else 0, labelled=split != "test")
                number = 7 * ((i * 11) % texts) + 1
                names = [f"vcr_gt_{i % pictures}.npz", f"vcr_{i % pictures}.npz"]
                writer.add(f"{split}-{number}", record | {"img_fname": names})
    (folder / "model.json").write_text(json.dumps(MODEL))
    return folder


def question(rng: np.random.Generator, length: int, labelled: bool) -> dict:
    """A record; special tokens stand among its words. `length`: of the question, 0 for a short one."""

    def words(n: int) -> list[int]:
        ids = rng.integers(RIGHT + 1, VOCAB, n)
        ids[rng.integers(n)] = rng.integers(VOCAB, VOCAB + VCR_TOKENS)
        return ids.tolist()

    answers = [words(int(rng.integers(1, 4))) for _ in range(4)]
    rationales = [words(int(rng.integers(2, 5))) for _ in range(4)]
    answer, rationale = (int(target) for target in rng.integers(0, 4, 2))
    answers[answer].append(RIGHT)
    rationales[rationale].append(RIGHT)
    return {
        "input_ids": words(length or int(rng.integers(2, 5))),
        "input_ids_as": answers,
        "input_ids_rs": rationales,
        "qa_target": answer if labelled else -1,
        "qar_target": rationale if labelled else -1,
    }


def images(world: Path) -> str:
    return f"{world}/img_db/vcr_gt_tiny;{world}/img_db/vcr_tiny"


def vcr_options(world: Path, output: Path, **changes) -> Path:
    """A JSON for `train_vcr.py`: short, deterministic."""
    options = {
        "output_dir": str(output),
        "model_config": str(world / "model.json"),
        "train_txt_dbs": [f"{world}/txt_db/vcr_train.db"],
        "train_img_dbs": [images(world)],
        "val_txt_db": f"{world}/txt_db/vcr_val.db",
        "val_img_db": images(world),
        "max_txt_len": 24,
        "min_bb": 2,
        "train_batch_size": 1600,
        "val_batch_size": 10,
        "batching": "full",
        "accumulation": "mean",
        "gradient_accumulation_steps": 1,
        "learning_rate": 2e-3,
        "lr_mul": 1.0,
        "warmup_steps": 4,
        "num_train_steps": 60,
        "valid_steps": 15,
        "log_steps": 3,
        "num_threads": 1,
        "n_workers": 0,
    } | changes
    return written(output, options)


def second_stage_options(world: Path, output: Path, **changes) -> Path:
    """A JSON for `pretrain.py` or `pretrain_vcr.py` in the release's form."""
    source = {"name": "vcr", "img": [images(world)], "tasks": ["mlm", "mrfr", "mrckl", "mrc"]}
    options = {
        "output_dir": str(output),
        "model_config": str(world / "model.json"),
        "train_datasets": [source | {"db": [f"{world}/txt_db/vcr_train.db"], "mix_ratio": [2, 1, 1, 1]}],
        "val_datasets": [source | {"db": [f"{world}/txt_db/vcr_val.db"]}],
        "max_txt_len": 24,
        "min_bb": 2,
        "train_batch_size": 1600,
        "val_batch_size": 1600,
        "batching": "full",
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "num_train_steps": 12,
        "valid_steps": 6,
        "log_steps": 4,
        "num_threads": 1,
        "n_workers": 0,
    } | changes
    return written(output, options)


def written(output: Path, options: dict) -> Path:
    path = output.parent / f"{output.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(options))
    return path
