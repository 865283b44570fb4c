"""prepro.py on captions and VQA: its stores, read with plain lmdb, lz4 and msgpack, and the files that it refuses."""

import gzip
import hashlib
import json
import os
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import lz4.frame
import msgpack
import pytest

import prepro
from evaluation.vqa_answers import read_ans2label
from prepare.annotations import vqa_questions
from prepare.image_lists import image_list
from prepare.tokenizer import SPECIAL, WordPiece
from utils.errors import InputError

WORDS = ["dog", "dogs", "cat", "two", "on", "the", "street", "what", "is", "yes", "no"]
ROOT = Path(__file__).parent.parent
CAPTIONS = {
    "images": [
        {"id": 9, "file_name": "COCO_val2014_000000000009.jpg"},
        {"id": 25, "file_name": "000000000025.jpg", "coco_url": "http://images.example/val2017/000000000025.jpg"},
    ],
    "annotations": [
        {"id": 100, "image_id": 9, "caption": "a dog on the street "},
        {"id": 101, "image_id": 25, "caption": "A cat.\n"},
        {"id": 102, "image_id": 9, "caption": "two dogs"},
    ],
}
QUESTIONS = {
    "data_subtype": "train2014",
    "questions": [
        {"question_id": 9000, "image_id": 9, "question": "what is on the street?"},
        {"question_id": 9001, "image_id": 9, "question": "two dogs?"},
        {"question_id": 25000, "image_id": 25, "question": "a cat?"},
    ],
}
ANSWERS = {
    9000: ["a dog"] * 4 + ["Dog", "dog.", "cat", "cat", "two", "street"],
    9001: ["yes"] * 9 + ["no"],
    25000: ["dont know"] * 10,
}
ANNOTATIONS = {
    "annotations": [
        {"question_id": id_, "answers": [{"answer": answer} for answer in answers]} for id_, answers in ANSWERS.items()
    ]
}


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    """A vocabulary of characters and a few words."""
    letters = string.ascii_letters + string.digits
    pieces = [*SPECIAL, *string.punctuation, *letters, *(f"##{letter}" for letter in letters), *WORDS]
    path = tmp_path / "bert-tiny" / "vocab.txt"
    path.parent.mkdir()
    path.write_text("\n".join(pieces) + "\n")
    return path


def put(path: Path, content: Any) -> str:
    """Write JSON (a dict), lines (a list) or bytes; returns the path as text."""
    if isinstance(content, list):
        content = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in content).encode()
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


def read_store(path: Path) -> dict[str, dict[str, Any]]:
    """All records of a text store, without our own reader."""
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return {key.decode(): msgpack.unpackb(lz4.frame.decompress(value)) for key, value in txn.cursor()}


def side(path: Path, name: str) -> Any:
    """A JSON file beside the records."""
    return json.loads((path / name).read_text())


