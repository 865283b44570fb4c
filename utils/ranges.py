"""Ranges of the numbers and texts in options. A range is part of the metadata of a dataclass field.

`at_least`, `at_most`: bounds that are allowed. `above`, `below`: bounds that are not. `or_value`: one more value that
is allowed, such as -1 for "all". The range of a list or tuple holds for each item. Every number must be finite.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from utils.errors import InputError
from utils.options import field_metadata

N = TypeVar("N", int, float)


def spell_range(bounds: Mapping[str, Any]) -> str:
    """Describe a range in words; "" where `bounds`, the metadata of a field, has none."""
    words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
    limits = [f"{word} {bounds[key]}" for key, word in words.items() if key in bounds]
    return ", ".join(limits) + (f", or {bounds['or_value']}" if "or_value" in bounds else "")


def in_range(value: int | float, bounds: Mapping[str, Any]) -> bool:
    """Whether a number is finite and in the range of `bounds`."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return value == bounds.get("or_value", math.nan) or (
        bounds.get("at_least", value) <= value <= bounds.get("at_most", value)
        and ("above" not in bounds or value > bounds["above"])
        and ("below" not in bounds or value < bounds["below"])
    )


def check_ranges(config: Any, files: Mapping[str, Any]) -> None:
    """Check the numbers and texts in a dataclass, and in dataclasses in its lists.

    `files`: the JSON file of each option that one gave, for the message. Raises `InputError` for the first value that
    is out of range, not finite, an empty text, or a text that no path and name can have.
    """
    metadata = field_metadata(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:  # such as "" where that stands for none
            check_value(value, metadata[field.name], field.name, files.get(field.name))


def check_value(value: Any, bounds: Mapping[str, Any], key: str, file: Any) -> None:
    """As `check_ranges`, for one value, or each item of a list; `key` is its name."""
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_value(item, bounds, f"{key}[{i}]", file)
    elif dataclasses.is_dataclass(value):
        metadata = field_metadata(type(value))
        for name in metadata:
            check_value(getattr(value, name), metadata[name], f"{key}.{name}", file)
    elif isinstance(value, str):
        _check_text(value, key, file)
    elif isinstance(value, int | float) and not isinstance(value, bool) and not in_range(value, bounds):
        found = value if len(str(value)) < 80 else "a number of over 80 characters"
        expected = spell_range(bounds) or "a finite number"
        remedy = f"set {key} to a number in this range; --help explains the option"
        raise InputError("option out of range", file=file, key=key, found=found, expected=expected, remedy=remedy)


def _check_text(value: str, key: str, file: Any) -> None:
    """Check that a text is not empty and could be a path or a name."""
    if not value.strip():
        problem = "an option is an empty text"
    elif "\0" in value:
        problem = "an option has a NUL character"
    elif value != value.encode(errors="replace").decode():
        problem = "an option has a character that is half of a surrogate pair"
    else:
        return
    remedy = f"write the value of {key}, or leave the option out"
    raise InputError(
        problem, file=file, key=key, found=ascii(value)[:80], expected="a path, name or text", remedy=remedy
    )


def number(kind: type[N], **bounds: Any) -> Callable[[str], N]:
    """The `type` of a flag of `argparse` that is a number in a range; `bounds` as in the metadata of a field."""

    def parse(text: str) -> N:
        """Convert the text of the flag; `ValueError` when it is no number of this kind."""
        value = kind(text)
        if not in_range(value, bounds):
            raise argparse.ArgumentTypeError(f"{text[:80]} is out of range: expected {spell_range(bounds)}")
        return value

    parse.bounds = bounds  # type: ignore[attr-defined]
    parse.__name__ = kind.__name__  # in the message of argparse for text that is no number
    return parse
