"""Small stores in the real formats, for tests that run the real scripts: words whose pictures show them."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from data.txt_writer import TextWriter

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")  # on a free port
WORDS = 16  # ids 10..25
VOCAB = 26
META = {"CLS": 1, "SEP": 2, "MASK": 3, "UNK": 4, "v_range": [10, VOCAB], "tokenizer": "tiny"}
MODEL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.1,  # so small a model learns little from BERT's 0.02
}


def make_world(folder: Path, texts: int = 60, pictures: int = 24, seed: int = 0) -> Path:
    """`folder` with `img_db/tiny`, `txt_db/{captions,vqa}.db` and `model.json`; a region's class is a word's id."""
    rng = np.random.default_rng(seed)
    raw = folder / "npz"
    raw.mkdir(parents=True)
    codes = np.random.default_rng(1).normal(size=(WORDS, 2048)).astype(np.float32)
    shown = []
    for i in range(pictures):
        n = int(rng.integers(3, 9))
        classes = rng.integers(0, WORDS, n)
        shown.append(classes)
        write_regions(raw / f"tiny_{i:012}.npz", classes, codes, rng)
    convert(raw, folder / "img_db" / "tiny")
    with TextWriter(folder / "txt_db" / "captions.db", META) as captions:
        for i in range(texts):
            classes = shown[i % pictures]
            words = rng.choice(classes, size=int(rng.integers(2, 12)))
            captions.add(str(i), {"input_ids": (words + 10).tolist(), "img_fname": f"tiny_{i % pictures:012}.npz"})
    with TextWriter(folder / "txt_db" / "vqa.db", META) as questions:
        for i in range(texts):
            word, picture = int(rng.integers(0, WORDS)), i % pictures
            label = int(word in shown[picture])
            record = {"input_ids": [word + 10, 11], "img_fname": f"tiny_{picture:012}.npz"}
            questions.add(str(1000 + i), record | {"target": {"labels": [label], "scores": [1.0]}})
    (folder / "txt_db" / "vqa.db" / "ans2label.json").write_text(json.dumps({"no": 0, "yes": 1}))
    (folder / "model.json").write_text(json.dumps(MODEL))
    return folder


def write_regions(path: Path, classes: np.ndarray, codes: np.ndarray, rng: np.random.Generator) -> None:
    """What an extractor leaves of one picture: a region of every class, features near the class's code."""
    n = len(classes)
    corner, size = rng.random((n, 2)) * 0.5, 0.1 + rng.random((n, 2)) * 0.4
    soft = np.full((n, 1601), 1e-4, np.float32)
    soft[np.arange(n), classes + 1] = 1
    np.savez(
        path,
        features=(codes[classes] + 0.1 * rng.normal(size=(n, 2048))).astype(np.float16),
        norm_bb=np.concatenate([corner, corner + size, size], 1).astype(np.float16),
        conf=np.sort(0.3 + 0.6 * rng.random(n))[::-1].astype(np.float16),
        soft_labels=(soft / soft.sum(1, keepdims=True)).astype(np.float16),
    )


def convert(raw: Path, output: Path, *flags: str) -> None:
    script = ROOT / "scripts" / "convert_imgdir.py"
    command = [sys.executable, script, "--img_dir", raw, "--output", output, "--min_bb", "2", "--nproc", "1", *flags]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def pretrain_options(world: Path, output: Path, **changes) -> Path:
    """A JSON for `pretrain.py` on the tiny world: all objectives, short, deterministic."""
    sources = [{"name": "tiny", "db": ["txt_db/captions.db"], "img": ["img_db/tiny"]}]
    tasks = ["itm", "mlm", "mrfr", "mrckl", "mrc"]
    options = {
        "data_root": str(world),
        "output_dir": str(output),
        "model_config": str(world / "model.json"),
        "train_datasets": [source | {"tasks": tasks, "mix_ratio": [2, 2, 1, 1, 1]} for source in sources],
        "val_datasets": [source | {"tasks": tasks} for source in sources],
        "itm_ot_lambda": 0.1,
        "min_bb": 2,
        "train_batch_size": 160,
        "val_batch_size": 400,
        "batching": "full",
        "accumulation": "mean",
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "warmup_steps": 4,
        "num_train_steps": 24,
        "valid_steps": 6,
        "log_steps": 4,
        "grad_norm": 1.0,
        "num_threads": 1,
        "n_workers": 0,
    } | changes
    path = world / f"{output.name}.json"
    path.write_text(json.dumps(options))
    return path


def run_script(*command: str | Path, launcher: tuple[str, ...] = (), check: bool = True) -> subprocess.CompletedProcess:
    """Run a script of the checkout as a user does."""
    line = [sys.executable, *launcher, *map(str, command)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
