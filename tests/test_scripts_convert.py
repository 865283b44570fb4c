"""convert_imgdir reproduces the release's stores in every variant."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from data.img_store import ImageStore
from data.lmdb_io import Reader
from data.records import decode
from tests.golden_data import GOLDEN
from tests.tiny_world import ROOT

FORMATS = GOLDEN / "data_formats"
VARIANTS = {
    "all": ["--keep_all"],
    "all_compressed": ["--keep_all", "--compress"],
    "feat_numbb36": ["--conf_th", "-1", "--num_bb", "36"],
    "feat_th0.2_max100_min10": [],
    "feat_th0.2_max100_min10_compressed": ["--compress"],
}


def convert(img_dir, output, *flags):
    script = [sys.executable, ROOT / "scripts" / "convert_imgdir.py", "--nproc", "1"]
    command = [*script, "--img_dir", img_dir, "--output", output, *flags]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd="/")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_references_store_is_reproduced(tmp_path, name):
    done = convert(FORMATS / "raw_npz" / "nlvr2_dev", tmp_path, *VARIANTS[name])
    assert done.returncode == 0, done.stderr
    ours, golden = Reader(tmp_path / name), Reader(FORMATS / "img_db" / "nlvr2_dev" / name)
    assert [key for key, _ in ours.items()] == [key for key, _ in golden.items()]
    for key, value in golden.items():
        if key == b"__keys__":
            assert sorted(json.loads(bytes(ours.get(key)))) == sorted(json.loads(bytes(value)))
            continue
        compressed = name.endswith("_compressed")
        a, b = decode(ours.get(key), compressed), decode(value, compressed)
        assert a.keys() == b.keys()
        for array in a:
            assert a[array].dtype == b[array].dtype
            np.testing.assert_array_equal(a[array], b[array])
    if "th0.2" in name:
        counts = "nbb_th0.2_max100_min10.json"
        golden_counts = json.loads((FORMATS / "img_db" / "nlvr2_dev" / counts).read_text())
        assert json.loads((tmp_path / counts).read_text()) == golden_counts
    golden.close()
    ours.close()


@pytest.mark.parametrize("spoil", ["nan", "beyond float16", "no boxes", "not an npz", "uneven"])
def test_a_bad_file_is_named_and_nothing_is_left(tmp_path, spoil):
    raw = tmp_path / "raw"
    raw.mkdir()
    for k in range(3):
        rows = {"features": np.ones((4, 8)), "norm_bb": np.tile([0, 0, 1, 1, 1, 1], (4, 1)), "conf": np.ones(4)}
        if k == 1 and spoil == "nan":
            rows["features"][2, 3] = np.nan
        elif k == 1 and spoil == "beyond float16":
            rows["features"][2, 3] = 70000
        elif k == 1 and spoil == "no boxes":
            rows = {name: array[:0] for name, array in rows.items()}
        elif k == 1 and spoil == "uneven":
            rows["conf"] = np.ones(3)
        np.savez(raw / f"{k}.npz", **rows)
    if spoil == "not an npz":
        (raw / "1.npz").write_text("no")
    done = convert(raw, tmp_path / "out")
    assert done.returncode == 2 and "1.npz" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == []


def test_the_converted_store_is_read(tmp_path):
    convert(FORMATS / "raw_npz" / "nlvr2_dev", tmp_path / "ours")
    shutil.copytree(FORMATS / "img_db" / "nlvr2_dev", tmp_path / "golden")  # opening a store writes an index beside it
    ours, golden = ImageStore(tmp_path / "ours"), ImageStore(tmp_path / "golden")
    assert [ours.name(k) for k in range(len(ours))] == [golden.name(k) for k in range(len(golden))]
    np.testing.assert_array_equal(ours.n_announced, golden.n_announced)
    ours.close()
    golden.close()
