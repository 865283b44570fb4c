"""Options of a run: dataclass defaults < JSON file (`--config`) < command line.

JSON keys and flags have the names of the dataclass fields. All is checked before any data is opened.
"""

import argparse
import dataclasses
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import tyro

from utils.errors import InputError
from utils.files import read_json
from utils.options import convert, field_metadata, field_types, is_required, option, unknown_key
from utils.paths import resolve_paths

T = TypeVar("T")

DEAD_KEYS = ("mask_dir", "rank")  # in JSON of the release, read by nothing
ABSENT = "(required)"  # stands for a required value in the command line's defaults and in --help


@dataclasses.dataclass(kw_only=True)
class DataEntry:
    """One corpus of pre-training: text stores, the image store of each, and the tasks drawn from them."""

    name: str
    db: list[str] = dataclasses.field(metadata={"path": True})
    img: list[str | None] | None = dataclasses.field(default=None, metadata={"path": True})
    tasks: list[str] = dataclasses.field(default_factory=list)
    mix_ratio: list[int] | None = None


@dataclasses.dataclass(kw_only=True)
class RunConfig:
    """What training scripts share. They subclass it, redeclare defaults and add their own options."""

    output_dir: str = option(help="new folder for logs, checkpoints and results", group="file", path="own")
    model_config: str = option(help="JSON file of the model's sizes", group="file", path="own")
    checkpoint: str | None = option(None, "weight file to start from", group="file", path=True)
    data_root: str = option("", "folder put before every relative database and checkpoint path", group="file")

    compressed_db: bool = option(False, "read the compressed variant of the image stores", group="data")
    max_txt_len: int = option(
        60, "leave out texts of more word pieces than this; -1: keep all", group="data", at_least=-1
    )
    conf_th: float = option(0.2, "read image regions above this confidence; -1: always num_bb regions", group="data")
    max_bb: int = option(100, "read at most this many regions of an image", group="data", at_least=1)
    min_bb: int = option(10, "read at least this many regions of an image, confident or not", group="data", at_least=1)
    num_bb: int = option(36, "read this many regions of an image when conf_th is -1", group="data", at_least=1)
    blind: bool = option(False, "replace each image by one empty region (text-only baseline)", group="data")

    train_batch_size: int = option(
        4096, "size of a rank's micro-batch, in text tokens plus image regions", group="batch", at_least=1
    )
    val_batch_size: int = option(
        4096, "size of a validation batch, in text tokens plus image regions", group="batch", at_least=1
    )
    batching: Literal["release", "full"] = option(
        "release", "release: batches as the release made them; full: filled up to their size", group="batch"
    )
    gradient_accumulation_steps: int = option(
        16, "micro-batches of a rank in one optimiser step", group="batch", at_least=1
    )
    accumulation: Literal["sum", "mean"] = option(
        "sum", "sum (as the release did) or average the gradients of a step's micro-batches", group="batch"
    )

    optim: Literal["adam", "adamax", "adamw"] = option(
        "adam", "optimiser that updates the weights", group="optimisation"
    )
    learning_rate: float = option(3e-5, "peak learning rate, reached after warm-up", group="optimisation", at_least=0)
    lr_mul: float = option(1.0, "factor on the learning rate of the task's head", group="optimisation", at_least=0)
    decay: Literal["linear", "invsqrt", "constant"] = option(
        "linear", "how the learning rate falls after warm-up", group="optimisation"
    )
    betas: tuple[float, float] = option((0.9, 0.98), "the two decay rates (betas) of Adam", group="optimisation")
    weight_decay: float = option(0.0, "decay of weight matrices and embeddings", group="optimisation", at_least=0)
    grad_norm: float = option(2.0, "clip gradients to this norm; -1: do not clip", group="optimisation")
    dropout: float = option(
        0.1, "dropout probability in embeddings, attention and layers", group="optimisation", at_least=0
    )
    warmup_steps: int = option(4000, "optimiser steps of linear warm-up", group="optimisation", at_least=0)
    num_train_steps: int = option(100000, "number of optimiser steps to train for", group="optimisation", at_least=0)

    valid_steps: int = option(
        1000, "validate and save every so many steps; 0: after every epoch", group="run", at_least=0
    )
    log_steps: int = option(100, "log every so many steps", group="run", at_least=1)
    keep_states: int = option(2, "number of newest train states to keep for --resume", group="run", at_least=1)
    resume: bool = option(False, "continue from the newest train state in output_dir", group="run")
    eval_only: bool = option(False, "validate the checkpoint and stop", group="run")
    seed: int = option(42, "seed of every random choice", group="run", at_least=0)
    fp16: bool = option(False, "use half precision: bf16 where the hardware has it, else fp16", group="run")
    precision: Literal["fp64", "fp32", "bf16", "fp16"] | None = option(
        None, "number format of the computation; overrides --fp16", group="run"
    )
    num_threads: int = option(0, "CPU threads of a rank; 0: torch decides", group="run", at_least=0)
    n_workers: int = option(4, "loader processes of a rank; 0: the rank loads its data itself", group="run", at_least=0)
    pin_mem: bool = option(False, "put batches in page-locked memory, for faster copies to a GPU", group="run")

    def db_pairs(self, split: str) -> list[tuple[str, str]]:
        """(text LMDB, image LMDB) of a split; tasks whose options name stores say which (utils.store_options)."""
        raise NotImplementedError


