"""Every number that a user gives has a range, in all scripts; a value outside of it is refused by name."""

import argparse
import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

import pretrain
from scripts import convert_imgdir
from tests.test_house import COMMANDS, PRODUCT, TEXTS, command_line
from utils.config import load_hps, parse, validate
from utils.errors import InputError
from utils.options import field_metadata, field_types, option
from utils.ranges import check_ranges, in_range, number, spell_range
from utils.run_config import RunConfig
from utils.store_options import DataEntry, check_lists

BAD = (-(10**12), 10**400, float("nan"), float("inf"), -float("inf"))


def scripts() -> list[tuple[str, Any]]:
    """(name, parser or class of options) of every script."""
    readers = []
    for file in [file for file in PRODUCT if '\nif __name__ == "__main__":' in TEXTS[file]]:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        readers += [(file, command_line(module, argv)) for argv in COMMANDS.get(file, ([],))]
    return readers


READERS = scripts()
CLASSES = list(dict.fromkeys([reader for _, reader in READERS if isinstance(reader, type)] + [DataEntry]))


def numbers(config_class: type) -> dict[str, Any]:
    """The options that are numbers, or hold some, with their types."""

    def is_number(hint: Any) -> bool:
        return get_origin(hint) is not Literal and (hint in (int, float) or any(map(is_number, get_args(hint))))

    return {name: hint for name, hint in field_types(config_class).items() if is_number(hint)}


@pytest.mark.parametrize("config_class", CLASSES, ids=lambda c: c.__name__)
def test_every_number_has_a_range_and_its_default_is_in_it(config_class: type) -> None:
    metadata = field_metadata(config_class)
    for field in dataclasses.fields(config_class):
        if field.name not in numbers(config_class):
            continue
        bounds = metadata[field.name]
        assert {"at_least", "above"} & bounds.keys() and {"at_most", "below"} & bounds.keys(), field.name
        assert not any(in_range(value, bounds) for value in (*BAD, 10**12 if "seed" not in field.name else 2**70))
        default = field.default_factory() if callable(field.default_factory) else field.default
        values = default if isinstance(default, list | tuple) else [default]
        assert all(in_range(value, bounds) for value in values if value not in (None, dataclasses.MISSING)), field.name


@pytest.mark.parametrize("config_class", [c for c in CLASSES if c is not DataEntry], ids=lambda c: c.__name__)
def test_a_number_out_of_range_is_refused_by_name(config_class: type) -> None:
    required = [f.name for f in dataclasses.fields(config_class) if f.default is dataclasses.MISSING]
    hints = field_types(config_class)
    config = config_class(**{name: [] if get_origin(hints[name]) is list else "x" for name in required})
    validate(config)
    for name, hint in numbers(config_class).items():
        for bad in BAD:
            value = [bad] if get_origin(hint) is list else (bad, bad) if get_origin(hint) is tuple else bad
            with pytest.raises(
                InputError, match=rf"out of range\n  key: +{name}(\[0\])?\n  found: +[\s\S]*\n  remedy: "
            ):
                validate(dataclasses.replace(config, **{name: value}))


def test_flags_and_json_are_both_checked(tmp_path: Path) -> None:
    flags = ["--output_dir", "o", "--model_config", "m"]
    with pytest.raises(InputError, match=rf"out of range\n  key: +seed\n  found: +{2**70}\n  expected: at "):
        parse(RunConfig, [*flags, "--seed", str(2**70)])
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"gradient_accumulation_steps": 10**9}))
    key = "gradient_accumulation_steps"
    with pytest.raises(InputError, match=rf"out of range\n  file: +{file}\n  key: +{key}\n  found: +{10**9}\n"):
        parse(RunConfig, [*flags, "--config", str(file)])
    with pytest.raises(InputError, match=rf"out of range\n  key: +{key}\n  found: +-3\n"):
        parse(RunConfig, [*flags, "--config", str(file), f"--{key}", "-3"])


