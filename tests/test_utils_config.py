"""Options: precedence, types, paths, and what a wrong one says."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from inf_re import ReInference
from train_itm import ItmConfig
from utils import paths
from utils.config import load_hps, parse, validate
from utils.errors import InputError
from utils.options import field_metadata, option
from utils.run_config import RunConfig
from utils.store_options import DataEntry

CONFIGS = Path(__file__).resolve().parent.parent / "config"


@dataclasses.dataclass(kw_only=True)
class Config(RunConfig):
    """Options of a script."""

    train_txt_dbs: list[str] = option([], "text stores", path=True)
    train_img_dbs: list[str] = option([], "image stores", path=True)
    val_txt_db: str = option("", path=True)
    val_img_db: str = option("", path=True)
    train_datasets: list[DataEntry] = option([])
    val_datasets: list[DataEntry] = option([])
    mrm_prob: float = 0.15
    itm_neg_prob: float = 0.5
    itm_ot_lambda: float = 0.0
    lr_mul: float = 10.0


def write(folder: Path, **options: Any) -> str:
    path = folder / "options.json"
    path.write_text(json.dumps({"output_dir": "out", "model_config": "model.json", **options}))
    return str(path)


def refusal(capsys: Any, *argv: str) -> str:
    """What is said when the command line is refused."""
    with pytest.raises(SystemExit) as end:
        parse(Config, list(argv))
    assert end.value.code == 2
    output = capsys.readouterr()
    return output.out + output.err


def test_flag_beats_json_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, train_batch_size=5120, conf_th=-1, betas=[0.8, 0.9], fp16=True, seed=7, pin_mem=True)
    config, notes = parse(
        Config,
        f"--config {file} --seed 9 --betas 0.9 0.98 --no-pin_mem --train_txt_dbs a b --grad_norm -1".split(),
    )
    assert (config.train_batch_size, config.seed, config.valid_steps) == (5120, 9, 1000)
    assert config.betas == (0.9, 0.98) and config.train_txt_dbs == ["a", "b"]
    assert config.fp16 is True and config.pin_mem is False
    assert config.conf_th == -1.0 and isinstance(config.conf_th, float) and config.grad_norm == -1.0
    assert notes == []
    config, _ = parse(Config, ["--output_dir=o", "--model_config", "m", "--fp16", "--precision", "fp32"])
    assert config.fp16 is True and config.precision == "fp32" and config.checkpoint is None
    assert (config.learning_rate, config.warmup_steps, config.max_txt_len) == (3e-5, 4000, 60)


@pytest.mark.parametrize("name", ["pretrain-alldata-base-8gpu", "pretrain-indomain-base-8gpu", "train-vqa-base-4gpu"])
def test_configs_of_the_release_are_read(name: str) -> None:
    raw = json.loads((CONFIGS / f"{name}.json").read_text())
    config, notes = parse(Config, ["--config", str(CONFIGS / f"{name}.json")])
    assert notes == []
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    for entry in saved["val_datasets"]:  # the only key that a validation entry leaves out
        assert entry.pop("mix_ratio") is None
    assert {key: saved[key] for key in raw} == raw


def test_config_values_of_the_release() -> None:
    large = json.loads((CONFIGS / "pretrain-alldata-large-16gpu.json").read_text())
    assert (large["num_train_steps"], large["train_batch_size"], large["grad_norm"]) == (500000, 6144, 5.0)
    vqa = json.loads((CONFIGS / "train-vqa-large-8gpu.json").read_text())
    assert (vqa["learning_rate"], vqa["gradient_accumulation_steps"], vqa["lr_mul"]) == (5e-5, 4, 10.0)
    sizes = [json.loads((CONFIGS / f"uniter-{size}.json").read_text()) for size in ("base", "large")]
    assert [s["hidden_size"] * s["num_hidden_layers"] for s in sizes] == [768 * 12, 1024 * 24]


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"train_batchsize": 3}, ["train_batchsize", "did you mean 'train_batch_size'?"]),
        ({"zzz": 3}, ["unknown option", "zzz", "remove the key"]),
        ({"train_batch_size": "3"}, ["train_batch_size", "'3' (str)", "int"]),
        ({"train_batch_size": 3.0}, ["3.0 (float)", "int"]),
        ({"seed": True}, ["seed", "True (bool)", "int"]),
        ({"fp16": 1}, ["fp16", "1 (int)", "bool"]),
        ({"learning_rate": False}, ["learning_rate", "False (bool)", "float"]),
        ({"learning_rate": float("nan")}, ["learning_rate", "nan"]),
        ({"seed": None}, ["seed", "None (NoneType)", "int"]),
        ({"optim": "sgd"}, ["optim", "'sgd' (str)", "one of adam, adamax, adamw"]),
        ({"precision": "fp8"}, ["precision", "one of fp64, fp32, bf16, fp16"]),
        ({"betas": [0.9]}, ["betas", "list of 2: float, float"]),
        ({"betas": [0.9, 1.0]}, ["betas[1]", "at least 0, below 1", "options.json"]),
        ({"train_txt_dbs": "a"}, ["train_txt_dbs", "'a' (str)", "list of str"]),
        ({"train_txt_dbs": ["a", 3]}, ["train_txt_dbs[1]", "3 (int)", "str"]),
        ({"train_datasets": [{"name": "x", "db": ["a"], "img": [7]}]}, ["train_datasets[0].img[0]", "str or null"]),
        ({"train_datasets": [{"name": "x"}]}, ["a required key is missing", "train_datasets[0].db"]),
        ({"train_datasets": [{"name": "x", "db": [], "mixratio": [1]}]}, ["[0].mixratio", "'mix_ratio'"]),
        ({"valid_steps": -1}, ["valid_steps", "at least 0"]),
        ({"min_bb": 50, "max_bb": 20}, ["min_bb", "50", "20"]),
        ({"grad_norm": 0}, ["grad_norm", "above 0", "or -1"]),
        ({"dropout": 1.0}, ["dropout", "below 1"]),
    ],
)
def test_wrong_json_names_key_found_and_expected(tmp_path: Path, options: dict[str, Any], fragments: list[str]) -> None:
    with pytest.raises(InputError) as error:
        parse(Config, ["--config", write(tmp_path, **options)])
    for fragment in fragments:
        assert fragment in str(error.value)


def test_wrong_flags_end_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    required_flags = ["--output_dir", "o", "--model_config", "m"]
    assert "--conf_th" in refusal(capsys, *required_flags, "--conf_thr", "0.3")
    assert "adamax" in refusal(capsys, *required_flags, "--optim", "sgd")
    assert "--seed" in refusal(capsys, *required_flags, "--seed", "1.5")
    assert "--betas" in refusal(capsys, *required_flags, "--betas", "0.9")
    assert "True" in refusal(capsys, *required_flags, "--fp16", "True")
    with pytest.raises(InputError, match="learning_rate"):
        parse(Config, [*required_flags, "--learning_rate", "nan"])


@pytest.mark.parametrize("flags", [["--local-rank=0"], ["--local_rank", "1"], ["--local_rank=3"]])
def test_the_flag_of_an_old_launcher_names_torchrun(tmp_path: Path, flags: list[str]) -> None:
    for config_class in (Config, ReInference):
        with pytest.raises(InputError, match=r"torch\.distributed\.launch[\s\S]*launch with torchrun") as error:
            parse(config_class, [*flags, "--config", write(tmp_path)])
        assert flags[0] in str(error.value)


def test_other_ranks_are_quiet_about_wrong_flags(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PMI_RANK": "1", "PMI_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert refusal(capsys, "--conf_thr", "0.3") == ""


def test_missing_options_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        parse(Config, ["--seed", "3"])
    assert "output_dir, model_config" in str(error.value)
    file = tmp_path / "some.json"
    file.write_text('{"model_config": "m"}')
    with pytest.raises(InputError, match=r"required options are missing: output_dir\n.*some\.json"):
        parse(Config, ["--config", str(file)])


def test_files_that_are_no_options(tmp_path: Path) -> None:
    for text, said in [("[1]", "not a JSON object"), ("{", "not a JSON file")]:
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match=said):
            parse(Config, ["--config", str(tmp_path / "x.json")])
    with pytest.raises(InputError, match="not found"):
        parse(Config, ["--config", str(tmp_path / "absent.json")])


def test_dead_keys_are_noted_and_odd_choices_warned_of(tmp_path: Path) -> None:
    file = write(tmp_path, mask_dir="/masks", rank=0, warmup_steps=20, num_train_steps=10, fp16=True, precision="bf16")
    _, notes = parse(Config, ["--config", file])
    assert [key in note for key, note in zip(("mask_dir", "rank", "warmup_steps 20", "bf16"), notes, strict=True)]
    assert len(notes) == 4


def test_options_that_nothing_reads_are_noted(tmp_path: Path) -> None:
    """In a config for hard negatives that `train_itm.py` is given, for example."""
    (tmp_path / "o.json").write_text('{"output_dir": "o", "model_config": "m", "hard_neg_size": 31, "num_bb": 50}')
    _, notes = parse(ItmConfig, ["--config", str(tmp_path / "o.json"), "--mine_keep", "3"])
    assert notes == [
        "the option num_bb has no effect: conf_th is 0.2, not -1",
        "the option hard_neg_size has no effect: hard_negatives is none, not online",
        "the option mine_keep has no effect: hard_negatives is none, not mined",
    ]
    saved = dataclasses.asdict(ItmConfig(output_dir="o", model_config="m"))
    (tmp_path / "hps.json").write_text(json.dumps(saved))
    assert parse(ItmConfig, ["--config", str(tmp_path / "hps.json")])[1] == []


def test_data_root_goes_before_databases_and_checkpoints_only(tmp_path: Path) -> None:
    entry = {"name": "coco", "db": ["t/a.db", "/abs/b.db"], "img": ["gt;det", None], "tasks": ["mlm"]}
    file = write(tmp_path, checkpoint="w.pt", train_txt_dbs=["t.db"], train_datasets=[entry])
    config, notes = parse(Config, ["--config", file, "--data_root", str(tmp_path)])
    assert config.checkpoint == f"{tmp_path}/w.pt" and config.train_txt_dbs == [f"{tmp_path}/t.db"]
    assert config.train_datasets[0].db == [f"{tmp_path}/t/a.db", "/abs/b.db"]
    assert config.train_datasets[0].img == [f"{tmp_path}/gt;{tmp_path}/det", None]
    assert (config.output_dir, config.model_config, config.val_txt_db) == ("out", "model.json", "")
    assert notes == [f"data_root {tmp_path} is put before relative database and checkpoint paths"]
    saved = tmp_path / "hps.json"  # what a run saves can be given again: nothing is prefixed twice
    saved.write_text(json.dumps(dataclasses.asdict(config)))
    again, _ = parse(Config, ["--config", str(saved)])
    assert again == config


def test_a_relative_data_root_becomes_absolute(tmp_path: Path) -> None:
    config, _ = parse(Config, ["--config", write(tmp_path, checkpoint="w.pt"), "--data_root", "some/where"])
    assert config.checkpoint == os.path.join(os.getcwd(), "some/where/w.pt")


def test_stores_joined_by_a_colon_become_local_each(tmp_path: Path) -> None:
    written = ["--txt_db", "/txt/a.db:own/b.db:~/c.db:/txt/d.db", "--img_db", "/img/gt", "--output_dir", "run"]
    config, _ = parse(ReInference, written)
    home = os.path.expanduser("~")
    assert config.txt_db == f"txt_db/a.db:own/b.db:{home}/c.db:txt_db/d.db"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("s3://bucket/x", "a URL"),
        ("file:///data/x", "a URL"),
        ("hdfs://x/y", "a URL"),
        ("gs:/x/y", "a URL"),
        ("C:\\runs\\x", "of Windows"),
        ("C:/runs/x", "of Windows"),
        ("\\\\server\\share", "of Windows"),
        ("$RUNS/x", "a variable"),
        ("/data/${RUNS}/y", "a variable"),
        ("$(date)/x", "a variable or a command"),
        ("`date`", "a variable or a command"),
        ("%USERPROFILE%/x", "a variable"),
        ("~nobody-here/x", "a home folder"),
        (" run", "a space at its edge"),
        ("run ", "a space at its edge"),
        ("a\nb", "a control character"),
    ],
)
def test_paths_of_other_programs_are_refused_in_every_option(tmp_path: Path, path: str, kind: str) -> None:
    """Each would be the literal name of a new folder."""
    entry = {"name": "coco", "db": [path], "img": None, "tasks": ["mlm"]}
    changes = [("output_dir", path), ("checkpoint", path), ("data_root", path), ("val_img_db", f"a;{path}")]
    for key, value in [*changes, ("train_txt_dbs", [path]), ("train_datasets", [entry])]:
        with pytest.raises(InputError, match=kind) as error:
            parse(Config, ["--config", write(tmp_path, **{key: value})])
        assert f"key:      {key}" in str(error.value) and "of this machine" in str(error.value)


def test_a_url_among_stores_joined_by_a_colon_is_refused() -> None:
    with pytest.raises(InputError, match="a URL"):
        parse(ReInference, ["--txt_db", "a.db:s3://bucket/b.db", "--img_db", "gt", "--output_dir", "run"])


def test_the_remedy_of_a_variable_is_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", "/data/runs")
    with pytest.raises(InputError, match="write it in full: /data/runs/x"):
        parse(Config, ["--config", write(tmp_path, output_dir="$RUNS/x")])


def test_an_odd_name_that_exists_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "50% off: $1"
    folder.mkdir()
    config, _ = parse(Config, ["--config", write(tmp_path, output_dir=f"{folder}/run 1: a=b~c")])
    assert config.output_dir == f"{folder}/run 1: a=b~c"


def test_container_mounts_become_local(tmp_path: Path) -> None:
    mounted = {
        "train_txt_dbs": ["/txt/vqa_train.db"],
        "train_img_dbs": ["/img/vcr_gt;/img/vcr"],
        "checkpoint": "/pretrain/uniter-base.pt",
        "val_txt_db": "/storage/own.db",
        "val_img_db": "/data/elsewhere",
        "model_config": "/src/config/uniter-base.json",
    }
    config, notes = parse(Config, ["--config", write(tmp_path, **mounted), "--data_root", "/root_of_data"])
    assert config.train_txt_dbs == ["/root_of_data/txt_db/vqa_train.db"]
    assert config.train_img_dbs == ["/root_of_data/img_db/vcr_gt;/root_of_data/img_db/vcr"]
    assert config.checkpoint == "/root_of_data/pretrained/uniter-base.pt"
    assert (config.val_txt_db, config.val_img_db) == ("/root_of_data/finetune/own.db", "/data/elsewhere")
    assert Path(config.model_config) == CONFIGS / "uniter-base.json"
    assert len(notes) == 7 and sum("container" in note for note in notes) == 6
    config, _ = parse(Config, ["--config", write(tmp_path, **mounted)])
    assert config.train_txt_dbs == ["txt_db/vqa_train.db"]


def test_a_mount_that_exists_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"/txt/a.db", "/storage"}
    monkeypatch.setattr(paths.os.path, "exists", lambda path: path in there)
    monkeypatch.setattr(paths.os.path, "isdir", lambda path: path in there)
    file = write(tmp_path, val_txt_db="/txt/a.db", train_txt_dbs=["/txt/b.db"], output_dir="/storage/new")
    config, notes = parse(Config, ["--config", file])
    assert (config.val_txt_db, config.output_dir) == ("/txt/a.db", "/storage/new")
    assert config.train_txt_dbs == ["txt_db/b.db"]
    assert sum("kept" in note for note in notes) == 2 and len(notes) == 3


def test_hps_of_the_release_are_read_with_unknown_keys_apart(tmp_path: Path) -> None:
    hps = {"output_dir": "/storage/x", "model_config": "m", "betas": ["0.9", "0.98"], "conf_th": "0.2", "n_gpu": 4}
    file = tmp_path / "hps.json"
    file.write_text(json.dumps({**hps, "train_txt_dbs": ["/txt/a.db"], "rank": 0, "num_bb": 36}))
    config, unknown = load_hps(file, Config)
    assert config.betas == (0.9, 0.98) and config.conf_th == 0.2 and config.output_dir == "/storage/x"
    assert config.train_txt_dbs == ["/txt/a.db"] and config.lr_mul == 10.0 and config.blind is False
    assert unknown == {"n_gpu": 4, "rank": 0}
    file.write_text('{"betas": ["x", "0.98"], "output_dir": "o", "model_config": "m"}')
    with pytest.raises(InputError, match=r"betas\[0\]"):
        load_hps(file, Config)
    file.write_text('{"num_bb": 36}')
    with pytest.raises(InputError, match="output_dir, model_config"):
        load_hps(file, Config)


def test_help_groups_and_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(Config, ["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for part in ("--config FILE", "file options", "optimisation options", "task options", "weight matrices"):
        assert part in text
    for field in dataclasses.fields(Config):
        shown = field.name not in ("train_datasets", "val_datasets")
        assert (f"--{field.name}" in text) == shown
    helpless = [name for name, metadata in field_metadata(RunConfig).items() if not metadata.get("help")]
    assert helpless == []


def test_a_redeclared_field_keeps_its_metadata() -> None:
    @dataclasses.dataclass(kw_only=True)
    class Other(RunConfig):
        seed: int = 24
        checkpoint: str | None = "w.pt"

    assert field_metadata(Other)["seed"] == field_metadata(RunConfig)["seed"]
    config, _ = parse(Other, ["--output_dir", "o", "--model_config", "m", "--data_root", "/d"])
    assert (config.seed, config.checkpoint) == (24, "/d/w.pt")
    with pytest.raises(InputError, match="at least 0"):
        validate(dataclasses.replace(config, seed=-1))


def test_list_defaults_are_not_shared() -> None:
    first, second = (Config(output_dir="o", model_config="m") for _ in range(2))
    first.train_txt_dbs.append("a")
    assert second.train_txt_dbs == []
