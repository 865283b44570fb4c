"""The release's create_*.sh, with its arguments: they make the stores that prepro.py and convert_imgdir.py make."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.lmdb_io import Reader
from tests.golden_data import GOLDEN
from tests.prepro_case import tokenizer
from tests.test_prepro import read_store
from tests.tiny_world import ROOT

FORMATS = GOLDEN / "data_formats"
ANNOTATIONS = FORMATS / "annotations"


def run(name: str, *words: Path | str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "scripts" / name), *map(str, words)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """A folder with a vocabulary, as ANN_DIR."""
    folder = tmp_path / "ann"
    folder.mkdir()
    tokenizer(folder)
    return folder


def test_create_imgdb_makes_the_store_beside_others_under_its_name(tmp_path: Path) -> None:
    done = run("create_imgdb.sh", f"{FORMATS / 'raw_npz' / 'nlvr2_dev'}/", tmp_path / "img_db", "--nproc", "1")
    assert done.returncode == 0, done.stderr
    name = "feat_th0.2_max100_min10"
    ours, golden = Reader(tmp_path / "img_db" / "nlvr2_dev" / name), Reader(FORMATS / "img_db" / "nlvr2_dev" / name)
    assert [key for key, _ in ours.items()] == [key for key, _ in golden.items()]
    counts = "nbb_th0.2_max100_min10.json"
    golden_counts = json.loads((FORMATS / "img_db" / "nlvr2_dev" / counts).read_text())
    assert json.loads((tmp_path / "img_db" / "nlvr2_dev" / counts).read_text()) == golden_counts


def test_create_txtdb_takes_the_splits_that_are_there_and_leaves_out_missing_images(
    tmp_path: Path, annotations: Path
) -> None:
    shutil.copy(ANNOTATIONS / "nlvr2_dev.json", annotations / "dev.json")
    shutil.copy(ANNOTATIONS / "missing_nlvr2_imgs.json", annotations)
    done = run("create_txtdb.sh", tmp_path / "txt_db", annotations)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "txt_db").glob("*.db")] == ["nlvr2_dev.db"]
    store = tmp_path / "txt_db" / "nlvr2_dev.db"
    golden = read_store(FORMATS / "txt_db" / "nlvr2_dev_missing.db")
    records = read_store(store)
    assert records.keys() == golden.keys() < read_store(FORMATS / "txt_db" / "nlvr2_dev.db").keys()
    assert all(records[id_]["img_fname"] == golden[id_]["img_fname"] for id_ in records)
    modified = (store / "data.mdb").stat().st_mtime_ns
    again = run("create_txtdb.sh", tmp_path / "txt_db", annotations)
    assert again.returncode == 0 and "exists and stays as it is" in again.stdout
    assert (store / "data.mdb").stat().st_mtime_ns == modified


@pytest.mark.slow
def test_create_txtdb_re_makes_a_store_of_every_split(tmp_path: Path, annotations: Path) -> None:
    refs = json.loads((ANNOTATIONS / "refs.json").read_text())
    splits = ("train", "val", "testA", "testB")
    for number, ref in enumerate(refs):
        ref["split"] = splits[number % 4]
    (annotations / "refcoco+").mkdir()
    (annotations / "refcoco+" / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    shutil.copy(ANNOTATIONS / "instances.json", annotations / "refcoco+")
    (annotations / "iid2bb_id").mkdir()
    shutil.copy(ANNOTATIONS / "iid_to_ann_ids.json", annotations / "iid2bb_id")
    done = run("create_txtdb_re.sh", tmp_path / "txt_db", annotations)
    assert done.returncode == 0 and "done: 4 stores" in done.stdout, done.stderr
    for split in splits:
        ids = {str(id_) for ref in refs if ref["split"] == split for id_ in ref["sent_ids"]}
        assert ids and read_store(tmp_path / "txt_db" / f"refcoco+_{split}.db").keys() == ids


def test_what_is_missing_is_said(tmp_path: Path, annotations: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, words, message in [
        ("create_imgdb.sh", ["npz"], "expected: "),
        ("create_txtdb.sh", ["txt_db"], "expected: "),
        ("create_txtdb.sh", [tmp_path / "txt_db", tmp_path / "empty"], "vocab.txt"),
        ("create_txtdb.sh", [tmp_path / "txt_db", annotations], "no annotations"),
        ("create_txtdb_re.sh", [tmp_path / "txt_db", annotations], "iid_to_ann_ids.json"),
    ]:
        done = run(name, *words)
        assert done.returncode == 2 and message in done.stderr, (name, done.stderr)
    assert not (tmp_path / "txt_db").exists()
