"""Options of a run, from three sources: dataclass defaults, a JSON file (`--config`), the command line.

The command line overrides the file, and the file overrides the defaults. JSON keys and flags have the names of the
dataclass fields. All options are checked before any data is opened. The options of every training script are in
`utils/run_config.py`.
"""

import argparse
import dataclasses
import re
import sys
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args

import tyro

from utils.errors import InputError
from utils.files import read_json
from utils.launcher_table import LAUNCH
from utils.launchers import spoken_rank
from utils.options import convert, field_metadata, field_types, is_read, is_required, option, unknown_key
from utils.paths import find_file, resolve_paths
from utils.ranges import check_ranges, check_value, spell_range
from utils.run_config import RunConfig

T = TypeVar("T")

DEAD_KEYS = ("mask_dir", "rank")  # keys in the release's JSON files that have no effect
ABSENT = "(required)"  # the default that the command line and --help show for a required option
HELP_NOTE = """--config FILE: JSON file with any of these options; a flag overrides the file. A rank is one process of
the run, with a GPU of its own where there are GPUs."""


def parse(config_class: type[T], argv: list[str] | None = None) -> tuple[T, list[str]]:
    """Read the options of a run; returns them with notes for its log (ignored keys, changed paths, warnings).

    `argv`: the command line without the program's name; None: that of this process. Raises `InputError` for a wrong
    JSON file or value and for missing options. A wrong flag ends the program with status 2, `--help` with status 0.
    """
    config_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config")
    config_flag, flags = config_parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    _refuse_local_rank(flags)
    file_notes: list[str] = []
    path = find_file(config_flag.config, "--config", file_notes) if config_flag.config else None
    json_values, notes = _read_json_options(config_class, path) if path else ({}, [])
    values = _parse_flags(config_class, json_values, flags)
    missing = [name for name, value in values.items() if value == ABSENT]
    if missing:
        flag_names = " ".join(f"--{name} VALUE" for name in missing)
        raise InputError(
            f"required options are missing: {', '.join(missing)}",
            file=path,
            remedy=f"add {flag_names}, or set these keys in a JSON file given with --config; --help lists every option",
        )
    files = {name: path for name, value in json_values.items() if values[name] == value}  # others are from flags
    config = config_class(**values)
    notes += file_notes + resolve_paths(config)
    return config, notes + validate(config, files)


def _refuse_local_rank(flags: list[str]) -> None:
    """`InputError` for the flag that `python -m torch.distributed.launch` adds to every script's own."""
    flag = next((flag for flag in flags if re.fullmatch(r"--local[-_]rank(=.*)?", flag)), None)
    if flag is not None:
        raise InputError(
            "python -m torch.distributed.launch has started this process, or another old launcher",
            key=flag.partition("=")[0],
            found=flag,
            expected="the rank on this machine as the environment variable LOCAL_RANK, which torchrun sets",
            remedy=LAUNCH,
        )


def load_hps(path: str | Path, config_class: type[T], unneeded: Collection[str] = ()) -> tuple[T, dict[str, Any]]:
    """Read the options of a finished run (`log/hps.json`), or a model's sizes; returns them with the keys left over.

    Missing keys take their defaults. Numbers written as text are accepted, because the release saved `--betas` that
    way. Paths stay as they are. Keys left over, with their values: unknown ones (which `config_class` lacks), and those
    of `unneeded`, options that nobody will read, whose values are wrong. Raises `InputError` for a file that is absent
    or not a JSON object, another wrong value and a missing required key.
    """
    hints, metadata = field_types(config_class), field_metadata(config_class)
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    options = read_object(path)
    values, left_over = {}, {}
    for key, value in options.items():
        if key not in hints:
            left_over[key] = value
            continue
        try:
            values[key] = convert(value, hints[key], key, path, text_numbers=True)
            if values[key] != fields[key].default:
                check_value(values[key], metadata[key], key, path)
        except InputError:
            if key not in unneeded:
                raise
            left_over[key] = value
            values.pop(key, None)
            if is_required(fields[key]):
                values[key] = value  # for want of a default; nobody will read it
    missing = [name for name in fields if is_required(fields[name]) and name not in values]
    if missing:
        raise InputError(
            "required keys are missing in a JSON file",
            file=path,
            key=", ".join(missing),
            found=", ".join(options) or "no key",
            remedy="give a model's JSON file as model_config, and a run's log/hps.json where a run is asked for",
        )
    return config_class(**values), left_over