def test_captions(tmp_path: Path, vocab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = put(tmp_path / "c.json", CAPTIONS), tmp_path / "txt_db" / "c.db"
    prepro.main(["captions", "--annotations", source, "--output", str(out), "--vocab", str(vocab)])
    tokenizer = WordPiece(vocab)
    records = read_store(out)
    assert list(records) == ["100", "101", "102"]
    assert records["100"] == {
        "input_ids": tokenizer.encode("a dog on the street"),
        "img_fname": "coco_val2014_000000000009.npz",
        "sentence": "a dog on the street ",
    }
    assert records["101"]["img_fname"] == "coco_val2017_000000000025.npz"
    assert records["101"]["input_ids"] == tokenizer.encode("A cat.")
    assert side(out, "id2len.json") == {"100": 5, "101": 3, "102": 2}
    assert side(out, "txt2img.json")["102"] == "coco_val2014_000000000009.npz"
    assert side(out, "img2txts.json")["coco_val2014_000000000009.npz"] == ["100", "102"]
    meta = side(out, "meta.json")
    assert {key: meta[key] for key in ("UNK", "CLS", "SEP", "MASK")} == {"UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4}
    assert meta["v_range"] == [5, len(vocab.read_text().split("\n")) - 1]
    assert meta["tokenizer"] == meta["toker"] == "bert-tiny"
    assert meta["vocab_sha256"] == hashlib.sha256(vocab.read_bytes()).hexdigest()
    assert (meta["annotations"], meta["output"], meta["task"]) == ([source], str(out), "captions")
    assert f"{out}: 3 of 3 texts, of 2 images" in capsys.readouterr().out


def test_image_lists_and_names(tmp_path: Path, vocab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = put(tmp_path / "c.json.gz", gzip.compress(json.dumps(CAPTIONS).encode()))
    common = ["captions", "--annotations", source, "--vocab", str(vocab.parent), "--split", "val2014", "--output"]
    karpathy = put(tmp_path / "test.txt", ["val2014/COCO_val2014_000000000009.jpg 9", "val2014/other.jpg 77"])
    prepro.main([*common, str(tmp_path / "in.db"), "--image_list", karpathy])
    assert list(read_store(tmp_path / "in.db")) == ["100", "102"]
    assert "left out: 1 by the image lists" in capsys.readouterr().out
    prepro.main([*common, str(tmp_path / "out.db"), "--exclude_images", karpathy, "--img_name", "{split}/{stem}.npz"])
    assert read_store(tmp_path / "out.db")["101"]["img_fname"] == "val2014/000000000025.npz"
    ids = put(tmp_path / "ids.txt", ["25", ""])
    prepro.main([*common, str(tmp_path / "ids.db"), "--image_list", ids])
    assert read_store(tmp_path / "ids.db")["101"]["img_fname"] == "coco_val2014_000000000025.npz"
    with pytest.raises(InputError, match="no text is left"):
        prepro.main([*common, str(tmp_path / "none.db"), "--image_list", put(tmp_path / "none.txt", ["77"])])
    assert not (tmp_path / "none.db").exists()


def test_image_list_forms(tmp_path: Path) -> None:
    lines = ["12", "coco_val2014_000000000013.npz", "000000000014.jpg", "a/my picture.jpg", "my other.jpg 15", "x1.jpg"]
    listed = image_list(put(tmp_path / "list.txt", lines))
    assert listed.ids == {12, 13, 14, 15}
    assert listed.stems == {"coco_val2014_000000000013", "000000000014", "my picture", "my other", "x1"}


def test_jsonl_of_ones_own(tmp_path: Path, vocab: Path) -> None:
    lines = [
        {"id": "first", "image": "pictures/street dog.jpg", "text": "the \ud83d dog"},
        "",
        {"id": 2, "image": "b.npz", "text": "two"},
        {"id": "3", "image": "pictures/street dog.jpg", "text": "\x00"},
    ]
    source = put(tmp_path / "mine.jsonl", lines)
    common = ["captions", "--jsonl", source, "--vocab", str(vocab), "--output", str(tmp_path / "mine.db")]
    with pytest.raises(InputError, match=r"mine\.jsonl\n +key: +id 3\n"):
        prepro.main(common)
    assert not (tmp_path / "mine.db").exists()
    prepro.main([*common, "--skip_empty"])
    records = read_store(tmp_path / "mine.db")
    assert records["first"]["sentence"] == "the  dog"  # the lone surrogate is gone
    assert {id_: record["img_fname"] for id_, record in records.items()} == {"first": "street dog.npz", "2": "b.npz"}


def test_vqa(tmp_path: Path, vocab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions, answers = put(tmp_path / "q.json", QUESTIONS), put(tmp_path / "a.json", ANNOTATIONS)
    more = {"data_subtype": "val2014", "questions": [{"question_id": 1, "image_id": 1, "question": "what?"}]}
    more_answers = {
        "annotations": [
            {"question_id": 1, "answers": [{"answer": "two"}] * 10, "multiple_choice_answer": "Two", "extra": 1}
        ]
    }
    out = tmp_path / "vqa.db"
    files = [questions, put(tmp_path / "q2.json", more)], [answers, put(tmp_path / "a2.json", more_answers)]
    options = ["--vocab", str(vocab), "--output", str(out), "--num_answers", "3"]
    prepro.main(["vqa", "--questions", *files[0], "--annotations", *files[1], *options])
    # each of the four majority answers counts once: the first three in alphabetical order
    assert side(out, "ans2label.json") == {"2": 0, "dog": 1, "don't know": 2}
    records = read_store(out)
    assert records["9000"] == {
        "input_ids": WordPiece(vocab).encode("what is on the street?"),
        "img_fname": "coco_train2014_000000000009.npz",
        "question_id": 9000,
        "question": "what is on the street?",
        "target": {"labels": [1, 0], "scores": [1.0, 0.3]},
    }
    assert records["9001"]["target"] == {"labels": [], "scores": []}
    assert records["25000"]["target"] == {"labels": [2], "scores": [1.0]}
    assert records["1"]["img_fname"] == "coco_val2014_000000000001.npz"
    assert "3 answers in the vocabulary; 1 questions have none of them" in capsys.readouterr().out
    meta = side(out, "meta.json")
    assert (meta["task"], meta["annotations"]) == ("vqa", [answers, str(tmp_path / "a2.json")])


def test_vqa_with_given_answers(tmp_path: Path, vocab: Path) -> None:
    questions, answers = put(tmp_path / "q.json", QUESTIONS), put(tmp_path / "a.json", ANNOTATIONS)
    common = ["vqa", "--questions", questions, "--annotations", answers, "--vocab", str(vocab)]
    prepro.main([*common, "--output", str(tmp_path / "release.db"), "--ans2label", "release"])
    release = read_ans2label()
    assert side(tmp_path / "release.db", "ans2label.json") == release
    target = read_store(tmp_path / "release.db")["9000"]["target"]
    assert dict(zip(target["labels"], target["scores"], strict=True)) == {
        release["dog"]: 1.0,
        release["cat"]: 0.6,
        release["2"]: 0.3,
        release["street"]: 0.3,
    }
    mine = put(tmp_path / "mine.json", {"no": 1, "yes": 0})
    prepro.main([*common, "--output", str(tmp_path / "mine.db"), "--ans2label", mine])
    assert read_store(tmp_path / "mine.db")["9001"]["target"] == {"labels": [0, 1], "scores": [1.0, 0.3]}


def test_vqa_test_split_has_no_target(tmp_path: Path, vocab: Path) -> None:
    questions = put(tmp_path / "q.json", QUESTIONS | {"data_subtype": "test-dev2015"})
    prepro.main(["vqa", "--questions", questions, "--vocab", str(vocab), "--output", str(tmp_path / "t.db")])
    records = read_store(tmp_path / "t.db")
    assert records["25000"]["img_fname"] == "coco_test2015_000000000025.npz"
    assert all("target" not in record for record in records.values())
    assert not (tmp_path / "t.db" / "ans2label.json").exists()


def without(content: dict[str, Any], key: str, index: int, field: str, value: Any = None) -> dict[str, Any]:
    """`content` with one field of one entry of `content[key]` removed, or set to `value`."""
    content = json.loads(json.dumps(content))
    content[key][index].pop(field)
    if value is not None:
        content[key][index][field] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a JSON file"),
        (b"\x1f\x8b\x00", "cannot be read"),
        ([CAPTIONS, CAPTIONS], "not a JSON file"),
        ({"images": []}, r"key: +annotations\b"),
        (without(CAPTIONS, "annotations", 1, "caption"), r"key: +annotations\[1\]\.caption"),
        (without(CAPTIONS, "annotations", 2, "image_id", "x9"), r"annotations\[2\]\.image_id[\s\S]*found: +'x9'"),
        (without(CAPTIONS, "annotations", 2, "image_id", 10), r"annotations\[2\]\.image_id[\s\S]*found: +10"),
        (without(CAPTIONS, "annotations", 2, "id", 101), r"twice[\s\S]*id 101"),
        (without(CAPTIONS, "annotations", 2, "caption", " \n"), r"without words[\s\S]*id 102[\s\S]*--skip_empty"),
        (without(CAPTIONS, "images", 0, "file_name"), r"images\[0\]\.file_name"),
        (without(CAPTIONS, "images", 0, "file_name", "9.jpg"), r"name cannot be made[\s\S]*--split"),
    ],
)
def test_bad_captions_are_refused(tmp_path: Path, vocab: Path, content: Any, message: str) -> None:
    source, out = put(tmp_path / "c.json", content), tmp_path / "c.db"
    with pytest.raises(InputError, match=message) as error:
        prepro.main(["captions", "--annotations", source, "--output", str(out), "--vocab", str(vocab)])
    assert source in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert-tiny", "c.json"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ("[]", r"line 2\.id"),
        ({"image": "a.jpg", "text": "two"}, r"line 2\.id"),
        ({"id": True, "image": "a.jpg", "text": "two"}, r"line 2\.id"),
        ({"id": "2" * 512, "image": "a.jpg", "text": "two"}, r"line 2\.id[\s\S]*511 bytes"),
        ({"id": "2", "text": "two"}, r"line 2\.image"),
        ({"id": "2", "image": "", "text": "two"}, r"line 2\.image"),
        ({"id": "2", "image": "a.jpg", "sentence": "two"}, r"line 2\.text"),
        ({"id": "1", "image": "a.jpg", "text": "two"}, "twice"),
        ({"id": "2", "image": "other/a.jpg", "text": "two"}, "two images get the same name"),
    ],
)
def test_bad_lines_are_refused(tmp_path: Path, vocab: Path, line: Any, message: str) -> None:
    source = put(tmp_path / "mine.jsonl", [{"id": 1, "image": "a.jpg", "text": "dog"}, line])
    with pytest.raises(InputError, match=message) as error:
        prepro.main(["captions", "--jsonl", source, "--output", str(tmp_path / "m.db"), "--vocab", str(vocab)])
    assert source in str(error.value)


