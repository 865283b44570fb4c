"""The full scan of both stores: a report if there are no errors, else status 2 and one screen of errors."""

import shutil

import lmdb
import msgpack
import msgpack_numpy
import numpy as np
import pytest

from scripts import check
from tests.golden_data import GOLDEN
from tests.tiny_world import run_script
from utils.errors import InputError


@pytest.fixture
def stores(tmp_path):
    return shutil.copytree(GOLDEN / "data_formats", tmp_path / "stores", ignore=shutil.ignore_patterns("expected"))


def edit(path, name: str, change) -> None:
    with lmdb.open(str(path), lock=False, map_size=1 << 26) as env, env.begin(write=True) as txn:
        record = msgpack.unpackb(txn.get(name.encode()), object_hook=msgpack_numpy.decode, raw=False)
        txn.put(name.encode(), msgpack.packb(change(record), default=msgpack_numpy.encode, use_bin_type=True))


def test_a_report(stores, capsys):
    check.main(["--txt_db", f"{stores}/txt_db/nlvr2_dev.db", "--img_db", f"{stores}/img_db/nlvr2_dev"])
    report = capsys.readouterr().out
    for part in ("20 texts about 8 images, 2 per text", "205 word pieces", "8 images, features of width 24"):
        assert part in report
    assert "6 to 79" in report and "13 classes" in report and "no errors found" in report
    check.main(["--img_db", f"{stores}/img_db/re_coco_gt", "--conf_th", "-1", "--num_bb", "100", "--img_dim", "24"])
    assert "4 images" in capsys.readouterr().out


def test_every_bad_record_is_counted(stores):
    folder = stores / "img_db" / "nlvr2_dev" / "feat_th0.2_max100_min10"
    edit(folder, "nlvr2_dev-0-1-img0.npz", lambda r: r | {"features": r["features"] * np.float16(np.inf)})
    edit(folder, "nlvr2_dev-1-1-img1.npz", lambda r: r | {"norm_bb": r["norm_bb"][:0]})
    done = run_script("-m", "scripts.check", "--img_db", stores / "img_db" / "nlvr2_dev", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for part in ("2 images cannot be used", "0-1-img0.npz", "1-1-img1.npz", "data.mdb", "remedy"):
        assert part in done.stderr


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--txt_db", "txt_db/vqa_like.db", "--img_db", "img_db/re_coco_det"], "8 of 8 images"),
        (["--img_db", "img_db/nlvr2_dev", "--img_dim", "2048"], "2048"),
        (["--img_db", "img_db/re_coco_gt"], "feat_numbb100"),
        (["--txt_db", "txt_db/none.db"], "none.db"),
        ([], "nothing to check"),
    ],
)
def test_stores_that_do_not_fit(stores, monkeypatch, flags, named):
    monkeypatch.chdir(stores)
    with pytest.raises(InputError, match=named):
        check.main(flags)


def few_labels(record):
    labels = record["soft_labels"][:, :5].astype(float)
    return record | {"soft_labels": (labels / labels.sum(1, keepdims=True)).astype(np.float16)}


def test_one_number_of_classes(stores):
    folder = stores / "img_db" / "re_coco_det" / "feat_th0.2_max100_min10"
    edit(folder, "visual_grounding_det_coco_000000000022.npz", few_labels)
    with pytest.raises(InputError, match="different numbers of soft labels"):
        check.main(["--img_db", str(stores / "img_db" / "re_coco_det")])
