"""convert_imgdir: odd files beside good ones, arrays of other types, variants of other images, the machine's limits."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from data.lmdb_io import Reader
from tests.test_scripts_convert_checks import CORNERS, arrays, convert, files, record, records
from tests.tiny_world import ROOT

VARIANT = "feat_th0.2_max100_min10"


def run(*command, **options):
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=60, **options)


def other_images(folder, *images, first=0):
    """Replace the files to convert."""
    for path in (folder / "raw").iterdir():
        path.unlink()
    for number, image in enumerate(images, first):
        np.savez(folder / "raw" / f"{number}.npz", **image)


def test_hidden_files_are_left_out_and_counted(tmp_path, capsys):
    (files(tmp_path, arrays()) / "._0.npz").write_bytes(b"Mac OS X")
    assert convert(tmp_path) is None
    assert sorted(records(tmp_path, VARIANT)) == ["0.npz", "__keys__"]
    assert "1 hidden files" in capsys.readouterr().out


def test_more_arrays_are_stored_if_they_have_a_row_of_numbers_for_each_box(tmp_path):
    more = {"names": np.array(list("abcd")), "image_id": np.array([7]), "size": np.ones((2, 2)), "attrs": np.arange(4)}
    files(tmp_path, arrays(**more))
    assert convert(tmp_path, "--keep_all") is None
    stored = record(tmp_path, "all")
    assert set(stored) == {*arrays(), "attrs"} and stored["attrs"].tolist() == [3, 1, 2, 0]  # in the order of the boxes


def test_whole_numbers_become_float16_and_are_sorted_rightly(tmp_path):
    norm_bb = np.tile([0, 0, 1, 1, 1, 1], (4, 1)).astype(np.uint8)
    conf = np.array([0, 1, 0, 1], np.uint8)
    files(tmp_path, arrays(norm_bb=norm_bb, conf=conf, features=np.arange(32, dtype=np.int32).reshape(4, 8)))
    assert convert(tmp_path, "--keep_all") is None
    stored = record(tmp_path, "all")
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}
    assert stored["conf"].tolist() == [1, 1, 0, 0] and stored["features"][:, 0].tolist() == [8, 24, 0, 16]


def test_confidences_may_be_true_or_false(tmp_path):
    files(tmp_path, arrays(conf=np.array([False, True, False, True])))
    assert convert(tmp_path, "--keep_all") is None
    assert record(tmp_path, "all")["conf"].tolist() == [1, 1, 0, 0]


def test_the_screen_tells_boxes_and_classes(tmp_path, capsys):
    files(tmp_path, arrays(), arrays())
    assert convert(tmp_path) is None
    printed = capsys.readouterr().out
    assert "2 images with 8 boxes in" in printed  # min_bb is 10
    assert "soft labels have 5 classes; mrc and mrckl need 1,601" in printed


@pytest.mark.parametrize("flags", [[], ["--compress"]])
def test_variants_of_one_folder_stand_beside_each_other(tmp_path, flags):
    files(tmp_path, arrays(), arrays(features=np.ones((4, 8))))
    assert convert(tmp_path, *flags) is None
    assert convert(tmp_path, "--keep_all") is None
    np.savez(tmp_path / "raw" / "2.npz", **arrays())  # the folder has grown
    assert convert(tmp_path, "--conf_th", "-1", "--num_bb", "1") is None
    assert len(json.loads(records(tmp_path, "feat_numbb1")["__keys__"])) == 3


@pytest.mark.parametrize("flags", [[], ["--compress"]])
def test_a_variant_of_other_features_is_refused(tmp_path, flags):
    files(tmp_path, arrays())
    assert convert(tmp_path, *flags) is None
    for other in (arrays()["features"] + 0.5, np.ones((4, 9))):
        other_images(tmp_path, arrays(features=other))
        problem = convert(tmp_path, "--keep_all")
        assert f"{VARIANT}{'_compressed' if flags else ''} has other features of 0.npz than --img_dir" in problem
    assert not (tmp_path / "out" / "all").exists() and not (tmp_path / "out" / ".all.partial").exists()


def test_a_variant_of_other_images_is_refused(tmp_path):
    files(tmp_path, arrays(), arrays())
    assert convert(tmp_path) is None
    other_images(tmp_path, arrays(), arrays(), first=1)
    assert "is of other images, such as 0.npz, which --img_dir lacks; give another --output" in convert(
        tmp_path, "--keep_all"
    )


def test_a_damaged_variant_does_not_stop_another(tmp_path):
    files(tmp_path, arrays())
    (tmp_path / "out" / "all").mkdir(parents=True)
    (tmp_path / "out" / "all" / "data.mdb").write_bytes(b"no store" * 1000)
    assert convert(tmp_path) is None


def test_the_store_may_lie_in_the_folder_of_the_files(tmp_path):
    raw = files(tmp_path, arrays(norm_bb=np.c_[CORNERS, CORNERS[:, 2:] - CORNERS[:, :2]]))
    (raw / "provenance.json").write_text("{}")
    done = run(ROOT / "scripts" / "convert_imgdir.py", "--img_dir", raw, "--output", raw, "--nproc", 1)
    assert done.returncode == 0, done.stderr
    assert (raw / VARIANT / "data.mdb").exists() and (raw / "provenance.json").read_text() == "{}"


def test_if_all_files_are_bad_the_first_reason_is_said_and_all_are_listed(tmp_path):
    raw = files(tmp_path, arrays(conf=np.full(4, 70)), arrays(conf=np.full(4, 80)))
    problem = convert(tmp_path, "--skip_bad")
    assert f"no file in {raw} can be used; the first: {raw / '0.npz'}: conf (4,) is from 70" in problem
    assert len(json.loads((tmp_path / "out" / f"left_out_{VARIANT}.json").read_text())) == 2


def test_a_limit_of_file_sizes_is_named(tmp_path):
    raw = files(tmp_path, arrays(features=np.random.default_rng(0).random((4, 50_000))))
    script = ROOT / "scripts" / "convert_imgdir.py"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = run(script, "--img_dir", raw, "--output", tmp_path / "out", "--nproc", 1, preexec_fn=limit)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "a file may have at most 100,000 bytes: raise that limit (ulimit -f unlimited)" in done.stderr


def test_a_missing_package_is_one_line(tmp_path):
    (tmp_path / "lmdb.py").write_text("raise ModuleNotFoundError(name='lmdb')")
    script = ROOT / "scripts" / "convert_imgdir.py"
    done = run(script, "--help", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: the package lmdb is missing: pip install lmdb msgpack msgpack-numpy numpy tqdm"
    ]


def test_a_store_is_written_and_read_where_the_locale_is_not_utf8(tmp_path):
    raw = files(tmp_path, arrays())
    environment = os.environ | {
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
    }
    output = tmp_path / "größer"
    script = ROOT / "scripts" / "convert_imgdir.py"
    done = run(script, "--img_dir", raw, "--output", output, "--nproc", 1, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(list(Reader(output / VARIANT).items())) == 2
    code = (
        "import sys; from pathlib import Path; from data.lmdb_io import Reader\n"
        "from data.txt_writer import TextWriter\n"
        "print(len(list(Reader(Path(sys.argv[1])).items())))\n"
        "with TextWriter(sys.argv[2], {}) as writer: writer.add('a', {'input_ids': [1], 'img_fname': 'a'})"
    )
    done = run("-c", code, output / VARIANT, tmp_path / "töxte", cwd=ROOT, env=environment)
    assert done.stdout == "2\n" and done.returncode == 0, done.stderr
