"""Names of images in stores: folders, suffixes and splits of the annotations' file names, and wrong formats."""

import json
from pathlib import Path

import pytest

from prepare.output import NpzNames
from tests.prepro_case import prepare, variant
from tests.test_prepro import ANNOTATIONS, CAPTIONS, QUESTIONS, put
from utils.errors import InputError


def captions(folder: Path, *images: str) -> list[str]:
    """The options that name a jsonl file with one caption for each of these images."""
    rows = [{"id": str(index), "image": image, "text": "a dog"} for index, image in enumerate(images)]
    return ["captions", "--jsonl", put(folder / "mine.jsonl", rows)]


def keys(folder: Path, *options: str, name: str = "x.db") -> list[str]:
    return [record["img_fname"] for record in prepare(folder, *options, name=name).values()]


@pytest.mark.parametrize(
    ("image", "key"),
    [
        ("a/b.JPG", "b.npz"),
        ("a\\b.png", "b.npz"),
        ("Dr. Who", "Dr. Who.npz"),
        ("v1.5", "v1.5.npz"),
        ("v1.5.heic", "v1.5.npz"),
        ("x_00.01.46@0.jpg", "x_00.01.46@0.npz"),
    ],
)
def test_only_folders_and_suffixes_of_images_are_removed(tmp_path: Path, image: str, key: str) -> None:
    assert keys(tmp_path, *captions(tmp_path, image)) == [key]


def test_two_spellings_of_one_path_are_one_image(tmp_path: Path) -> None:
    assert keys(tmp_path, *captions(tmp_path, "./a.jpg", "a.jpg", "b/../a.jpg")) == ["a.npz"] * 3
    assert keys(tmp_path, *captions(tmp_path, "v1.5", "v1.6"), name="y.db") == ["v1.5.npz", "v1.6.npz"]
    with pytest.raises(InputError, match=r"two images get the same name[\s\S]*x/a\.jpg and y/a\.jpg"):
        prepare(tmp_path, *captions(tmp_path, "x/a.jpg", "y/a.jpg"), name="z.db")


def test_folders_of_windows_hide_no_split_of_coco(tmp_path: Path) -> None:
    content = variant(CAPTIONS, "images", 0, "file_name", to="val2014\\COCO_val2014_000000000009.jpg")
    files = ["captions", "--annotations", put(tmp_path / "c.json", content)]
    assert keys(tmp_path, *files)[0] == "coco_val2014_000000000009.npz"
    assert NpzNames().name("d\\COCO_val2014_000000000009.jpg", None, "a.zip") == "coco_val2014_000000000009.npz"
    assert NpzNames().name("d\\a.png", None, "a.zip") == "a.npz"


def test_a_split_that_contradicts_an_image_is_refused(tmp_path: Path) -> None:
    files = ["captions", "--annotations", put(tmp_path / "c.json", CAPTIONS)]
    message = r"c\.json[\s\S]*id 100[\s\S]*--split {}[\s\S]*expected: val2014, as in COCO_val2014_000000000009\.jpg"
    for split in ("train2014", "val2017", "VAL2014"):
        with pytest.raises(InputError, match=message.format(split)):
            prepare(tmp_path, *files, "--split", split)
    with pytest.raises(InputError, match=r"id 101[\s\S]*--split train2017[\s\S]*val2017, as in 000000000025\.jpg"):
        prepare(tmp_path, "captions", "--annotations", put(tmp_path / "d.json", only(25)), "--split", "train2017")
    vqa = ["--questions", put(tmp_path / "q.json", QUESTIONS), "--annotations", put(tmp_path / "a.json", ANNOTATIONS)]
    with pytest.raises(InputError, match=r"--split val2014[\s\S]*train2014, as in the file"):
        prepare(tmp_path, "vqa", *vqa, "--split", "val2014")
    with pytest.raises(InputError, match=r"a\.jpg[\s\S]*--split train2014[\s\S]*val2014"):
        NpzNames(None, "train2014").name("COCO_val2014_000000000042.jpg", None, "COCO_a.jpg")
    assert not (tmp_path / "x.db").exists()


def only(image_id: int) -> dict[str, object]:
    """The captions of one image."""
    pairs = (("images", "id"), ("annotations", "image_id"))
    return {name: [entry for entry in CAPTIONS[name] if entry[key] == image_id] for name, key in pairs}


def test_a_split_that_the_image_has_too_or_that_nobody_says_is_taken(tmp_path: Path) -> None:
    """Features of 2014's files fit captions of 2017: the images are the same, under new names."""
    content = json.dumps(only(25)).encode()
    files = ["captions", "--annotations", put(tmp_path / "c.json", content), "--split"]
    assert keys(tmp_path, *files, "val2017") == ["coco_val2017_000000000025.npz"]
    assert keys(tmp_path, *files, "train2014", name="y.db") == ["coco_train2014_000000000025.npz"]
    assert NpzNames(None, "val2014").name("COCO_val2014_000000000042.jpg", None, "a") == "coco_val2014_000000000042.npz"


@pytest.mark.parametrize(
    ("pattern", "reason"), [("{nothing}.npz", "no field 'nothing'"), ("{stem", "expected '}'"), ("{image_id:q}", "'q'")]
)
def test_a_format_that_makes_no_name_is_refused_at_once_even_with_skip_bad(
    tmp_path: Path, pattern: str, reason: str
) -> None:
    with pytest.raises(InputError, match=rf"key: +--img_name[\s\S]*{reason}[\s\S]*{{split}}, {{image_id}}") as error:
        prepare(tmp_path, *captions(tmp_path, "a.jpg"), "--img_name", pattern, "--skip_bad")
    assert "--skip_bad" not in str(error.value)
    with pytest.raises(InputError, match=reason):
        NpzNames(pattern)


def test_a_field_that_an_image_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"id 0[\s\S]*: {split} is unknown for this image[\s\S]*give --split"):
        prepare(tmp_path, *captions(tmp_path, "a.jpg"), "--img_name", "{split}_{stem}.npz")


def test_no_missing_image_is_a_good_list(tmp_path: Path) -> None:
    line = {"identifier": "dev-850-0-3", "sentence": "a dog", "label": "True"}
    files = ["--annotations", put(tmp_path / "dev.json", [line]), "--missing_imgs", put(tmp_path / "m.json", b"[]")]
    assert list(prepare(tmp_path, "nlvr2", *files)) == ["dev-850-0-3"]
