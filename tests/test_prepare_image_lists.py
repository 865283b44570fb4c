"""Lists of images that options name: every form is read, or refused with the place; none silently does nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from prepare.annotations import Text
from prepare.image_lists import image_list
from tests.prepro_case import prepare
from utils.errors import InputError

PICTURES = ["VG_100K/2370799.jpg", "VG_100K_2/42.jpg", "COCO_val2014_000000000009.jpg", "my dog.jpg", "dog-42.jpg"]
PICTURES += ["dog, brown.jpg", "x_00.01.46@0.jpg"]


def exclude(folder: Path, content: bytes, *options: str) -> set[str]:
    """The pictures that are gone after `--exclude_images` with a list of this content."""
    rows = [{"id": str(k), "image": name, "text": "a dog"} for k, name in enumerate(PICTURES)]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "list.txt").write_bytes(content)
    files = ["--jsonl", str(folder / "mine.jsonl"), "--exclude_images", str(folder / "list.txt"), *options]
    return {PICTURES[int(key)] for key in set(map(str, range(len(rows)))) - set(prepare(folder, "captions", *files))}


BOTH = set(PICTURES[:2])


@pytest.mark.parametrize(
    ("content", "gone"),
    [
        (b"[42, 2370799]", BOTH),
        (b'\xef\xbb\xbf["42", "VG_100K/2370799.jpg"]\n', BOTH),
        (b"42\n2370799", BOTH),
        (b"\xef\xbb\xbf42\r\n\r\n2370799\r\n", BOTH),
        ("42\n2370799".encode("utf-16"), BOTH),
        (b"42,2370799\n", BOTH),
        (b"42,\n2370799,\n", BOTH),
        (b"42 2370799\n", BOTH),
        (b"# of the test split\n000000000042\n02370799\n", BOTH),
        (b"image_id,split\n42,test\n2370799,test\n", BOTH),
        (b",id,file_name\n0,9,42.jpg\n1,42,2370799.jpg\n", BOTH),
        (b"file_name;split\n42.jpg;9\n2370799.jpg;9\n", BOTH),
        (b"'42.jpg',\n\"2370799.jpg\",\n", BOTH),
        (b"D:\\images\\42.jpg\nhttp://a.org/b/2370799.jpg\n", BOTH),
        (b"42.npz\n2370799.npz", BOTH),
        (b"val2014/COCO_val2014_000000000009.jpg 9\n", {PICTURES[2]}),
        (b"COCO_val2014_000000000009.jpg,9\n", {PICTURES[2]}),
        (b"coco_val2014_000000000009.npz\nCOCO_val2014_000000000042.jpg", {PICTURES[2]}),  # 42 is another dataset's
        (b"COCO_train2014_000000000009_398406.jpg\n", {PICTURES[2]}),  # as in refs(unc).p
        (b'my dog.jpg\n"dog, brown.jpg"\nx_00.01.46@0', {PICTURES[3], *PICTURES[5:]}),
        (b"42 # blurry, dark\n2370799.jpg   # twice # or more\n", BOTH),
        (b"42,2370799 #both", BOTH),
        (b"my dog.jpg # sleeps\nsong # 2.jpg", {PICTURES[3]}),  # the second is a name
    ],
)
def test_forms_of_a_list(tmp_path: Path, content: bytes, gone: set[str]) -> None:
    assert exclude(tmp_path, content) == gone


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"42\n-42\n", r"list\.txt[\s\S]*line 2[\s\S]*'-42'"),
        (b"42.0", "line 1"),
        (b"42\x00\n", "line 1"),
        (b"42\n43.jpg 44.jpg\n", "line 2"),
        (b"42\n" + b"9" * 5000, "line 2"),
        (b'42\n{"image_id": 42}\n', "line 2"),
        (b'{"image_id": 42}\n{"image_id": 9}\n', "line 1"),
        (b"42 dog", r"line 1[\s\S]*'42 dog'[\s\S]*suffix"),
        (b"42\n- 42", "line 2"),
        (b"42\nhello world", "line 2"),
        (b"42\n// x", "line 2"),
        (b"dog 42", "line 1"),
        (b'["42", "hello world"]', r"\[1\]"),
        (b"42,900\n9,901\n", r"line 1[\s\S]*columns|line 1[\s\S]*its number"),
        (b"42\ndog, brown.jpg\n", r"line 2[\s\S]*columns"),
        (b"image_id,split\n42\n", r"line 2[\s\S]*2 columns"),
        (b"COCO_val2014_000000000009.jpg 42\n", r"line 1[\s\S]*its number, which is 9"),  # a label, not the number
        (b'{"images": [42]}', r"the whole file[\s\S]*the keys images[\s\S]*a list of image names or numbers"),
        (b"[[42]]", r"key: +\[0\]"),
        (b"[42, null]", r"key: +\[1\]"),
        (b"[42, 9", "not a JSON file"),
        (b"\xff\xff\n", r"list\.txt"),
        (b"\n", "names no image"),
        (b"[]", "names no image"),
        (b"77\nother.jpg", r"no entry of the list[\s\S]*--exclude_images[\s\S]*77, other\.jpg[\s\S]*2370799\.jpg"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        exclude(tmp_path, content, "--skip_bad")
    assert not (tmp_path / "x.db").exists()


def test_entries_that_match_nothing_are_counted(tmp_path: Path, capsys: Any) -> None:
    assert exclude(tmp_path, b"77\n42\nother.jpg\n") == {PICTURES[1]}
    assert "--exclude_images: 2 of 3 entries match no image, such as 77, other.jpg" in capsys.readouterr().out


def test_numbers_of_the_annotations_come_before_those_of_file_names(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("42")
    images = image_list(tmp_path / "list.txt")
    assert not images.has(Text(id="a", text="", image_id=7, file_name="42.jpg"), str)
    assert images.has(Text(id="a", text="", image_id=42, file_name="7.jpg"), str)


def test_a_selection_of_nothing_says_what_the_list_matched(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"no text is left[\s\S]*mine\.jsonl[\s\S]*--image_list: 1 of 1 entries match no image, such as 77",
    ):
        exclude(tmp_path, b"42", "--image_list", str(_list(tmp_path / "only.txt", "77")))


def _list(path: Path, content: str) -> Path:
    path.write_text(content)
    return path
