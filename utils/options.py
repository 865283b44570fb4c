"""Dataclass fields as options: their metadata, and the conversion of JSON values to their types."""

import contextlib
import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from utils.errors import InputError

T = TypeVar("T")

MOST = 10**9  # the upper bound of counts without a natural limit, such as steps: far beyond every real run
MOST_UNITS = 10**8  # of batch sizes
MOST_SEED = 2**63 - 1  # `data.rng` uses 63 bits
SHARE: dict[str, Any] = {"at_least": 0, "at_most": 1}  # the range of a share or probability


def option(default: Any = dataclasses.MISSING, help: str = "", **metadata: Any) -> Any:
    """Define a dataclass field that is an option; without a default the option is required.

    `metadata`: `group` (its heading in --help), `path` and `joined` (see `utils.paths`), for numbers the range (see
    `utils.ranges`), `only_if`: (name, value) of another option with whose value alone this one is read, and
    `training_only`: whether inference with a finished run does not read it. A list as default is copied for each
    instance. A subclass may give a field another default and keeps its metadata.
    """
    metadata = {"help": help, **metadata}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def field_types(config_class: type) -> dict[str, Any]:
    """The type of each field of a dataclass by name, in the order of the fields."""
    hints = typing.get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def field_metadata(config_class: type) -> dict[str, dict[str, Any]]:
    """The metadata of each field by name; a field of a subclass inherits the entries that it does not give itself."""
    metadata: dict[str, dict[str, Any]] = {field.name: {} for field in dataclasses.fields(config_class)}
    for ancestor in reversed(config_class.__mro__):
        for field in dataclasses.fields(ancestor) if dataclasses.is_dataclass(ancestor) else ():
            metadata[field.name].update(field.metadata)
    return metadata


def is_read(config: Any, metadata: Mapping[str, Any]) -> bool:
    """Whether the option with this metadata has an effect in `config`: see `only_if` in `option`."""
    other, needed = metadata.get("only_if", (None, None))
    return other is None or getattr(config, other) == needed


def is_required(field: "dataclasses.Field[Any]") -> bool:
    """Whether a dataclass field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def unknown_key(key: str, location: str, known_keys: list[str], path: str | Path) -> InputError:
    """The error for a JSON key that is not an option; it suggests the most similar of `known_keys`.

    `location`: the key with the keys around it, such as `train_datasets[0].db`; `path`: the JSON file.
    """
    near = difflib.get_close_matches(key, known_keys, n=1, cutoff=0.5)
    remedy = (
        f"did you mean {near[0]!r}? otherwise remove the key" if near else "remove the key; --help lists all options"
    )
    expected = near[0] if near else "an option that --help lists"
    return InputError("unknown option", file=path, key=location, found=key, expected=expected, remedy=remedy)


def convert(value: Any, hint: Any, key: str, path: str | Path, *, text_numbers: bool = False) -> Any:
    """Convert a JSON value to the type `hint`; `InputError` where it has another type.

    `key` and `path` (the JSON file) are for the error. `text_numbers`: accept numbers written as text.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    value_type = hint
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in args:
            return None
        (value_type,) = (arg for arg in args if arg is not types.NoneType)  # options have no unions but with None
        origin, args = typing.get_origin(value_type), typing.get_args(value_type)
    if dataclasses.is_dataclass(value_type) and isinstance(value, dict):
        return _build_entry(value, typing.cast(type, value_type), key, path)
    if origin is list and isinstance(value, list):
        return [convert(item, args[0], f"{key}[{i}]", path, text_numbers=text_numbers) for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, list) and len(value) == len(args):
        items = enumerate(zip(value, args, strict=True))
        return tuple(convert(item, arg, f"{key}[{i}]", path, text_numbers=text_numbers) for i, (item, arg) in items)
    if origin is Literal and value in args and type(value) in map(type, args):
        return value
    if value_type in (int, float) and text_numbers and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return value_type(value)
    if value_type is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if value_type in (bool, int, str) and type(value) is value_type:
        return value
    text = repr(value) if len(repr(value)) < 80 else repr(value)[:77] + "..."
    raise InputError(
        "an option has the wrong type",
        file=path,
        key=key,
        found=f"{text} ({type(value).__name__})",
        expected=spell(hint),
        remedy="write a value of the expected type; --help explains the option",
    )


def _build_entry(value: dict[str, Any], entry_class: type[T], key: str, path: str | Path) -> T:
    """Make a dataclass of type `entry_class` from a JSON object; `key` is its location in the file `path`.

    `InputError` for a key that is unknown or missing, or whose value has the wrong type.
    """
    hints = field_types(entry_class)
    for name in value:
        if name not in hints:
            raise unknown_key(name, location=f"{key}.{name}", known_keys=list(hints), path=path)
    missing = [f.name for f in dataclasses.fields(entry_class) if is_required(f) and f.name not in value]  # type: ignore[arg-type]
    if missing:
        raise InputError(
            "a required key is missing",
            file=path,
            key=f"{key}.{missing[0]}",
            found=", ".join(value),
            expected=spell(hints[missing[0]]),
            remedy="add the key",
        )
    return entry_class(**{name: convert(item, hints[name], f"{key}.{name}", path) for name, item in value.items()})


def spell(hint: Any) -> str:
    """Describe a type in words, for an error message."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is list:
        return f"list of {spell(args[0])}"
    if origin is tuple:
        return f"list of {len(args)}: " + ", ".join(spell(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if arg is types.NoneType else spell(arg) for arg in args)
    return "object" if dataclasses.is_dataclass(hint) else str(hint.__name__)
