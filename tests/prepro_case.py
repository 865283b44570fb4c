"""Helpers of the tests of prepro.py's subcommands: a vocabulary, a call that reads the store, the goldens' pieces."""

import copy
import json
import string
from pathlib import Path
from typing import Any

import pytest

import prepro
from data.txt_store import TextStore
from prepare import preparation
from prepare.tokenizer import SPECIAL, WordPiece
from prepare.tokenizer_settings import Settings
from tests.golden_data import GOLDEN
from tests.test_prepro import read_store, side

FORMATS = GOLDEN / "data_formats"
EXPECTED = json.loads((FORMATS / "expected" / "txt_db.json").read_text())
WORDS = ["dog", "cat", "two", "on", "the", "street", "left", "person", "traffic", "light", "why", "is", "he", "because"]


def tokenizer(folder: Path) -> WordPiece:
    """A tokeniser with a small vocabulary, of characters and a few words, written into `folder`."""
    letters = string.ascii_letters + string.digits
    path = folder / "vocab.txt"
    pieces = [*SPECIAL, *string.punctuation, *letters, *(f"##{letter}" for letter in letters), *WORDS]
    path.write_text("\n".join(pieces) + "\n")
    return WordPiece(path)


def prepare(folder: Path, task: str, *options: str, name: str = "x.db") -> dict[str, dict[str, Any]]:
    """Run a subcommand; returns the records of the store `folder / name`, after the trainer's reader accepted it."""
    out = folder / name
    prepro.main([task, *options, "--vocab", str(tokenizer(folder).path), "--output", str(out)])
    store, records = TextStore(out), read_store(out)
    store.check()
    assert {store.id(i) for i in range(len(store))} == set(records)
    return records


def use_golden_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the goldens' word pieces, taken from their records because their vocabulary is not available."""
    table = {"umbrella": [152, 97], "bottles": [157, 38], "frisbees": [43, 159], "dogs": [123], "two": [197], "@@": []}
    table |= {"three": [121], "has": [182], "near": [25], "left": [37], "water": [116], "playing-with": [95, 120]}
    table |= {"image": [98], "and": [194], "the": [14], "right": [68]}

    class Tokenizer:
        unk, v_range, unknown_words = 4, (10, 205), ()
        settings = Settings(do_lower_case=False, strip_accents=False, tokenize_chinese_chars=True, reason="a test")

        def __init__(self, path: str, do_lower_case: bool | None):
            self.name = path

        def encode(self, text: str) -> list[int]:
            return [piece for word in text.split() for piece in table[word]]

        def meta(self) -> dict[str, Any]:
            ids = {"UNK": 4, "CLS": 1, "SEP": 2, "MASK": 3, "v_range": [10, 205]}
            return {"toker": self.name, "tokenizer": self.name} | ids

    monkeypatch.setattr(preparation, "WordPiece", Tokenizer)


def check_golden(out: Path, name: str, **other: Any) -> None:
    """Check that the store `out` equals the release's: records, side files, and meta.json except for `other`."""
    golden = EXPECTED[name]
    assert read_store(out) == golden["records"]
    for file, content in golden["side_files"].items():
        value = side(out, file)
        if file == "meta.json":
            assert {key: value[key] for key in content} == content | {"output": str(out)} | other
        else:
            assert value == content and list(value) == list(content), file


def variant(content: Any, *path: Any, to: Any = None) -> Any:
    """A copy of `content` with the value at `path` removed, or set to `to`."""
    content = copy.deepcopy(content)
    *parents, last = path
    inner = content
    for key in parents:
        inner = inner[key]
    if to is None:
        del inner[last]
    else:
        inner[last] = to
    return content