@pytest.mark.parametrize(
    ("questions", "annotations", "message"),
    [
        (QUESTIONS, without(ANNOTATIONS, "annotations", 0, "question_id", 7), "have no annotation[\\s\\S]*9000"),
        (QUESTIONS, without(ANNOTATIONS, "annotations", 0, "question_id", 9001), "annotated twice"),
        (QUESTIONS, without(ANNOTATIONS, "annotations", 0, "answers", []), r"annotations\[0\]\.answers"),
        (QUESTIONS, without(ANNOTATIONS, "annotations", 0, "answers", ["x"]), r"annotations\[0\]\.answers\[0\]"),
        (without(QUESTIONS, "questions", 1, "question"), ANNOTATIONS, r"questions\[1\]\.question"),
        (without(QUESTIONS, "questions", 1, "question_id", "9"), ANNOTATIONS, r"questions\[1\]\.question_id"),
        ({"questions": QUESTIONS["questions"]}, ANNOTATIONS, "--split"),
    ],
)
def test_bad_vqa_files_are_refused(tmp_path: Path, vocab: Path, questions: Any, annotations: Any, message: str) -> None:
    files = ["--questions", put(tmp_path / "q.json", questions), "--annotations", put(tmp_path / "a.json", annotations)]
    with pytest.raises(InputError, match=message):
        prepro.main(["vqa", *files, "--output", str(tmp_path / "v.db"), "--vocab", str(vocab)])
    assert not (tmp_path / "v.db").exists()