def flags_with_numbers(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The flags of a parser and its subcommands that have a `type`."""
    actions = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            actions += [a for subparser in action.choices.values() for a in flags_with_numbers(subparser)]
        elif action.type is not None:
            actions.append(action)
    return actions


def test_every_number_of_the_plain_parsers_has_a_range() -> None:
    parsers = [(name, reader) for name, reader in READERS if isinstance(reader, argparse.ArgumentParser)]
    found = [(name, action) for name, parser in parsers for action in flags_with_numbers(parser)]
    assert len(found) > 10
    for name, action in found:
        assert hasattr(action.type, "bounds") or action.type not in (int, float), (name, action.option_strings)
        if hasattr(action.type, "bounds"):
            for text in ("-1000000000000", "1000000000000", "nan", "inf", "1e400"):
                with pytest.raises((argparse.ArgumentTypeError, ValueError)):
                    action.type(text)  # type: ignore[operator]
            assert action.type(str(action.default or 1)) is not None  # type: ignore[operator]


def test_a_flag_out_of_range_ends_with_status_2_and_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=number(float, at_least=0, below=1, or_value=-1))
    assert parser.parse_args(["--share", "-1"]).share == -1
    for text, said in [("1", "1 is out of range: expected at least 0, below 1, or -1"), ("x", "invalid float value")]:
        with pytest.raises(SystemExit) as end:
            parser.parse_args(["--share", text])
        error = capsys.readouterr().err
        assert end.value.code == 2 and "argument --share" in error and said in error


def test_convert_imgdir_refuses_a_minimum_above_the_maximum(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, said in [
        (["--min_bb", "50", "--max_bb", "20"], "--min_bb: 50"),
        (["--nproc", "0"], "--nproc: 0 is out"),
    ]:
        monkeypatch.setattr("sys.argv", ["convert_imgdir.py", "--img_dir", "x", "--output", "y", *flags])
        with pytest.raises(SystemExit) as end:
            convert_imgdir.main()
        assert end.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"betas": [0.9, 10**400]}, r"betas\[1\]"),
        ({"train_datasets": [{"name": "x", "db": ["a"], "tasks": ["mlm"], "mix_ratio": [-1]}]}, r"mix_ratio\[0\]"),
        ({"train_datasets": [{"name": "", "db": ["a"], "tasks": ["mlm"]}]}, r"train_datasets\[0\].name"),
        ({"train_datasets": [{"name": "x", "db": [" "], "tasks": ["mlm"]}]}, r"train_datasets\[0\].db\[0\]"),
        ({"output_dir": ""}, "output_dir"),
        ({"checkpoint": ""}, "checkpoint"),
        ({"checkpoint": "a\0b"}, "checkpoint"),
    ],
)
def test_lists_entries_and_texts_are_checked_too(options: dict[str, Any], key: str, tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"output_dir": "o", "model_config": "m"} | options))
    with pytest.raises(InputError, match=rf"file: +{file}\n  key: +[\w.\[\]]*{key}\n  found: "):
        parse(pretrain.PretrainConfig, ["--config", str(file)])


def test_a_saved_run_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "hps.json").write_text('{"output_dir": "o", "model_config": "m", "conf_th": "5"}')
    with pytest.raises(InputError, match=r"out of range\n  file: .*hps\.json\n  key: +conf_th"):
        load_hps(tmp_path / "hps.json", RunConfig)


def test_ranges_are_spelt_and_held() -> None:
    bounds = option(at_least=0, below=1, or_value=-1).metadata
    assert spell_range(bounds) == "at least 0, below 1, or -1" and spell_range({"help": "h"}) == ""
    assert [in_range(v, bounds) for v in (-1, -0.5, 0, 0.99, 1)] == [True, False, True, True, False]
    assert in_range(10**400, {}) and not in_range(float("nan"), {})
    check_ranges(RunConfig(output_dir="o", model_config="m"), {})


def test_the_name_of_a_dataset_is_not_that_of_a_control() -> None:
    with pytest.raises(InputError, match=r"key: +name\n  found: +coco@2"):
        check_lists([DataEntry(name="coco@2", db=["a"], tasks=["mlm"])])


def test_a_mix_of_nothing_is_refused(tmp_path: Path) -> None:
    entry = {"name": "x", "db": ["a"], "tasks": ["mlm", "itm"], "mix_ratio": [0, 0]}
    (tmp_path / "model.json").write_text((Path(__file__).parent / "golden/tiny_config.json").read_text())
    options = {"output_dir": str(tmp_path / "o"), "model_config": str(tmp_path / "model.json")}
    (tmp_path / "o.json").write_text(json.dumps(options | {"train_datasets": [entry]}))
    with pytest.raises(InputError, match=r"no task would ever be drawn\n  key: +train_datasets: mix_ratio"):
        pretrain.main(["--config", str(tmp_path / "o.json")])
    assert not (tmp_path / "o").exists()
