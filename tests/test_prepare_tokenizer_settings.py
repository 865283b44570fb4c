"""Text meets a vocabulary as the vocabulary's own folder says; what is guessed or contradicts it is said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import prepro
from data.stores import check_same_vocabulary
from data.txt_store import Meta, TextStore, meta_of
from prepare.tokenizer import SPECIAL, WordPiece
from tests.test_prepro import put
from utils.errors import InputError

LOWER = [*SPECIAL, *"!.,", *"abcdefghijklmnopqrstuvwxyz", "two", "dog", "##s", "cafe", "café", "中", "中文"]


def folder(path: Path, pieces: list[str] = LOWER, config: Any = None, normalizer: Any = None, **fast: Any) -> Path:
    """A vocabulary's folder, with the two settings files where they are given."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "vocab.txt").write_text("\n".join(pieces))
    if config is not None:
        put(path / "tokenizer_config.json", config)
    if normalizer is not None or fast:
        model = {"type": "WordPiece", "vocab": {piece: id_ for id_, piece in enumerate(pieces)}}
        put(path / "tokenizer.json", {"normalizer": normalizer, "model": model} | fast)
    return path


CASED = [*LOWER, "Two", "T", "D"]
SEQUENCE = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}
BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"config": {"do_lower_case": True}}, ["two", "cafe", "dog", "##s", "中", "中"]),
        ({"config": {"do_lower_case": True}, "pieces": CASED}, ["two", "cafe", "dog", "##s", "中", "中"]),
        ({"config": {"do_lower_case": False}}, ["[UNK]", "café", "dog", "##s", "中", "中"]),
        ({"normalizer": BERT | {"lowercase": True}}, ["two", "cafe", "dog", "##s", "中", "中"]),
        ({"normalizer": BERT | {"lowercase": False}}, ["[UNK]", "café", "dog", "##s", "中", "中"]),
        ({"normalizer": BERT | {"lowercase": True, "strip_accents": False}}, ["two", "café", "dog", "##s", "中", "中"]),
        ({"config": {"do_lower_case": True, "strip_accents": False}}, ["two", "café", "dog", "##s", "中", "中"]),
        ({"config": {"do_lower_case": False, "strip_accents": True}}, ["[UNK]", "cafe", "dog", "##s", "中", "中"]),
        ({"config": {"tokenize_chinese_chars": False}}, ["two", "cafe", "dog", "##s", "[UNK]"]),
        ({"normalizer": SEQUENCE}, ["two", "café", "dog", "##s", "[UNK]"]),
        ({}, ["two", "cafe", "dog", "##s", "中", "中"]),
        ({"pieces": CASED}, ["Two", "café", "dog", "##s", "中", "中"]),
    ],
)  # fmt: skip
def test_the_folders_own_settings_are_obeyed(tmp_path: Path, options: dict[str, Any], tokens: list[str]) -> None:
    path = folder(tmp_path / "bert", **options)
    assert WordPiece(path).tokenize("Two café dogs 中中") == tokens
    assert WordPiece(path / "vocab.txt").tokenize("Two café dogs 中中") == tokens


