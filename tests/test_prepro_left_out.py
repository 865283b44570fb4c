"""`prepro.py --skip_bad`: bad entries are left out, counted and listed; without it the first one is an error."""

import json
import pickle

import pytest

from tests.prepro_case import prepare
from utils.errors import InputError


def left_out(folder, name="x.db"):
    path = folder / f"{name}.left_out.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def jsonl(path, *lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return str(path)


GOOD = {"id": "a", "image": "1.jpg", "text": "two dogs"}
LINES = [
    GOOD,
    b"{no json",
    {"id": "b", "image": "1.jpg", "text": 7},
    b'"\xff"',
    {"id": "a", "image": "2.jpg", "text": "a cat"},
    {"id": "c", "image": "3.jpg", "text": ""},
    b"",
    {"id": "d", "image": "4.jpg", "text": "a cat"},
]


def test_bad_lines_are_left_out_counted_and_listed(tmp_path, capsys):
    records = prepare(tmp_path, "captions", "--jsonl", jsonl(tmp_path / "mine.jsonl", *LINES), "--skip_bad")
    assert sorted(records) == ["a", "d"] and records["a"]["img_fname"] == "1.npz"
    rows = left_out(tmp_path)
    assert [row["item"] for row in rows] == ["line 2", "line 3", "line 4", "id a", "id c"]
    assert "not a JSON object" in rows[0]["reason"] and "mine.jsonl" in rows[0]["reason"]
    assert "UTF-8" in rows[2]["reason"] and "an id occurs twice" in rows[3]["reason"]
    printed = capsys.readouterr().out
    assert "5 bad items left out" in printed and "1 × an id occurs twice" in printed
    assert "listed in" in printed and "x.db.left_out.jsonl" in printed


def test_without_the_option_the_first_bad_line_is_an_error_that_names_the_option(tmp_path):
    with pytest.raises(InputError, match=r"not a JSON object[\s\S]*line 2[\s\S]*--skip_bad"):
        prepare(tmp_path, "captions", "--jsonl", jsonl(tmp_path / "mine.jsonl", *LINES))
    assert not (tmp_path / "x.db.left_out.jsonl").exists()


def test_a_run_without_bad_entries_removes_an_older_list(tmp_path):
    (tmp_path / "x.db.left_out.jsonl").write_text("{}")
    prepare(tmp_path, "captions", "--jsonl", jsonl(tmp_path / "mine.jsonl", GOOD), "--skip_bad")
    assert not (tmp_path / "x.db.left_out.jsonl").exists()


def test_nothing_but_bad_lines_is_an_error(tmp_path):
    message = r"no text is left[\s\S]*2 bad items; the first, line 1: not a JSON object[\s\S]*remedy: +repair"
    with pytest.raises(InputError, match=message):
        prepare(tmp_path, "captions", "--jsonl", jsonl(tmp_path / "mine.jsonl", b"{x", b"7"), "--skip_bad")
    assert [row["item"] for row in left_out(tmp_path)] == ["line 1", "line 2"]


@pytest.mark.parametrize("name", ["a" * 300, "é" * 125])
def test_a_name_that_is_too_long_for_files_is_refused_at_once(tmp_path, name):
    with pytest.raises(InputError, match=r"too long[\s\S]*--output[\s\S]*(300|250) bytes[\s\S]*at most 240"):
        prepare(tmp_path, "captions", "--jsonl", jsonl(tmp_path / "mine.jsonl", GOOD), name=name)


def test_nothing_but_bad_references_is_an_error_that_says_why(tmp_path):
    (tmp_path / "refs.p").write_bytes(pickle.dumps([{"split": "val", "ref_id": "x"}], 2))
    files = ["--refs", str(tmp_path / "refs.p"), "--instances", "none", "--iid_to_ann_ids", "none", "--split", "val"]
    with pytest.raises(InputError, match=r"no reference of that split[\s\S]*1 bad items; the first, \[0\]: .*ref_id"):
        prepare(tmp_path, "re", *files, "--skip_bad")


