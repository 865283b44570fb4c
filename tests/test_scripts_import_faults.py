"""Import of features: other types and shapes, names, odd boxes, what is left out, and what messages say."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from scripts import import_features
from tests.test_scripts_import import BUTD, LXMERT, line, picture, run
from tests.test_scripts_import_layouts import WIDE, header, import_npz, milvlg
from tests.tiny_world import ROOT
from utils.errors import InputError


def test_features_of_openvqa_are_transposed_and_counted(tmp_path, capsys):
    image = milvlg(x=WIDE["features"].T.copy())
    record = import_npz(tmp_path, a=image, b=milvlg())
    for name in ("a.npz", "b.npz"):
        np.testing.assert_array_equal(record[name]["features"], WIDE["features"].astype(np.float16))
    assert "1 images had features as (D, n): they are transposed" in capsys.readouterr().out


def test_square_features_are_not_transposed(tmp_path):
    square = WIDE["features"][:, :5]
    record = import_npz(tmp_path, a=milvlg(x=square))["a.npz"]
    np.testing.assert_array_equal(record["features"], square.astype(np.float16))


@pytest.mark.parametrize(
    "changed",
    [
        {"x": WIDE["features"].reshape(-1)},
        {"x": WIDE["features"][:4]},
        {"x": WIDE["features"][None]},
        {"x": WIDE["features"].reshape(10, -1)},
        {"x": np.ones((5, 0))},
        {"bbox": WIDE["boxes"].reshape(-1)},
        {"bbox": WIDE["boxes"].T.copy()},
        {"bbox": np.array(3.0)},
        {"num_bbox": np.array(5.5)},
        {"num_bbox": np.array([5, 5])},
    ],
)
def test_arrays_of_other_shapes_are_refused_in_the_words_of_npz(tmp_path, changed):
    with pytest.raises(
        InputError, match=r"the file cannot be decoded[\s\S]*a\.jpg\.npz[\s\S]*x \(n, D\) and bbox"
    ) as raised:
        import_npz(tmp_path, a=milvlg(**changed))
    assert not any(word in str(raised.value) for word in ("base64", "line", "allow_pickle"))


def test_sides_may_be_arrays_of_one_number(tmp_path):
    image = milvlg(image_h=np.array([250]), image_w=np.array([[640]]), num_bbox=np.array([5]))
    assert import_npz(tmp_path, a=image)["a.npz"]["norm_bb"][0, 2] == np.float16(560 / 640)


def test_objects_in_an_array_are_named_without_advice_to_run_them(tmp_path):
    with pytest.raises(InputError, match=r"key: +x\n[\s\S]*Python objects") as raised:
        import_npz(tmp_path, a=milvlg(x=np.array([None] * 5)))
    assert "allow_pickle" not in str(raised.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"not a regular file[\s\S]*a\.npz[\s\S]*a pipe"):
        import_features.main(["--npz", str(tmp_path), "--output", str(tmp_path / "out")])


def test_hidden_files_beside_those_of_features_are_counted(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "a.npz", **milvlg())
    (tmp_path / "raw" / "._a.npz").write_bytes(b"Mac OS X")
    import_features.main(["--npz", str(tmp_path / "raw"), "--output", str(tmp_path / "npz")])
    assert [path.name for path in (tmp_path / "npz").glob("*.npz")] == ["a.npz"]
    assert "1 hidden files" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("scale", [1, 0.02])
def test_features_of_another_type_are_named(tmp_path, dtype, scale):
    features = (WIDE["features"] * scale).astype(np.float16 if dtype == np.float16 else np.float32).astype(dtype)
    with pytest.raises(InputError, match=rf"another type[\s\S]*line 1[\s\S]*{np.dtype(dtype)}[\s\S]*as float32"):
        run(tmp_path, line(WIDE | {"features": features}, BUTD))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_features_that_are_whole_numbers_are_named(tmp_path, dtype):
    features = np.random.default_rng(0).integers(0, 200, (5, 2048)).astype(dtype)
    with pytest.raises(InputError, match=rf"another type[\s\S]*line 1[\s\S]*{np.dtype(dtype)} only"):
        run(tmp_path, line(WIDE | {"features": features}, BUTD))


@pytest.mark.parametrize("features", [np.full((5, 2048), 2.0), np.zeros((5, 8)), np.full((5, 8), 1e-8)])
def test_odd_features_are_not_taken_for_another_type(tmp_path, features):
    (record,) = run(tmp_path, line(WIDE | {"features": features.astype(np.float32)}, BUTD)).values()
    np.testing.assert_array_equal(record["features"], features.astype(np.float16))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_boxes_of_another_type_are_refused(tmp_path, dtype):
    with pytest.raises(InputError, match=r"cannot be decoded[\s\S]*boxes of (40|160) bytes for 5 boxes"):
        run(tmp_path, line(WIDE | {"boxes": WIDE["boxes"].astype(dtype)}, BUTD))


def test_classes_that_contradict_the_probabilities_are_refused(tmp_path):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(1601) / 50, 5).astype(np.float32)
    row = picture(1) | {"cls_prob": probabilities, "attrs": probabilities, "classes": probabilities}
    best = probabilities[:, 1:].argmax(1)
    layout = [*LXMERT, "cls_prob", "attrs", "classes"]
    run(tmp_path, line(row | {"objects_id": best}, layout))
    with pytest.raises(InputError, match=r"contradict the class probabilities[\s\S]*line 1[\s\S]*5 of 5 boxes"):
        (tmp_path / "b").mkdir()
        run(tmp_path / "b", line(row | {"objects_id": best + 1}, layout))


def test_boxes_without_area_are_accepted_and_counted(tmp_path, capsys):
    boxes = np.array([[10, 10, 90, 90], [30, 30, 30, 60], [500, 20, 500, 20]], np.float32)
    (record,) = run(tmp_path, line(picture(n=3, boxes=boxes))).values()
    assert sorted((record["norm_bb"][:, 4:] > 0).all(1)) == [False, False, True]
    assert "2 boxes have no area" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("img_id", "flags", "expected"),
    [
        ("42", ["--split", "val2014"], "coco_val2014_000000000042.npz"),
        ("42", [], "42.npz"),
        ("lsmdc_x/x_00.01.46@0.jpg", ["--img_name", "vcr_{img_id}.npz"], "vcr_x_00.01.46@0.npz"),
        ("COCO_val2014_000000000042.jpg", [], "coco_val2014_000000000042.npz"),
        ("v1.5", [], "v1.5.npz"),
    ],
)
def test_names_are_those_that_texts_use(tmp_path, img_id, flags, expected):
    assert list(run(tmp_path, line(picture(img_id=img_id)), *flags)) == [expected]


def test_a_split_without_effect_is_said(tmp_path, capsys):
    assert list(run(tmp_path, line(picture(img_id="dog")), "--split", "val2014")) == ["dog.npz"]
    assert "--split val2014 has no effect on 1 names: give an --img_name with {split}" in capsys.readouterr().out


def test_a_header_with_a_hash_is_obeyed(tmp_path):
    order = [BUTD[k] for k in (0, 2, 1, 3, 4, 5)]
    (record,) = run(tmp_path, "#" + header(order) + line(WIDE, order)).values()
    assert record["norm_bb"][0, 2] == np.float16(560 / 640)


def test_a_row_that_does_not_fit_its_header_is_compared_with_it(tmp_path):
    layout = [*BUTD, "cls_prob", "note"]
    with pytest.raises(InputError, match=r"than the header[\s\S]*line 2\n[\s\S]*6 columns\n[\s\S]*8: img_id, img_w"):
        run(tmp_path, header(layout) + line(WIDE, BUTD))


def test_a_file_of_bad_rows_only_says_why_and_is_listed(tmp_path, capsys):
    bad = line(picture(0, objects_conf=np.full(5, 70, np.float32)))
    with pytest.raises(InputError, match=r"hold no images[\s\S]*1 bad items[\s\S]*line 1[\s\S]*not probabilities"):
        run(tmp_path, bad, "--skip_bad")
    (item,) = map(json.loads, (tmp_path / "npz.left_out.jsonl").read_text().splitlines())
    assert "line 1" in item["item"] and "not probabilities" in item["reason"]
    assert "1 bad items left out" in capsys.readouterr().out


def test_a_script_runs_by_a_link_to_it(tmp_path):
    for script in ("scripts/import_features.py", "scripts/demo_world/make_demo_data.py"):
        link = tmp_path / "link.py"
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT / script)
        done = subprocess.run([sys.executable, str(link), "--help"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("usage"), done.stderr
