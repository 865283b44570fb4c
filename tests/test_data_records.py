"""Records of a task: wrong fields, stores of other tasks and splits with few labels are refused at the start."""

import io
from functools import partial

import numpy as np
import pytest

from data.img_store import ImageStore
from data.nlvr2 import Nlvr2
from data.record_checks import looks_like_entailment
from data.records import decode
from data.txt_store import TextStore
from data.txt_writer import TextWriter
from data.vqa import Vqa
from tests.test_data_store_faults import META, all_in, message, regions, write_store


def answers(path, targets, ans2label: dict | None = None, **fields):
    with TextWriter(path, META) as writer:
        for i, target in enumerate(targets):
            record = {"input_ids": [10], "img_fname": f"{i % 2}.npz"} | fields
            writer.add(f"t{i}", record if target is None else record | {"target": target})
        if ans2label is not None:
            writer.side("ans2label.json", ans2label)
    return TextStore(path)


SURE = [{"labels": [i % 3], "scores": [1.0]} for i in range(6)]


def picture_store(tmp_path):
    return ImageStore(write_store(tmp_path / "img", {"0.npz": regions(), "1.npz": regions()}))


@pytest.mark.parametrize(
    "target, named",
    [
        ({"labels": [7], "scores": [1.0]}, "target: labels|[7]|0..4"),
        ({"labels": [-1], "scores": [1.0]}, "target: labels|[-1]"),
        ({"labels": ["yes"], "scores": [1.0]}, "target: labels|['yes']"),
        ({"labels": [1, 1], "scores": [1.0, 0.3]}, "different labels"),
        ({"labels": [1, 2], "scores": [1.0]}, "equally many"),
        ({"labels": [1], "scores": [float("nan")]}, "target: scores|[nan]"),
        ({"labels": [1], "scores": [90]}, "target: scores|[90]|0..1"),
        ({"label": 1}, "target|{'label': 1}"),
        (1, "target|a record of NLVR2"),
    ],
)
def test_targets_of_questions_are_checked_at_the_start(tmp_path, target, named):
    texts = answers(tmp_path / "q.db", [{"labels": [4], "scores": [0.3]}] * 5 + [target], question_id=1)
    found = message(lambda: Vqa(texts, picture_store(tmp_path), 5))
    all_in(found, "t5: target", "data.mdb", *named.split("|"))


@pytest.mark.parametrize("target", [2, -1, "True", 0.5])
def test_targets_of_statements_are_checked_at_the_start(tmp_path, target):
    path = tmp_path / "s.db"
    with TextWriter(path, META) as writer:
        for i, label in enumerate([1, 0, True, target]):
            writer.add(f"t{i}", {"input_ids": [10], "img_fname": ["0.npz", "1.npz"], "target": label})
    images = picture_store(tmp_path)
    found = message(lambda: Nlvr2(TextStore(path), images, layout="paired", use_img_type=False))
    all_in(found, "t3: target", repr(target), "1 (true) or 0")


def test_entailment_and_questions_are_told_apart(tmp_path):
    images = picture_store(tmp_path)
    entailment = answers(tmp_path / "ve.db", SURE)
    assert looks_like_entailment(entailment)
    all_in(message(lambda: Vqa(entailment, images, 3129)), "not a text store of VQA", "target", "ans2label.json")
    assert Vqa(entailment, images, 3, one_label=True).has_labels
    own = answers(tmp_path / "own.db", SURE, {"a": 0, "b": 1, "c": 2, "d": 3})
    assert Vqa(own, images, 4).has_labels
    all_in(message(lambda: Vqa(own, images, 3, one_label=True)), "not a text store of visual entailment", "ans2label")
    assert Vqa(answers(tmp_path / "id.db", SURE, question_id=3), images, 3129).has_labels
    two = answers(tmp_path / "two.db", [*SURE, {"labels": [0, 1], "scores": [1.0, 0.3]}])
    all_in(message(lambda: Vqa(two, images, 3, one_label=True)), "t6: target: labels", "one label")


def test_a_split_that_is_labelled_in_part_has_no_score(tmp_path):
    images, full = picture_store(tmp_path), [{"labels": [4], "scores": [0.3]}] * 5
    for without, targets in (("t5", [*full, None]), ("t0", [None, *full])):
        texts = answers(tmp_path / f"{without}.db", targets, question_id=1)
        found = message(partial(getattr, Vqa(texts, images, 5), "has_labels"))
        all_in(found, without, "1 of 6 texts without a label", "two stores")
        all_in(message(partial(Vqa, texts, images, 5, require_labels=True)), "has no label", without)
    empty = {"labels": [], "scores": []}  # an answer outside of the vocabulary, or a test split
    assert Vqa(answers(tmp_path / "some.db", [*full, empty], question_id=1), images, 5, require_labels=True).has_labels
    assert not Vqa(answers(tmp_path / "test.db", [empty] * 4), images, 5).has_labels
    assert not Vqa(answers(tmp_path / "none.db", [None] * 4), images, 5).has_labels
    partly = answers(tmp_path / "ve.db", [*SURE, empty])
    all_in(message(lambda: Vqa(partly, images, 3, one_label=True).has_labels), "t6", "1 of 7")


def test_records_of_a_compressed_store_that_are_no_arrays_of_numbers():
    stream = io.BytesIO()
    np.savez(stream, features=np.array([{}], object))
    for value, cause in (
        (stream.getvalue(), "features: Python objects"),
        (b"\x80\x04]", "not an npz"),
        (b"", "0 bytes"),
    ):
        with pytest.raises(ValueError, match=cause) as error:
            decode(memoryview(value), compressed=True)
        assert "pickle" not in str(error.value)
