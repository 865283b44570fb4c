"""Parsing of JSON, with one kind of error for all that can be wrong with it."""

import contextlib
import json
import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from utils.errors import InputError

# Escapes of one half of a pair, and numbers beyond float64. Only a text in which these are found is checked closely.
HALF = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]")
HUGE = re.compile(r"[eE]\+?0*[1-9]\d\d|\d{309}")


def parse_json(text: str | bytes, path: str | Path, key: object = None, half_pairs: bool = False) -> Any:
    """Parse JSON that was read from `path`, at the place `key` in it. `InputError` where it is not JSON.

    Also refused: NaN and infinity, numbers too large for float64, integers of more than 4,300 digits, nesting deeper
    than Python's stack, and one key twice in an object with two values. `half_pairs`: accept lone surrogates, which
    no file can hold; the caller drops them.
    """
    with parsing(path, key):
        text = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
        constants: list[float] = []  # NaN and infinity, which are not JSON

        def constant(name: str) -> float:
            constants.append(float(name))
            return constants[-1]

        value = json.loads(text, object_pairs_hook=_object, parse_constant=constant)
        if constants or HUGE.search(text):
            _check_finite(value)
        if not half_pairs and HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value


def decoder() -> json.JSONDecoder:
    """A decoder for JSON that is read piece by piece, in a block of `parsing`; it refuses what `parse_json` refuses."""
    return json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse)


@contextlib.contextmanager
def parsing(path: str | Path, key: object = None) -> Iterator[None]:
    """Turn all that a parser of JSON may raise in the block into an `InputError`."""
    problem = "not a JSON file" if key is None else "not a JSON object"
    try:
        yield
    except InputError:
        raise
    except RecursionError:
        reason = "lists or objects in each other, too many levels deep"
        raise InputError(problem, file=path, key=key, found=reason, expected="JSON text") from None
    except UnicodeEncodeError as error:
        excerpt = ascii(error.object[max(0, error.start - 30) : error.end + 10])
        reason, remedy = f"half of a surrogate pair: {excerpt}", "correct this text"
        raise InputError("a text is not Unicode", file=path, key=key, found=reason, remedy=remedy) from None
    except ValueError as error:
        reason, remedy = _reason(error)
        raise InputError(problem, file=path, key=key, found=reason, expected="JSON text", remedy=remedy) from None


def _reason(error: ValueError) -> tuple[str, str]:
    """What stands in the place of JSON, as far as it can be told, and what to do."""
    text = error.doc if isinstance(error, json.JSONDecodeError) else ""
    reason = str(error).split("; use sys.")[0]  # Python's advice is for programmers
    if not isinstance(error, json.JSONDecodeError):
        return reason, "correct it, or restore the original file"
    if not text.strip():
        return "nothing, or white space alone", "copy or download the file again"
    if text.startswith("version https://git-lfs"):
        return "a Git-LFS pointer, not the file that it stands for", "fetch the file: git lfs pull"
    if text.lstrip().startswith("<"):
        return "a web page or XML", "download the file itself"
    if error.msg == "Extra data" and "\n" in text[: error.pos] and text[error.pos] in "[{":
        remedy = "give such a file to an option that reads it (prepro.py captions: --jsonl), or write one JSON value"
        return f"JSON lines, one value a line ({reason})", remedy
    return reason, "correct it, or copy or download the original file again"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        for key, item in pairs:
            if value[key] != item:
                raise ValueError(f"the key {key[:80]!r} occurs twice in an object, with two values")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _check_finite(value: Any, place: str = "") -> None:
    """`ValueError` with the place of the first number in `value` that is not finite."""
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{value} at {place.lstrip('.') or 'the root'}: NaN, infinite or too large a number")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        _check_finite(item, f"{place}.{key}" if isinstance(value, dict) else f"{place}[{key}]")