@pytest.mark.parametrize(
    ("options", "flag", "message"),
    [
        ({"config": {"do_lower_case": True}}, False, r"tokenizer_config\.json[\s\S]*--no-do_lower_case[\s\S]*True"),
        ({"config": {"do_lower_case": False}}, True, r"tokenizer_config\.json[\s\S]*--do_lower_case[\s\S]*False"),
        ({"normalizer": BERT | {"lowercase": True}}, False, r"tokenizer\.json[\s\S]*--no-do_lower_case"),
        ({"config": {"do_lower_case": True}, "normalizer": BERT | {"lowercase": False}}, None, "contradict each other"),
        ({"config": {"do_lower_case": "yes"}}, None, r"do_lower_case[\s\S]*yes[\s\S]*true or false"),
        ({"config": {"do_basic_tokenize": False}}, None, "do_basic_tokenize"),
        ({"config": b"[]"}, None, r"tokenizer_config\.json[\s\S]*an object"),
        ({"normalizer": {"type": "Precompiled"}}, None, r"normalizer[\s\S]*Precompiled[\s\S]*BertNormalizer"),
        ({"normalizer": BERT, "model": {"type": "BPE"}}, None, r"model[\s\S]*BPE[\s\S]*WordPiece"),
        ({"normalizer": BERT, "model": {"type": "WordPiece", "vocab": {"a": 0}}}, None, r"model\.vocab"),
    ],
)
def test_contradictions_and_other_tokenisers_are_refused(
    tmp_path: Path, options: dict[str, Any], flag: bool | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        WordPiece(folder(tmp_path / "bert", **options), flag)


def run(tmp_path: Path, capsys: Any, vocab: Path, *flags: str, name: str = "x.db") -> str:
    """What the preparation of two captions prints."""
    lines = [{"id": str(k), "image": f"{k}.jpg", "text": text} for k, text in enumerate(["Two dogs.", "A Dog, TWO"])]
    files = ["--jsonl", put(tmp_path / "c.jsonl", lines), "--output", str(tmp_path / name)]
    prepro.main(["captions", *files, "--vocab", str(vocab), *flags])
    return str(capsys.readouterr().out)


def test_who_decides_about_capitals_is_said_and_kept(tmp_path: Path, capsys: Any) -> None:
    lower, cased = folder(tmp_path / "lower"), folder(tmp_path / "cased", CASED)
    assert "lower: text is lower-cased: the vocabulary has no capital letters (a guess" in run(tmp_path, capsys, lower)
    meta = json.loads((tmp_path / "x.db" / "meta.json").read_text())
    assert (meta["do_lower_case"], meta["strip_accents"], meta["tokenize_chinese_chars"]) == (True, True, True)
    printed = run(tmp_path, capsys, lower, "--no-do_lower_case", name="y.db")
    assert "text keeps its capitals: the flag says so, against this sign: the vocabulary has no capital" in printed
    assert "has capital letters (a guess" in run(tmp_path, capsys, cased, name="z.db")
    own = folder(tmp_path / "own", config={"do_lower_case": True})
    assert "lower-cased: tokenizer_config.json says so\n" in run(tmp_path, capsys, own, name="o.db")
    other = folder(tmp_path / "other", CASED, config={"do_lower_case": True})
    printed = run(tmp_path, capsys, other, name="p.db")
    assert (
        "lower-cased: tokenizer_config.json says so, against this sign: the vocabulary has capital letters" in printed
    )


def test_many_unknown_words_are_a_warning_with_examples(tmp_path: Path, capsys: Any) -> None:
    lower = folder(tmp_path / "lower")
    assert "[UNK]" in run(tmp_path, capsys, lower) and "WARNING" not in run(tmp_path, capsys, lower, name="y.db")
    printed = run(tmp_path, capsys, lower, "--no-do_lower_case", name="z.db")
    assert "WARNING" in printed and "such as Two A Dog, TWO" in printed and "--do_lower_case" in printed


def test_cased_and_lower_cased_stores_are_of_two_vocabularies(tmp_path: Path, capsys: Any) -> None:
    lower = folder(tmp_path / "lower")
    run(tmp_path, capsys, lower)
    run(tmp_path, capsys, lower, "--no-do_lower_case", name="y.db")
    one, two = TextStore(tmp_path / "x.db"), TextStore(tmp_path / "y.db")
    assert one.meta.vocab_sha256 == two.meta.vocab_sha256  # the hash is that of vocab.txt, as in older stores
    with pytest.raises(InputError, match=r"y\.db[\s\S]*do_lower_case[\s\S]*False[\s\S]*True, as in[\s\S]*x\.db"):
        check_same_vocabulary(two.meta, two.path, one.meta, one.path)


def test_stores_that_say_nothing_about_capitals_go_with_both() -> None:
    content = {"CLS": 2, "SEP": 3, "MASK": 4, "UNK": 1, "v_range": [5, 50], "do_lower_case": None}
    old: Meta = meta_of(Path("meta.json"), content)
    for value in (True, False):
        check_same_vocabulary(replace(old, do_lower_case=value), Path("new"), old, Path("old"))


def test_blank_lines_at_the_end_of_a_vocabulary_are_no_pieces(tmp_path: Path) -> None:
    path = folder(tmp_path / "bert")
    whole = WordPiece(path)
    for end in ("\n", "\n\n", "\r\n\n \n"):
        (path / "vocab.txt").write_text("\n".join(LOWER) + end)
        assert (WordPiece(path).v_range, WordPiece(path).sha256) == (whole.v_range, whole.sha256)


def test_a_folder_with_tokenizer_json_alone(tmp_path: Path) -> None:
    path = folder(tmp_path / "bert", normalizer=BERT | {"lowercase": True})
    whole = WordPiece(path)
    (path / "vocab.txt").unlink()
    alone = WordPiece(path)
    assert (alone.pieces, alone.sha256, alone.name) == (whole.pieces, whole.sha256, whole.name)
    assert alone.tokenize("Two dogs") == ["two", "dog", "##s"]
    put(path / "tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 2}}})
    with pytest.raises(InputError, match=r"tokenizer\.json[\s\S]*model\.vocab[\s\S]*each once"):
        WordPiece(path)
