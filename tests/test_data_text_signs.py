"""Texts with special tokens, padding or many unknown words are refused or said, when a run starts and in full."""

import pytest

from data.txt_store import TextStore
from data.txt_writer import TextWriter
from scripts import check
from tests.test_data_store_faults import META, all_in, message
from utils.errors import InputError

CLS, SEP, MASK, UNK = (META[name] for name in ("CLS", "SEP", "MASK", "UNK"))


def store(path, change, n=25, odd=25, meta=META):
    """A store of n texts, the first `odd` of them changed."""
    with TextWriter(path, meta) as writer:
        for i in range(n):
            ids = [10 + i % 40] * (i % 7 + 1)
            writer.add(f"t{i}", {"input_ids": change(ids) if i < odd else ids, "img_fname": f"{i % 4}.npz"})
    return path


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda ids: [CLS, *ids, SEP], "25 of 25 texts begin with [CLS]"),
        (lambda ids: [CLS, *ids], "25 of 25 texts begin with [CLS]"),
        (lambda ids: [*ids, SEP], "25 of 25 texts begin with [CLS] or end with [SEP]"),
        (lambda ids: [CLS, *ids, SEP, *[0] * (10 - len(ids))], "25 of 25 texts begin with [CLS]"),
        (lambda ids: [MASK, *ids], "25 of 25 texts hold [MASK]"),
        (lambda ids: [*ids, SEP] if ids != [10] else ids, "24 of 25 texts"),
    ],
)
def test_texts_with_the_tokens_that_readers_add_are_refused(tmp_path, change, named):
    path = store(tmp_path / "t.db", change)
    for refuse in (TextStore(path).check, lambda: check.main(["--txt_db", str(path)])):
        all_in(message(refuse), named, "t.db", "input_ids", "expected:", "add_special_tokens=False")


@pytest.mark.parametrize(
    "change, odd, named",
    [
        (lambda ids: [CLS, *ids, SEP], 5, "5 of 25 texts hold [CLS], [SEP] or [MASK]"),
        (lambda ids: [*ids, 0, 0], 1, "1 of 25 texts end with 0, as if padded"),
        (lambda ids: [UNK] * len(ids), 3, "6% of 94 word pieces are [UNK]"),
        (lambda ids: ids, 0, ""),
        (lambda ids: [MASK, *ids], 1, ""),  # a text may mention one
        (lambda ids: [UNK], 2, ""),
    ],
)
def test_odd_texts_are_said(tmp_path, caplog, capsys, change, odd, named):
    caplog.set_level("WARNING", logger="uniter")
    path = store(tmp_path / "t.db", change, odd=odd)
    TextStore(path).check()
    check.main(["--txt_db", str(path)])
    report = capsys.readouterr().out
    if named:
        assert f"{path}: in a sample {named}" in caplog.text and f"warning: {named}" in report
    else:
        assert not caplog.text and "warning" not in report


def test_0_is_no_padding_where_it_is_a_special_token(tmp_path, caplog):
    caplog.set_level("WARNING", logger="uniter")
    TextStore(store(tmp_path / "t.db", lambda ids: [*ids, 0], odd=1, meta=META | {"UNK": 0})).check()
    assert "padded" not in caplog.text


def test_the_answers_of_vcr_are_looked_at_too(tmp_path):
    texts = TextStore(store(tmp_path / "t.db", lambda ids: ids))
    signs = texts.signs()
    signs.add({"input_ids": [10], "input_ids_as": [[CLS, 11, SEP]] * 4, "input_ids_rs": [[12, UNK, 0]] * 4})
    assert (signs.lists, signs.framed, signs.padded, signs.unknown, signs.tokens) == (9, 4, 4, 4, 21)
    signs = texts.signs()
    signs.add({"input_ids": []})
    signs.check(texts.path)  # nothing to say about no word pieces
    assert signs.warnings() == []
    with pytest.raises(InputError, match="special tokens"):
        signs.add({"input_ids": [CLS, 11]})
        signs.check(texts.path)