def validate(config: Any, files: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
    """Check the ranges of options, and options that depend on each other; returns warnings for the log.

    `files`: the JSON file of each option that one gave, for the message. Raises `InputError` for the first option that
    is out of range.
    """
    check_ranges(config, files)
    if not isinstance(config, RunConfig):
        return []
    if config.min_bb > config.max_bb:
        expected = f"at most max_bb, which is {config.max_bb}"
        remedy = "set both as in the name of the image LMDB's variant (feat_…_max…_min…)"
        raise InputError(
            "min_bb is greater than max_bb", key="min_bb", found=config.min_bb, expected=expected, remedy=remedy
        )
    notes = unread_options(config, files)
    if config.warmup_steps > config.num_train_steps:
        notes.append(
            f"warmup_steps {config.warmup_steps} is more than num_train_steps {config.num_train_steps}: "
            "the learning rate never reaches its peak"
        )
    if config.fp16 and config.precision not in (None, "fp16"):
        notes.append(f"the option fp16 is ignored, because precision is set to {config.precision}")
    return notes


def unread_options(config: RunConfig, files: Mapping[str, Any]) -> list[str]:
    """Notes on options that were given but have no effect, because another option has another value.

    A default in a JSON file counts as given where the file does not have the other option, as in a saved `hps.json`.
    """
    notes = []
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name, metadata in field_metadata(type(config)).items():
        if is_read(config, metadata):
            continue
        other, needed = metadata["only_if"]
        if getattr(config, name) != defaults[name] or (name in files and other not in files):
            notes.append(f"the option {name} has no effect: {other} is {getattr(config, other)}, not {needed}")
    return notes


def read_object(path: str | Path) -> dict[str, Any]:
    """Read the JSON object in a file; `InputError` where the file holds another kind of value."""
    options = read_json(path)
    if not isinstance(options, dict):
        found = f"a {type(options).__name__}"
        raise InputError("not a JSON object of options", file=path, found=found, expected='{"option": value, ...}')
    return options


def _read_json_options(config_class: type, path: str) -> tuple[dict[str, Any], list[str]]:
    """Read the options in a JSON file, converted to their types; returns them with a note for each of `DEAD_KEYS`."""
    hints = field_types(config_class)
    values, notes = {}, []
    for key, value in read_object(path).items():
        if key in hints:
            values[key] = convert(value, hints[key], key, path)
        elif key in DEAD_KEYS:
            notes.append(f"{path}: the key {key} is ignored; it had a use in old configs only")
        else:
            raise unknown_key(key, location=key, known_keys=list(hints), path=path)
    return values, notes


def _parse_flags(config_class: type, json_values: dict[str, Any], flags: list[str]) -> dict[str, Any]:
    """The value of every option: from the command line, else `json_values`, else its default, else `ABSENT`."""
    metadata, hints = field_metadata(config_class), field_types(config_class)
    groups: dict[str, list[tuple[str, Any, Any]]] = {}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        default = field.default_factory() if callable(field.default_factory) else field.default
        default = json_values.get(field.name, ABSENT if is_required(field) else default)
        values[field.name] = default
        if not _holds_dataclass(hints[field.name]):  # a dataclass value can be set in JSON only
            text, bounds = metadata[field.name].get("help", ""), dict(metadata[field.name])
            if bounds.get("at_most", 0) >= 10_000:  # a bound that only a slip of the hand meets
                del bounds["at_most"]
            limits = spell_range(bounds)
            spec = option(default, f"{text} [{limits}]" if limits else text)
            groups.setdefault(metadata[field.name].get("group", "task"), []).append(
                (field.name, hints[field.name], spec)
            )
    parts = [(name, dataclasses.make_dataclass(name, fields)) for name, fields in groups.items()]
    flag_class = dataclasses.make_dataclass("Flags", [(n, t, dataclasses.field(default_factory=t)) for n, t in parts])
    with warnings.catch_warnings():  # tyro warns of ABSENT, a text, as the default of a required list
        warnings.filterwarnings("ignore", category=UserWarning, module="tyro")
        flag_values: Any = tyro.cli(
            flag_class,
            args=flags,
            config=(tyro.conf.OmitArgPrefixes,),
            description=f"{config_class.__doc__}\n\n{HELP_NOTE}",
            use_underscores=True,
            console_outputs=not spoken_rank(),  # all ranks see the same wrong flag; one says so
        )
    for name, _ in parts:
        values.update(vars(getattr(flag_values, name)))
    return values


def _holds_dataclass(hint: Any) -> bool:
    """Whether a type is a dataclass, or a container of dataclasses."""
    return dataclasses.is_dataclass(hint) or any(_holds_dataclass(arg) for arg in get_args(hint))
