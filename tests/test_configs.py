"""The JSON files of `config/` and of the release go through the scripts that read them."""

import importlib
import json
from pathlib import Path

import pytest

from pretrain import PretrainConfig
from pretrain_vcr import VcrPretrainConfig
from tests.tiny_world import ROOT
from train_itm import ItmConfig
from train_itm_hard_negatives import HardNegativesConfig
from train_nlvr2 import Nlvr2Config
from train_re import ReConfig
from train_vcr import VcrConfig
from train_ve import VeConfig
from train_vqa import VqaConfig
from utils.config import parse
from utils.errors import InputError

CONFIGS = sorted((ROOT / "config").glob("*.json"))
SCRIPTS = {  # by the beginning of a config's name, the longest that fits
    "pretrain": PretrainConfig,
    "pretrain-vcr": VcrPretrainConfig,
    "vqa": VqaConfig,
    "vcr": VcrConfig,
    "nlvr2": Nlvr2Config,
    "ve": VeConfig,
    "itm": ItmConfig,
    "re": ReConfig,
}
ENTRIES = ("train_*.py", "pretrain*.py", "inf_*.py")
MODELS = {"uniter-base", "uniter-large", "demo-model"}
RELEASED = (
    "pretrain-alldata-base-8gpu pretrain-alldata-large-16gpu pretrain-indomain-base-8gpu "
    "pretrain-vcr-base-4gpu pretrain-vcr-large-4gpu train-itm-coco-base-16gpu-hn "
    "train-itm-coco-large-16gpu-hn train-itm-flickr-base-16gpu-hn train-itm-flickr-base-8gpu "
    "train-itm-flickr-large-16gpu-hn train-nlvr2-base-1gpu train-nlvr2-large-2gpu "
    "train-refcoco+-base-1gpu train-refcoco-base-1gpu train-refcocog-base-1gpu train-vcr-base-4gpu "
    "train-vcr-large-4gpu train-ve-base-2gpu train-ve-large-4gpu train-vqa-base-4gpu train-vqa-large-8gpu"
)


def script_of(name):
    if name.endswith("-hn"):
        return HardNegativesConfig
    name = name.removeprefix("train-").removeprefix("demo-")
    return SCRIPTS[max((prefix for prefix in SCRIPTS if name.startswith(prefix)), key=len)]


RUNS = [(path, script_of(path.stem)) for path in CONFIGS if path.stem not in MODELS]


@pytest.mark.parametrize(("path", "config_type"), RUNS, ids=[path.stem for path, _ in RUNS])
def test_every_key_is_read(path, config_type):
    config, _ = parse(config_type, ["--config", str(path), "--data_root", "somewhere"])
    written = json.loads(path.read_text())
    for key, value in written.items():
        if not isinstance(value, str | list) and key != "data_root":
            assert getattr(config, key) == value
    assert Path(config.model_config).name in ("uniter-base.json", "uniter-large.json", "demo-model.json")


@pytest.mark.parametrize("script", sorted(p.stem for pattern in ENTRIES for p in ROOT.glob(pattern)))
def test_a_script_without_options_names_those_it_needs(script):
    with pytest.raises(InputError, match=r"required options are missing: .*output_dir[\s\S]*--output_dir VALUE"):
        importlib.import_module(script).main([])


def test_all_configs_are_known():
    """Every config of the release's list is here, and one for the demo of every task."""
    names = {path.stem for path, _ in RUNS}
    assert {f"demo-{task}" for task in ("pretrain", "pretrain-vcr", "vqa", "vcr", "nlvr2", "ve", "itm", "re")} <= names
    assert set(RELEASED.split()) <= names


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


def test_configs_hold_the_releases_values():
    for name, values in json.loads((ROOT / "tests/golden/release-configs.json").read_text()).items():
        assert json.loads((ROOT / "config" / name).read_text()) == values, name


OF_FINETUNING = {"optim": "adam", "weight_decay": 0.0, "warmup_steps": 4000, "grad_norm": 0.25, "lr_mul": 1.0}
DEFAULTS = {
    PretrainConfig: {"optim": "adamw", "weight_decay": 0.01, "warmup_steps": 10000, "mrm_prob": 0.15},
    VqaConfig: OF_FINETUNING | {"grad_norm": 2.0, "lr_mul": 10.0},
    VcrConfig: OF_FINETUNING
    | {"grad_norm": 2.0, "lr_mul": 10.0, "checkpoint_from": "pretrain"}
    | {"val_batch_size": 10},  # examples: as the release's configs, not its 4096
    Nlvr2Config: OF_FINETUNING | {"model": "paired", "use_img_type": False},
    VeConfig: OF_FINETUNING,
    ItmConfig: OF_FINETUNING
    | {"train_batch_size": 128, "weight_decay": 0.01, "negative_size": 1, "margin": 0.2, "full_val": False}
    | {"inf_minibatch_size": 400, "val_batch_size": 16384},
    HardNegativesConfig: OF_FINETUNING
    | {"train_batch_size": 32, "weight_decay": 0.01, "negative_size": 511, "hard_neg_size": 31}
    | {"inf_minibatch_size": 512, "val_batch_size": 16384},
    ReConfig: OF_FINETUNING
    | {"train_batch_size": 128, "val_batch_size": 256, "num_train_steps": 32000, "seed": 24, "mlp": 1}
    | {"train_loss": "cls", "margin": 0.2, "hard_ratio": 0.3, "decay": "linear", "valid_steps": 0},
}


@pytest.mark.parametrize("config_type", DEFAULTS)
def test_defaults_are_the_releases(config_type):
    """docs/COMPATIBILITY.md: defaults that differ by script."""
    needed = ["--output_dir", "out", "--model_config", "model.json"]
    config, _ = parse(config_type, needed)
    common = {"max_txt_len": 60, "conf_th": 0.2, "max_bb": 100, "min_bb": 10, "num_bb": 36, "learning_rate": 3e-5}
    common |= {"betas": (0.9, 0.98), "dropout": 0.1, "num_train_steps": 100000, "valid_steps": 1000, "seed": 42}
    common |= {"train_batch_size": 4096, "val_batch_size": 4096, "gradient_accumulation_steps": 16, "grad_norm": 2.0}
    for key, value in (common | DEFAULTS[config_type]).items():
        assert getattr(config, key) == value, key
    assert (config.batching, config.accumulation, config.n_workers) == ("release", "sum", 4)