def parse(config_class: type[T], argv: list[str] | None = None) -> tuple[T, list[str]]:
    """The options of a run and notes for its log (dead keys, rewritten paths, warnings).

    `argv` is the command line without the program's name (default: the real one). An unusable JSON file or
    value is an `InputError`; an unusable flag ends the program with status 2, as `--help` does with 0.
    """
    config_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config")
    config_flag, flags = config_parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    path: str | None = config_flag.config
    json_values, notes = _read_json_options(config_class, path) if path else ({}, [])
    values = _parse_flags(config_class, json_values, flags)
    missing = [name for name, value in values.items() if value == ABSENT]
    if missing:
        flag_names = " ".join(f"--{name} VALUE" for name in missing)
        raise InputError(
            f"missing options: {', '.join(missing)}",
            file=path,
            remedy=f"set in the JSON or by {flag_names}",
        )
    config = config_class(**values)
    notes += resolve_paths(config)
    return config, notes + validate(config)


def load_hps(path: str | Path, config_class: type[T]) -> tuple[T, dict[str, Any]]:
    """Options of a finished run from its `log/hps.json`, and the keys and values that `config_class` lacks.

    Missing keys take their defaults. Numbers written as text are read, because the release saved a `--betas`
    flag so. Paths stay as they are.
    """
    hints = field_types(config_class)
    options = _read_object(path)
    values = {k: convert(v, hints[k], k, path, text_numbers=True) for k, v in options.items() if k in hints}
    missing = [f.name for f in dataclasses.fields(config_class) if is_required(f) and f.name not in values]  # type: ignore[arg-type]
    if missing:
        raise InputError("options missing", file=path, key=", ".join(missing), remedy="use a run's log/hps.json")
    return config_class(**values), {k: v for k, v in options.items() if k not in hints}


def validate(config: Any) -> list[str]:
    """Check ranges and the options that depend on each other: `InputError`, or a list of warnings."""
    for name, metadata in field_metadata(type(config)).items():
        value, least = getattr(config, name), metadata.get("at_least")
        if least is not None and value is not None and value < least:
            raise InputError("option out of range", key=name, found=value, expected=f"at least {least}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError("option out of range", key=name, found=value, expected="a finite number")
    if not isinstance(config, RunConfig):
        return []
    if config.min_bb > config.max_bb:
        raise InputError("min_bb is greater than max_bb", key="min_bb", found=config.min_bb, expected=config.max_bb)
    if not all(0 <= beta < 1 for beta in config.betas):
        raise InputError("option out of range", key="betas", found=config.betas, expected="two numbers in [0, 1)")
    if config.dropout >= 1:
        raise InputError("option out of range", key="dropout", found=config.dropout, expected="less than 1")
    if config.grad_norm == 0 or (config.grad_norm < 0 and config.grad_norm != -1):
        raise InputError("option out of range", key="grad_norm", found=config.grad_norm, expected="above 0, or -1: off")
    notes = []
    if config.warmup_steps > config.num_train_steps:
        notes.append(
            f"warmup_steps {config.warmup_steps} > num_train_steps {config.num_train_steps}: "
            "the learning rate never reaches its peak"
        )
    if config.fp16 and config.precision not in (None, "fp16"):
        notes.append(f"precision {config.precision} decides; fp16 is ignored")
    return notes


def _read_object(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file; `InputError` where it holds something else."""
    options = read_json(path)
    if not isinstance(options, dict):
        raise InputError("not a JSON object of options", file=path, found=type(options).__name__, expected="{...}")
    return options


def _read_json_options(config_class: type, path: str) -> tuple[dict[str, Any], list[str]]:
    """The values in a JSON file, converted to their types, and a note for each dead key."""
    hints = field_types(config_class)
    values, notes = {}, []
    for key, value in _read_object(path).items():
        if key in hints:
            values[key] = convert(value, hints[key], key, path)
        elif key in DEAD_KEYS:
            notes.append(f"{path}: {key} is a key of old configs that nothing reads; ignored")
        else:
            raise unknown_key(key, location=key, known_keys=list(hints), path=path)
    return values, notes


def _parse_flags(config_class: type, json_values: dict[str, Any], flags: list[str]) -> dict[str, Any]:
    """All values: those of the command line, else `json_values`, else the defaults, else `ABSENT`."""
    metadata, hints = field_metadata(config_class), field_types(config_class)
    groups: dict[str, list[tuple[str, Any, Any]]] = {}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        default = field.default_factory() if callable(field.default_factory) else field.default
        default = json_values.get(field.name, ABSENT if is_required(field) else default)
        values[field.name] = default
        if not _holds_dataclass(hints[field.name]):  # such values come from JSON only
            spec = option(default, metadata[field.name].get("help", ""))
            groups.setdefault(metadata[field.name].get("group", "task"), []).append(
                (field.name, hints[field.name], spec)
            )
    parts = [(name, dataclasses.make_dataclass(name, fields)) for name, fields in groups.items()]
    flag_class = dataclasses.make_dataclass("Flags", [(n, t, dataclasses.field(default_factory=t)) for n, t in parts])
    with warnings.catch_warnings():  # of ABSENT, a text, as the default of a required list
        warnings.filterwarnings("ignore", category=UserWarning, module="tyro")
        flag_values: Any = tyro.cli(
            flag_class,
            args=flags,
            config=(tyro.conf.OmitArgPrefixes,),
            description=f"{config_class.__doc__}\n\n--config FILE: a JSON of these options; flags override it.",
            use_underscores=True,
            console_outputs=os.environ.get("RANK", "0") == "0",  # all ranks see the same wrong flag: one message
        )
    for name, _ in parts:
        values.update(vars(getattr(flag_values, name)))
    return values


def _holds_dataclass(hint: Any) -> bool:
    """Whether a type is a dataclass, or a container of dataclasses."""
    return dataclasses.is_dataclass(hint) or any(_holds_dataclass(arg) for arg in get_args(hint))
