"""The JSON files of `config/` and of the release go through the scripts that read them."""

import json
from pathlib import Path

import pytest

from pretrain import PretrainConfig
from tests.tiny_world import ROOT
from train_vqa import VqaConfig
from utils.config import parse

CONFIGS = sorted((ROOT / "config").glob("*.json"))
SCRIPTS = {"pretrain": PretrainConfig, "train-vqa": VqaConfig, "demo-pretrain": PretrainConfig, "demo-vqa": VqaConfig}
RUNS = [(path, SCRIPTS[prefix]) for path in CONFIGS for prefix in SCRIPTS if path.stem.startswith(prefix)]


@pytest.mark.parametrize(("path", "config_type"), RUNS, ids=[path.stem for path, _ in RUNS])
def test_every_key_is_read(path, config_type):
    config, _ = parse(config_type, ["--config", str(path), "--data_root", "somewhere"])
    written = json.loads(path.read_text())
    for key, value in written.items():
        if not isinstance(value, str | list) and key != "data_root":
            assert getattr(config, key) == value
    assert Path(config.model_config).name in ("uniter-base.json", "uniter-large.json", "demo-model.json")


def test_all_configs_are_known():
    assert {path.stem for path, _ in RUNS} | {"uniter-base", "uniter-large", "demo-model"} == {p.stem for p in CONFIGS}


def test_the_releases_own_mounts_and_dead_keys(tmp_path):
    """As in the release's container: `/txt`, `/img`, `/pretrain`, `/storage`, `/src`; a key that nobody reads."""
    written = json.loads((ROOT / "config" / "pretrain-indomain-base-8gpu.json").read_text())
    written |= {"checkpoint": "/pretrain/uniter-base.pt", "model_config": "/src/config/uniter-base.json", "rank": 0}
    written |= {"output_dir": "/storage/pretrain", "mask_dir": "/nowhere"}
    for source in written["train_datasets"]:
        source["db"] = [f"/txt/{Path(db).name}" for db in source["db"]]
        source["img"] = [f"/img/{Path(img).name}/" for img in source["img"]]
    (tmp_path / "release.json").write_text(json.dumps(written))
    config, notes = parse(PretrainConfig, ["--config", str(tmp_path / "release.json"), "--data_root", "/data/uniter"])
    assert config.checkpoint == "/data/uniter/pretrained/uniter-base.pt"
    assert config.model_config == str(ROOT / "config" / "uniter-base.json")
    assert config.train_datasets[0].db[0] == "/data/uniter/txt_db/pretrain_coco_train.db"
    assert config.train_datasets[0].img[0].rstrip("/") == "/data/uniter/img_db/coco_train2014"
    assert sum("mask_dir" in note or "rank" in note for note in notes) >= 2


@pytest.mark.parametrize("script", ["pretrain", "train_vqa"])
def test_defaults_are_the_releases(script):
    """docs/COMPATIBILITY.md: defaults that differ by script."""
    needed = ["--output_dir", "out", "--model_config", "model.json"]
    config, _ = parse({"pretrain": PretrainConfig, "train_vqa": VqaConfig}[script], needed)
    common = {"max_txt_len": 60, "conf_th": 0.2, "max_bb": 100, "min_bb": 10, "num_bb": 36, "learning_rate": 3e-5}
    common |= {"betas": (0.9, 0.98), "dropout": 0.1, "num_train_steps": 100000, "valid_steps": 1000, "seed": 42}
    common |= {"train_batch_size": 4096, "val_batch_size": 4096, "gradient_accumulation_steps": 16, "grad_norm": 2.0}
    own = {
        "pretrain": {"optim": "adamw", "weight_decay": 0.01, "warmup_steps": 10000, "mrm_prob": 0.15},
        "train_vqa": {"optim": "adam", "weight_decay": 0.0, "warmup_steps": 4000, "lr_mul": 10.0},
    }
    for key, value in (common | own[script]).items():
        assert getattr(config, key) == value, key
    assert (config.batching, config.accumulation, config.n_workers) == ("release", "sum", 4)
