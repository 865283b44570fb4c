"""convert_imgdir: what arrays must mean, the order of boxes, bad files, and runs that were stopped."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from data.lmdb_io import Reader
from data.records import decode
from scripts import convert_imgdir
from tests.tiny_world import ROOT

CORNERS = np.array([[0, 0, 1, 1], [0.1, 0.2, 0.5, 0.6], [0.3, 0.3, 0.4, 0.9], [0, 0.5, 0.25, 0.75]])


def arrays(**changed):
    """The arrays of an image with four boxes, the most confident last."""
    fields = {
        "features": np.arange(32.0).reshape(4, 8),
        "norm_bb": np.concatenate([CORNERS, CORNERS[:, 2:] - CORNERS[:, :2]], 1),
        "conf": np.array([0.1, 0.3, 0.2, 0.9]),
        "soft_labels": np.eye(4, 5) * 0.9 + 0.02,
    }
    return fields | changed


def files(folder, *images):
    (folder / "raw").mkdir()
    for k, image in enumerate(images):
        np.savez(folder / "raw" / f"{k}.npz", **image)
    return folder / "raw"


def convert(folder, *flags):
    command = ["--img_dir", str(folder / "raw"), "--output", str(folder / "out"), "--nproc", "1", *flags]
    return convert_imgdir.write(convert_imgdir.command_line().parse_args(command))


def records(folder, variant):
    reader = Reader(folder / "out" / variant)
    content = {bytes(key).decode(): bytes(value) for key, value in reader.items()}
    reader.close()
    return content


def record(folder, variant, name="0.npz"):
    return decode(memoryview(records(folder, variant)[name]), False)


@pytest.mark.parametrize(
    ("flags", "variant", "order"),
    [
        (["--min_bb", "2"], "feat_th0.2_max100_min2", [3, 1]),  # the threshold is strict: 0.2 is not above it
        (["--keep_all"], "all", [3, 1, 2, 0]),
        (["--conf_th", "-1", "--num_bb", "3"], "feat_numbb3", [3, 1, 2, 0]),
        (["--conf_th", "-1", "--num_bb", "4"], "feat_numbb4", [0, 1, 2, 3]),  # true boxes, whose order has a meaning
    ],
)
def test_boxes_that_compete_are_sorted_with_all_their_arrays(tmp_path, capsys, flags, variant, order):
    files(tmp_path, arrays())
    assert convert(tmp_path, *flags) is None
    converted = record(tmp_path, variant)
    for name, array in arrays().items():
        np.testing.assert_array_equal(converted[name], array.astype(np.float16)[order])
    said = "stay so with --conf_th -1" if order == [0, 1, 2, 3] else "now the most confident comes first"
    assert f"1 images {'have' if 'stay' in said else 'had'} boxes" in (printed := capsys.readouterr().out)
    assert said in printed


def test_confidences_may_be_a_column_as_in_the_releases_extractor(tmp_path):
    files(tmp_path, arrays(conf=np.array([[0.1], [0.3], [0.2], [0.9]])))
    assert convert(tmp_path, "--keep_all") is None
    assert record(tmp_path, "all")["conf"].tolist() == [[np.float16(c)] for c in (0.9, 0.3, 0.2, 0.1)]


def test_boxes_without_area_and_repeated_boxes_are_counted(tmp_path, capsys):
    corners = CORNERS.copy()
    corners[1] = corners[0]
    corners[3, 2] = corners[3, 0]
    files(tmp_path, arrays(norm_bb=np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1)))
    assert convert(tmp_path, "--keep_all") is None
    printed = capsys.readouterr().out
    assert "1 boxes have no area" in printed and "1 boxes are the same as another" in printed


XYWH = np.concatenate([CORNERS[:, :2], CORNERS[:, 2:] - CORNERS[:, :2]] * 1, 1)
BAD = {
    "x, y, w, h": (arrays(norm_bb=np.concatenate([XYWH, XYWH[:, 2:]], 1)), "with w = x2 - x1"),
    "swapped corners": (arrays(norm_bb=arrays()["norm_bb"][:, [2, 3, 0, 1, 4, 5]]), "with w = x2 - x1"),
    "pixels": (arrays(norm_bb=arrays()["norm_bb"] * 300), "from 0 to 300; expected shares"),
    "seven columns": (arrays(norm_bb=np.ones((4, 7))), r"norm_bb \(4, 7\)"),
    "a percentage": (arrays(conf=np.array([10.0, 20, 30, 40])), "from 10 to 40; expected n probabilities"),
    "NaN confidence": (arrays(conf=np.array([np.nan, 0.2, 0.3, 0.4])), "conf holds NaN"),
    "logits": (arrays(soft_labels=np.eye(4, 5) * 9 - 3), "from -3 to 6, rows sum to"),
    "zeros": (arrays(soft_labels=np.zeros((4, 5))), "rows sum to 0 .. 0; expected probabilities"),
    "flat labels": (arrays(soft_labels=np.full(4, 0.2)), r"soft_labels \(4,\)"),
    "MILVLG": ({"x": np.ones((4, 8)), "bbox": np.ones((4, 4))}, "scripts.import_features --npz"),
    "text": (arrays(conf=np.array(["a", "b", "c", "d"])), "an array holds no numbers"),
    "an object": (arrays(conf=np.array([None] * 4)), "cannot be read: it holds Python objects"),
    "1600 classes": (arrays(features=np.ones((4, 2048)), soft_labels=np.full((4, 1600), 1 / 1600)), r"\(n, 1601\)"),
    "another width": (arrays(features=np.ones((4, 9))), r"\[9, 5\] wide, those of other files \[8, 5\]"),
    "fewer classes": (arrays(soft_labels=np.full((4, 4), 0.25)), r"\[8, 4\] wide, those of other files \[8, 5\]"),
}


@pytest.mark.parametrize("kind", BAD)
def test_arrays_with_another_meaning_are_refused_or_left_out(tmp_path, capsys, kind):
    image, expected = BAD[kind]
    files(tmp_path, arrays(), image, arrays())
    problem = convert(tmp_path)
    assert "1.npz" in problem and "--skip_bad" in problem
    assert re.search(expected, problem), problem
    assert convert(tmp_path, "--skip_bad") is None
    variant = "feat_th0.2_max100_min10"
    assert sorted(records(tmp_path, variant)) == ["0.npz", "2.npz", "__keys__"]
    assert json.loads(records(tmp_path, variant)["__keys__"]) == ["0.npz", "2.npz"]
    listing = json.loads((tmp_path / "out" / f"left_out_{variant}.json").read_text())
    assert list(listing) == [str(tmp_path / "raw" / "1.npz")]
    assert "1 bad files left out" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "out" / "nbb_th0.2_max100_min10.json").read_text())) == ["0.npz", "2.npz"]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(files(tmp_path, arrays()) / "1.npz")
    assert "1.npz: the file cannot be read: not a regular file" in convert(tmp_path)


KILLED = """
import os, sys
from scripts import convert_imgdir
real, convert_imgdir.COMMIT_EVERY = convert_imgdir.convert_all, 4
def convert_all(*args):
    for n, answer in enumerate(real(*args)):
        n != 10 or os._exit(9)
        yield answer