def test_a_question_whose_annotation_is_bad_or_missing_is_left_out(tmp_path):
    questions = [{"question_id": k, "question": "two dogs", "image_id": k} for k in (1, 2, 3)]
    questions += [{"question_id": "4", "question": "two dogs", "image_id": 4}]
    annotations = [{"question_id": 1, "answers": [{"answer": "yes"}] * 10}, {"question_id": 2, "answers": []}]
    for name, key, rows in (("q", "questions", questions), ("a", "annotations", annotations)):
        (tmp_path / f"{name}.json").write_text(json.dumps({key: rows, "data_subtype": "val2014"}))
    files = ["--questions", str(tmp_path / "q.json"), "--annotations", str(tmp_path / "a.json")]
    with pytest.raises(InputError, match=r"annotations\[1\].answers"):
        prepare(tmp_path, "vqa", *files)
    assert list(prepare(tmp_path, "vqa", *files, "--skip_bad")) == ["1"]
    items = ["annotations[1]", "questions[3]", "question_id 2", "question_id 3"]
    assert [row["item"] for row in left_out(tmp_path)] == items


def test_a_bad_annotation_does_not_shape_the_vocabulary_of_answers(tmp_path):
    questions = [{"question_id": k, "question": "two dogs", "image_id": k} for k in (1, 2)]
    rows = [{"question_id": k, "image_id": 1, "answers": [{"answer": f"answer {k}"}] * 10} for k in (1, 2)]
    for name, key, content in (("q", "questions", questions), ("a", "annotations", rows)):
        (tmp_path / f"{name}.json").write_text(json.dumps({key: content, "data_subtype": "val2014"}))
    files = ["--questions", str(tmp_path / "q.json"), "--annotations", str(tmp_path / "a.json")]
    assert list(prepare(tmp_path, "vqa", *files, "--skip_bad")) == ["1"]
    assert [row["item"] for row in left_out(tmp_path)] == ["question_id 2"]
    assert json.loads((tmp_path / "x.db" / "ans2label.json").read_text()) == {"answer 1": 0}


def test_a_bad_entry_in_another_one_is_left_out_alone_and_names_the_option_once(tmp_path):
    sentences = [{"raw": "two dogs", "sentid": 1}, {"raw": 3, "sentid": 2}]
    image = {"split": "val", "filename": "1.jpg", "cocoid": 1, "filepath": "val2014", "sentences": sentences}
    (tmp_path / "k.json").write_text(json.dumps({"images": [image, {"split": "val"}]}))
    flags = ["--karpathy", str(tmp_path / "k.json"), "--part", "val"]
    with pytest.raises(InputError, match=r"images\[0\].sentences\[1\].raw") as raised:
        prepare(tmp_path, "itm", *flags)
    assert str(raised.value).count("--skip_bad") == 1
    assert list(prepare(tmp_path, "itm", *flags, "--skip_bad")) == ["1"]
    assert [row["item"] for row in left_out(tmp_path)] == ["images[0].sentences[1]", "images[1]"]


def test_a_reference_whose_region_is_bad_is_left_out(tmp_path):
    sentence = {"sent_id": 1, "sent": "left dog"}
    refs = [
        {"ref_id": k, "ann_id": k, "image_id": k // 10, "split": "val", "sentences": [sentence | {"sent_id": k}]}
        for k in (10, 11, 20, 30)
    ]
    boxes = {10: [0, 0, 5, 5], 11: [9, 9, -5, 5], 20: [1, 1, 2, 2]}
    instances = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": 20, "width": 20} for k in (1, 2)],
        "annotations": [{"id": k, "image_id": k // 10, "category_id": 1, "bbox": box} for k, box in boxes.items()],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    (tmp_path / "orders.json").write_text(json.dumps({"iid_to_ann_ids": {"1": [10, 11]}}))
    files = ["--refs", str(tmp_path / "refs(unc).p"), "--instances", str(tmp_path / "instances.json")]
    files += ["--iid_to_ann_ids", str(tmp_path / "orders.json"), "--split", "val"]
    with pytest.raises(InputError, match=r"annotations\[1\].bbox[\s\S]*no negative size"):
        prepare(tmp_path, "re", *files)
    assert list(prepare(tmp_path, "re", *files, "--skip_bad")) == ["10"]
    assert [ref["ref_id"] for ref in json.loads((tmp_path / "x.db" / "refs.json").read_text())] == [10]
    assert [row["item"] for row in left_out(tmp_path)][-3:] == ["ref_id 11", "ref_id 20", "ref_id 30"]