def test_command_line(tmp_path: Path, vocab: Path) -> None:
    """The script as a user runs it: help, an error without traceback, an output that is not overwritten."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "prepro.py", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    source, out = put(tmp_path / "c.json", CAPTIONS), tmp_path / "c.db"
    arguments = ["captions", "--annotations", source, "--output", str(out)]
    assert "--exclude_images" in call("captions", "--help").stdout
    name = call(*arguments, "--toker", "bert-base-cased")
    assert (name.returncode, name.stdout) == (2, "")
    assert name.stderr.startswith("error: vocabulary not found") and "nothing is downloaded" in name.stderr
    assert call(*arguments, "--toker", str(vocab.parent)).returncode == 0
    again = call(*arguments, "--toker", str(vocab.parent))
    assert again.returncode == 2 and "exists already" in again.stderr


def test_real_files(tmp_path: Path) -> None:
    if not (folder := os.environ.get("UNITER_REALDATA")):
        pytest.skip("UNITER_REALDATA names no folder of real data")
    real = Path(folder)
    common = ["--vocab", str(real / "bert-base-cased"), "--output"]
    captions = real / "coco_captions" / "captions_val2017.json.gz"
    prepro.main(["captions", "--annotations", str(captions), *common, str(tmp_path / "coco.db")])
    assert len(side(tmp_path / "coco.db", "id2len.json")) == 25014
    assert len(side(tmp_path / "coco.db", "img2txts.json")) == 5000
    questions, answers = real / "vqa" / "questions.json", real / "vqa" / "annotations.json"
    files = ["--questions", str(questions), "--annotations", str(answers), "--ans2label", "release"]
    prepro.main(["vqa", *files, *common, str(tmp_path / "vqa.db")])
    release, records = read_ans2label(), read_store(tmp_path / "vqa.db")
    assert [text.id for text in vqa_questions(questions)] == list(records)
    assert records["458752001"]["target"] == {
        "labels": [release["pitcher"], release["catcher"]],
        "scores": [1.0, 0.3],
    }
