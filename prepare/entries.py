"""Reading JSON and lines, plain or gzipped, and checking the fields of their entries.

Each error is an `InputError` that names the file and the place in it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import InputError
from utils.files import read_bytes

T = TypeVar("T")
TYPE_NAMES = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


@dataclass(frozen=True, slots=True)
class Location:
    """Where an entry or a field stands in a file, for messages: `Location(path, "images", 3)` reads "images[3]"."""

    path: Path
    part: str = ""  # of the file: a list, a line, a field; "" is all of it
    index: int | None = None  # in that list

    def __str__(self) -> str:
        return self.part if self.index is None else f"{self.part}[{self.index}]"

    def child(self, key: str, index: int | None = None) -> "Location":
        """The field `key` of this entry, or the entry `index` of the list that this field holds."""
        return Location(self.path, f"{self}.{key}".lstrip("."), index)


def json_lines(path: Path) -> Iterator[tuple[Location, Any]]:
    """Every line of a jsonl that is not blank: its location ("line 1") and its value."""
    for number, line in lines(path):
        location = Location(path, f"line {number}")
        try:
            yield location, json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError("not a JSON object", file=path, key=location, found=error) from None


def read_json(path: Path) -> Any:
    """A JSON file, plain or gzipped."""
    try:
        return json.loads(read_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError("not a JSON file", file=path, found=error, expected="JSON text") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without white space around it) of every line that is not blank."""
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", file=path, found=error) from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def take(entry: Any, key: str, expected_type: type[T], location: Location) -> T:
    """`entry[key]`, which must be of exactly that type; `location` says which entry it is, for the error."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not expected_type:
        culprit = value if isinstance(entry, dict) else entry
        raise bad_field(location.child(key), culprit, TYPE_NAMES[expected_type])
    return encodable(value) if isinstance(value, str) else value  # type: ignore[return-value]


def encodable(text: str) -> str:
    """`text` without lone surrogates, which JSON may hold and UTF-8 may not; the tokeniser drops them anyway."""
    return text if text.isascii() else text.encode(errors="ignore").decode()


def bad_field(location: Location, value: object, expected: str) -> InputError:
    """The error for a field that is absent (`value` None) or of the wrong kind."""
    text = "nothing" if value is None else repr(value)
    return InputError(
        "a field is missing or of the wrong kind",
        file=location.path,
        key=location,
        found=text if len(text) <= 80 else text[:77] + "...",
        expected=expected,
        remedy="give the official file, unchanged, or complete this entry",
    )
