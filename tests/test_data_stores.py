"""The stores against the reference's: every variant, every record, counts, and what a reader must refuse."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from data.img_store import ImageStore
from data.stores import Stores
from data.txt_store import TextStore
from data.txt_writer import TextWriter
from tests.golden_data import GOLDEN, arrays
from utils.errors import InputError
from utils.run_config import RunConfig

FORMATS = GOLDEN / "data_formats"
IMAGES, TEXTS = FORMATS / "img_db", FORMATS / "txt_db"
EXPECTED_TEXTS = json.loads((FORMATS / "expected" / "txt_db.json").read_text())
EXPECTED_IMAGES = json.loads((FORMATS / "expected" / "img_db.json").read_text())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNITER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def stores(tmp_path):
    """A copy of the reference's stores, so that indexes are built anew."""
    copy = tmp_path / "stores"
    for part in (IMAGES, TEXTS):
        shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns(".index"))
    return copy


@pytest.mark.parametrize("name", EXPECTED_TEXTS)
def test_texts(stores, name):
    expected = EXPECTED_TEXTS[name]
    store = TextStore(stores / "txt_db" / name)
    side = json.loads((stores / "txt_db" / name / "meta.json").read_text())
    assert (store.meta.cls, store.meta.sep, store.meta.mask) == (side["CLS"], side["SEP"], side["MASK"])
    assert list(store.meta.v_range) == side["v_range"] and store.meta.tokenizer == "bert-base-cased"
    assert {store.id(i) for i in range(len(store))} == set(expected["records"])
    for i in range(len(store)):
        record = store.read(i)
        assert record == expected["records"][store.id(i)]
        named = record["img_fname"] if isinstance(record["img_fname"], list) else [record["img_fname"]]
        assert [store.img_names[k].decode() for k in store.img_index[i]] == named
    store.close()


def test_a_fixed_number_counts_what_is_there(stores):
    """Ground-truth boxes: a hundred are announced for every picture, as the release counts; `held` is the truth."""
    store = ImageStore(stores / "img_db" / "re_coco_gt", conf_th=-1, num_bb=100)
    assert (store.n_announced == 100).all()
    assert store.n_stored.tolist() == [len(store.read(row).features) for row in range(len(store))]
    assert (ImageStore(stores / "img_db" / "re_coco_gt", conf_th=-1, num_bb=100, blind=True).n_stored == 1).all()
    store.close()


def test_long_texts_are_left_out_only_when_asked(stores):
    path = stores / "txt_db" / "vqa_like.db"
    everything, short = TextStore(path), TextStore(path, max_txt_len=10)
    assert len(everything) == len(TextStore(path, max_txt_len=-1)) > len(short) > 0
    assert short.lens.max() <= 10
    for i in range(len(short)):
        assert len(short.read(i)["input_ids"]) == short.lens[i]
    everything.close()