convert_imgdir.convert_all = convert_all
convert_imgdir.write(convert_imgdir.command_line().parse_args(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_and_ends_as_one_never_killed(tmp_path, monkeypatch, capsys):
    raw = files(tmp_path, *(arrays(conf=np.array([0.9, 0.5, 0.3, 0.05 * k])) for k in range(20)))
    flags = ["--img_dir", raw, "--output", tmp_path / "out", "--nproc", "1"]
    command = [sys.executable, "-c", KILLED, *map(str, flags)]
    assert subprocess.run(command, cwd=ROOT).returncode == 9
    np.savez(raw / "0.npz", **arrays(features=np.ones((4, 8))))  # changed since
    (raw / "1.npz").unlink()
    converted = []
    real = convert_imgdir.convert_all
    monkeypatch.setattr(convert_imgdir, "convert_all", lambda files, args: converted.extend(files) or real(files, args))
    assert convert(tmp_path) is None
    assert "going on" in capsys.readouterr().out and len(converted) == 1 + 20 - 8  # eight were committed
    (tmp_path / "out").rename(tmp_path / "resumed")
    assert convert(tmp_path) is None
    (tmp_path / "out").rename(tmp_path / "whole")
    stores = []
    for name in ("resumed", "whole"):
        (tmp_path / name).rename(tmp_path / "out")
        table = (tmp_path / "out" / "nbb_th0.2_max100_min10.json").read_text()
        stores.append((records(tmp_path, "feat_th0.2_max100_min10"), table, sorted(os.listdir(tmp_path / "out"))))
        (tmp_path / "out").rename(tmp_path / name)
    assert stores[0] == stores[1] and "1.npz" not in stores[0][0]


def test_a_run_with_other_options_starts_afresh(tmp_path):
    files(tmp_path, arrays(), arrays(conf=np.ones(4) * 7))
    assert "1.npz" in convert(tmp_path, "--min_bb", "1", "--max_bb", "2")
    hidden = tmp_path / "out" / ".feat_th0.2_max2_min1.partial"
    hidden.rename(tmp_path / "out" / ".all.partial")
    assert convert(tmp_path, "--keep_all", "--skip_bad") is None
    assert len(record(tmp_path, "all")["conf"]) == 4


def test_a_killed_worker_is_noticed(tmp_path, monkeypatch):
    files(tmp_path, arrays())
    with monkeypatch.context() as patch:
        patch.setattr(convert_imgdir, "load", lambda path: os.kill(os.getpid(), 9))
        assert "exit status -9" in (problem := convert(tmp_path)) and "--nproc" in problem
    assert convert(tmp_path) is None
