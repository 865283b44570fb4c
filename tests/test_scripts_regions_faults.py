"""Region features without a detector: boxes and pictures that do not fit each other, and files that are no pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.test_scripts_regions import describe_all, instances
from utils.errors import InputError


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of 100 × 60 pixels, a.png and b.png."""
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (100, 60), "red").save(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def describe(folder, pictures, boxes, *flags):
    return describe_all(folder / "npz", "--images", pictures, "--boxes", instances(folder, boxes), *flags)


@pytest.mark.parametrize("box", [[50, 30, 70, 20], [-20, 0, 50, 50], [10, 40, 20, 30], [60, 30, 90, 50]])
def test_a_box_far_outside_is_refused_or_left_out(tmp_path, pictures, capsys, box):
    boxes = {"a.png": [[0, 0, 50, 50], box], "b.png": [[0, 0, 50, 50]]}
    with pytest.raises(InputError, match=r"a box lies outside[\s\S]*a\.png[\s\S]*100 × 60 pixels[\s\S]*not x1, y1"):
        describe(tmp_path, pictures, boxes)
    with pytest.raises(InputError, match="a box lies outside"):
        flags = ("--images", pictures, "--imitate_detector", instances(tmp_path, boxes))
        describe_all(tmp_path / "npz", *flags)
    assert list(describe(tmp_path, pictures, boxes, "--skip_bad")) == ["b.npz"]


def test_a_box_a_little_outside_is_cut_and_counted(tmp_path, pictures, capsys):
    boxes = {"a.png": [[-2, 0, 50, 63], [0, 0, 100, 60]], "b.png": [[95, 0, 8, 8], [100, 0, 9, 9]]}
    records = describe(tmp_path, pictures, boxes)
    assert records["a.npz"]["norm_bb"][0].tolist() == [0, 0, np.float16(0.48), 1, np.float16(0.48), 1]
    printed = capsys.readouterr().out
    assert "2 boxes end a little outside their image, and are cut" in printed and "1 boxes left out" in printed


def test_boxes_without_size_are_named_as_such(tmp_path, pictures):
    with pytest.raises(InputError, match=r"holds a pixel[\s\S]*a\.png[\s\S]*at least 1 pixel wide[\s\S]*have a size"):
        describe(tmp_path, pictures, {"a.png": [[5, 5, 0, 9]]}, "--grid")


def test_names_count_without_their_suffix(tmp_path, pictures, capsys):
    records = describe(tmp_path, pictures, {"a.jpg": [[0, 0, 50, 30]], "b.png": [[0, 0, 50, 60]]}, "--grid")
    assert len(records["a.npz"]["conf"]) == len(records["b.npz"]["conf"]) == 1
    assert "1 pictures have another suffix" in capsys.readouterr().out


def test_folders_of_file_names_do_not_count(tmp_path, pictures, capsys):
    records = describe(tmp_path, pictures, {"train\\a.png": [[0, 0, 50, 30]], "train/b.png": [[0, 0, 50, 60]]})
    assert len(records["a.npz"]["conf"]) == len(records["b.npz"]["conf"]) == 1
    assert "suffix" not in capsys.readouterr().out


def test_an_exact_name_comes_before_one_without_suffix(tmp_path, pictures):
    records = describe(tmp_path, pictures, {"a.png": [[0, 0, 50, 30]], "a.jpg": [[0, 0, 10, 10]]}, "--grid")
    assert records["a.npz"]["norm_bb"][0, 2] == 0.5 and len(records["b.npz"]["conf"]) == 36


@pytest.mark.parametrize("boxes", [{"x.png": [[0, 0, 5, 5]]}, {}, {"a.jpg": [], "a.gif": []}])
def test_boxes_of_other_pictures_are_refused_with_a_grid_too(tmp_path, pictures, boxes):
    with pytest.raises(InputError, match=r"no picture is in the file of boxes[\s\S]*instances\.json[\s\S]*a\.png"):
        describe(tmp_path, pictures, boxes, "--grid")
    assert not (tmp_path / "npz").exists()


def test_a_split_without_effect_is_said(tmp_path, pictures, capsys):
    describe_all(tmp_path / "npz", "--images", pictures, "--split", "val2014")
    assert "--split val2014 has no effect on 2 names" in capsys.readouterr().out


def test_if_all_pictures_are_bad_the_first_reason_is_said_and_all_are_listed(tmp_path, pictures, capsys):
    for picture in pictures.iterdir():
        picture.write_bytes(b"")
    with pytest.raises(InputError, match=r"no image could be[\s\S]*2 bad items[\s\S]*a\.png[\s\S]*empty file"):
        describe_all(tmp_path / "npz", "--images", pictures, "--skip_bad")
    assert "2 bad items left out (2 × the image cannot be read)" in capsys.readouterr().out
    assert len((tmp_path / "npz.left_out.jsonl").read_text().splitlines()) == 2


def test_the_order_of_boxes_is_still_written(tmp_path, pictures):
    path = instances(tmp_path, {"a.png": [[0, 0, 5, 5], [-2, 0, 9, 9]], "b.png": [[0, 0, 9, 9]]})
    content = json.loads(path.read_text())
    for number, entry in enumerate(content["annotations"]):
        entry["id"] = number + 7
    path.write_text(json.dumps(content))
    describe_all(tmp_path / "npz", "--images", pictures, "--boxes", path)
    orders = json.loads((tmp_path / "npz" / "iid_to_ann_ids.json").read_text())
    assert orders == {"iid_to_ann_ids": {"100": [7, 8], "101": [9]}}
