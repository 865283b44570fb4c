"""Readers of JSON and text files, plain or gzipped, and checks of the fields of their entries.

Each `InputError` names the file and the place in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prepare.left_out import bad_entry
from utils.errors import InputError
from utils.files import read_utf8
from utils.json_text import parse_json

T = TypeVar("T")
TYPE_NAMES = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


@dataclass(frozen=True, slots=True)
class Location:
    """The place of an entry or field in a file, for errors: `Location(path, "images", 3)` prints "images[3]"."""

    path: Path
    part: str = ""  # a list, line or field of the file; "": the whole file
    index: int | None = None  # of the entry in that list

    def __str__(self) -> str:
        return self.part if self.index is None else f"{self.part}[{self.index}]"

    def child(self, key: str, index: int | None = None) -> "Location":
        """The location of the field `key` of this entry, or of item `index` in that field."""
        return Location(self.path, f"{self}.{key}".lstrip("."), index)


def json_lines(path: Path) -> Iterator[tuple[Location, Any]]:
    """Read a jsonl file: location ("line 1") and value of every line that is not blank."""
    for number, line in lines(path):
        location = Location(path, f"line {number}")
        with bad_entry(location):
            yield location, parse_json(line, path, location, half_pairs=True)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read a text file: (line number from 1, line without surrounding white space) of every line that is not blank."""
    for number, encoded in enumerate(read_utf8(path).split(b"\n"), 1):
        with bad_entry(f"line {number}"):
            try:
                line = encoded.decode().strip()
            except UnicodeDecodeError as error:
                key, remedy = f"line {number}", "convert the file to UTF-8"
                raise InputError("the file is not UTF-8 text", file=path, key=key, found=error, remedy=remedy) from None
            if line:
                yield number, line


def take(entry: Any, key: str, expected_type: type[T], location: Location) -> T:
    """`entry[key]`; `InputError` unless it has exactly this type. `location`: the place of `entry` in its file."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not expected_type:
        culprit = value if isinstance(entry, dict) else entry
        raise bad_field(location.child(key), culprit, TYPE_NAMES[expected_type])
    return encodable(value) if isinstance(value, str) else value  # type: ignore[return-value]


def encodable(text: str) -> str:
    """`text` without lone surrogates: JSON can hold them, UTF-8 cannot, and the tokeniser drops them anyway."""
    return text if text.isascii() else text.encode(errors="ignore").decode()


def bad_field(location: Location, value: object, expected: str) -> InputError:
    """The `InputError` for a field that is missing (`value` None) or has a wrong value."""
    text = "nothing" if value is None else repr(value)
    return InputError(
        "a field is missing or has a wrong value",
        file=location.path,
        key=location,
        found=text if len(text) <= 80 else text[:77] + "...",
        expected=expected,
        remedy="use the official file unchanged, or correct this entry",
    )