VARIANTS = {
    "nlvr2_dev/feat_th0.2_max100_min10": {},
    "nlvr2_dev/feat_th0.2_max100_min10_compressed": {"compressed": True},
    "nlvr2_dev/feat_numbb36": {"conf_th": -1, "num_bb": 36},
    "nlvr2_dev_legacy_numpy/feat_th0.2_max100_min10_compressed": {"compressed": True},
    "re_coco_det/feat_th0.2_max100_min10": {},
    "re_coco_gt/feat_numbb100": {"conf_th": -1, "num_bb": 100},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_image_variants(stores, name):
    """Every record of every variant: the release's float32 view, counts and boxes, legacy members left out."""
    reader = arrays("data_formats/expected/img_reader.npz")
    store = ImageStore(stores / "img_db" / name.split("/")[0], **VARIANTS[name])
    assert {store.name(k) for k in range(len(store))} == set(EXPECTED_IMAGES[name]["records"])
    compared = 0
    for row in range(len(store)):
        key, regions = store.name(row), store.read(row, soft_labels=True)
        shape = EXPECTED_IMAGES[name]["records"][key]["features"][1]
        assert regions.features.shape == (min(int(store.n_announced[row]), shape[0]), shape[1])
        np.testing.assert_array_equal(regions.pos[:, 6], regions.pos[:, 4] * regions.pos[:, 5])
        assert len(regions.soft_labels) == len(regions.conf) == len(regions.features)
        if name == "nlvr2_dev/feat_th0.2_max100_min10":
            np.testing.assert_array_equal(regions.features.astype(np.float32), reader[f"{key}/img_feat"])
            np.testing.assert_array_equal(regions.pos[:, :6], reader[f"{key}/norm_bb"])
            np.testing.assert_array_equal(regions.soft_labels.astype(np.float32), reader[f"{key}/dump.soft_labels"])
            compared += 1
    assert compared == (len(store) if "nlvr2_dev/feat_th" in name and not VARIANTS[name] else 0)
    store.close()


@pytest.mark.parametrize("compressed", [False, True])
def test_counts_are_computed_where_only_all_boxes_are_kept(stores, compressed):
    """Without the counts' JSON: clamp(boxes above conf_th, min_bb, max_bb) from the variant `all`."""
    folder = stores / "img_db" / "nlvr2_dev"
    expected = json.loads((folder / "nbb_th0.2_max100_min10.json").read_text())
    (folder / "nbb_th0.2_max100_min10.json").unlink()
    store = ImageStore(folder, compressed=compressed)
    assert {store.name(k): int(store.n_announced[k]) for k in range(len(store))} == expected
    store.check(sample=None)


def test_rows_of_names(stores):
    store = ImageStore(stores / "img_db" / "nlvr2_dev")
    names = np.array([store.name(3).encode(), b"zzz.npz", b"", store.name(0).encode()])
    assert store.rows(names).tolist() == [3, -1, -1, 0]


def test_blind_is_one_empty_region(stores):
    store = ImageStore(stores / "img_db" / "nlvr2_dev", blind=True)
    regions = store.read(2)
    assert store.n_announced.tolist() == [1] * len(store) and regions.features.shape[0] == 1
    assert not regions.features.any() and not regions.pos.any()
    store.close()


def test_one_store_object_for_one_path(stores):
    config = RunConfig(output_dir="", model_config="")
    opened = Stores(config, SimpleNamespace(vocab_size=1, max_position_embeddings=1, img_dim=24))
    path = stores / "img_db" / "nlvr2_dev"
    whole, blind = opened.images(str(path)), opened.images(str(path), blind=True)
    assert whole is opened.images(str(path / ".." / "nlvr2_dev")) and whole is not blind
    whole.read(0), blind.read(0)  # one environment serves both
    whole.close()


def test_the_index_follows_the_store(stores):
    """Built once, found again, rebuilt when a side file changes; in a cache folder where the store is read-only."""
    path = stores / "img_db" / "nlvr2_dev"
    first = ImageStore(path).n_announced.copy()
    built = sorted((path / ".index").iterdir())
    ImageStore(path)
    assert sorted((path / ".index").iterdir()) == built
    counts = json.loads((path / "nbb_th0.2_max100_min10.json").read_text())
    (path / "nbb_th0.2_max100_min10.json").write_text(json.dumps({name: 2 for name in counts}))
    os.utime(path / "nbb_th0.2_max100_min10.json", ns=(1, 1))
    assert ImageStore(path).n_announced.tolist() == [2] * len(first)


def test_written_texts_are_read_back(tmp_path):
    meta = {"CLS": 1, "SEP": 2, "MASK": 3, "UNK": 4, "v_range": [10, 50], "vocab_sha256": "abc"}
    with TextWriter(tmp_path / "new.db", meta) as writer:
        for i in range(25):
            writer.add(f"é{i}", {"input_ids": [10 + i] * (i + 1), "img_fname": f"{i % 4}.npz", "target": i})
    store = TextStore(tmp_path / "new.db")
    assert [store.id(i) for i in range(25)] == [f"é{i}" for i in range(25)]
    assert store.read(7) == {"input_ids": [17] * 8, "img_fname": "3.npz", "target": 7}
    assert store.lens.tolist() == list(range(1, 26)) and store.meta.vocab_sha256 == "abc"
    by_picture = json.loads((tmp_path / "new.db" / "img2txts.json").read_text())
    assert by_picture["1.npz"] == [f"é{i}" for i in range(1, 25, 4)]
    store.check()


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), TextWriter(tmp_path / "new.db", {}) as writer:
        writer.add("a", {"input_ids": [1], "img_fname": "x.npz"})
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_lengths_that_name_absent_texts(stores):
    path = stores / "txt_db" / "vqa_like.db"
    lens = json.loads((path / "id2len.json").read_text())
    (path / "id2len.json").write_text(json.dumps(lens | {"ghost": 3}))
    with pytest.raises(InputError, match="ghost"):
        TextStore(path)
