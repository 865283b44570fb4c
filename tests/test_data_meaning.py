"""What stores hold must make sense: odd regions and side files are refused by file, key and value."""

import json
from functools import partial

import lmdb
import lz4.frame
import msgpack
import numpy as np
import pytest

from data import txt_index
from data.img_store import ImageStore
from data.lmdb_io import Reader
from data.mrm import Mrm
from data.stores import GT_VARIANT
from data.txt_store import TextStore
from data.txt_writer import TextWriter
from tests.golden_data import GOLDEN
from tests.test_data_store_faults import META, VARIANT, all_in, message, regions, write_store, write_texts
from utils.errors import InputError

WIDTH = np.array([0.1, 0.1, 0.6, 0.7, 0.5, 0.6])


def image_store(path, counts=None, **arrays):
    """A store of a right image and one with other `arrays`."""
    right = regions(4, dtype=np.float32) | {"conf": np.array([0.9, 0.8, 0.7, 0.3], np.float32)}
    return write_store(path, {"a.npz": right, "b.npz": right | arrays}, counts)


@pytest.mark.parametrize(
    "name, array, named",
    [
        ("norm_bb", np.tile(WIDTH[[0, 1, 4, 5, 4, 5]], (4, 1)), "as if norm_bb held x, y, w, h"),
        ("norm_bb", np.tile(WIDTH[[2, 3, 0, 1, 4, 5]], (4, 1)), "wrong order"),
        ("norm_bb", np.tile(WIDTH * [1, 1, 1, 1, 1, 0.9], (4, 1)), "contradict its corners"),
        ("norm_bb", np.tile([*WIDTH, 0.3], (4, 1)), "the area is computed"),
        ("conf", np.array([90, 80, 70, 30]), "from 30 to 90"),
    ],
)
def test_regions_that_mean_something_else_are_refused_at_the_start(tmp_path, name, array, named):
    store = ImageStore(image_store(tmp_path, **{name: array.astype(np.float32)}))
    all_in(message(store.check), "b.npz", "data.mdb", named, "found:", "expected:", "remedy:")


def test_the_regions_that_are_read_must_be_the_most_confident(tmp_path):
    rising = np.array([0.1, 0.2, 0.3, 0.9], np.float32)
    all_in(
        message(ImageStore(image_store(tmp_path / "cut", {"a.npz": 4, "b.npz": 3}, conf=rising)).check),
        "b.npz",
        "region 3 has confidence 0.9",
    )
    right, odd = regions(4) | {"conf": rising[::-1]}, regions(4) | {"conf": rising}
    few = ImageStore(write_store(tmp_path / "few", {"a": right, "b": right, "c": odd}, {"a": 3, "b": 3, "c": 3}))
    few.check()  # the release's extractor leaves a few images unsorted
    assert few.check_order(range(3)) == 1
    whole = ImageStore(image_store(tmp_path / "whole", {"a.npz": 4, "b.npz": 10}, conf=rising))
    whole.check()  # all are read: LXMERT's own files are in such an order
    assert whole.read(1).conf.tolist() == rising.tolist()
    ImageStore(tmp_path / "cut", blind=True).check()  # the control reads one region, and hides it


def test_confidences_of_the_releases_extractor_are_a_column(tmp_path):
    column = np.array([[0.9], [0.8], [0.7], [0.3]], np.float16)
    store = ImageStore(image_store(tmp_path, conf=column))
    assert store.check_record(1).conf.shape == (4,)
    all_in(message(ImageStore(image_store(tmp_path / "two", conf=np.zeros((4, 2)))).check), "conf")


def test_a_store_without_counts_needs_confidences(tmp_path):
    path = image_store(tmp_path)
    (path / f"nbb_{VARIANT}.json").unlink()
    (path / f"feat_{VARIANT}").rename(path / "all")
    assert ImageStore(path).n_announced.tolist() == [10, 10]
    bare = write_store(tmp_path / "bare", {"a.npz": {k: v for k, v in regions().items() if k != "conf"}})
    (bare / f"nbb_{VARIANT}.json").unlink()
    (bare / f"feat_{VARIANT}").rename(bare / "all")
    all_in(message(lambda: ImageStore(bare)), "a.npz", "no confidences")


@pytest.mark.parametrize("task, labels, named", [("mrc", "logits", "sum"), ("mrckl", 1600, "background were missing")])
def test_soft_labels_are_checked_for_the_tasks_that_read_them(tmp_path, task, labels, named):
    soft = np.full((4, 1601), 1 / 1601, np.float32)
    wrong = np.log(soft) if labels == "logits" else np.full((4, labels), 1 / labels, np.float32)
    arrays = regions(4) | {"conf": np.array([0.9, 0.8, 0.7, 0.3])}
    write_store(
        tmp_path / "img",
        {f"{i}.npz": arrays | {"soft_labels": soft} for i in range(3)} | {"3.npz": arrays | {"soft_labels": wrong}},
    )
    texts, images = TextStore(write_texts(tmp_path / "t.db")), ImageStore(tmp_path / "img")
    images.check()
    Mrm(texts, images, "mrfr")  # does not read them
    all_in(message(lambda: Mrm(texts, images, task)), "3.npz", "soft", named)
    if labels == "logits":  # a record outside of the sample is refused when it is read
        all_in(message(lambda: images.read(3, soft_labels=True)), "3.npz", "soft_labels", "not probabilities")


@pytest.mark.parametrize("count", [0, None, -4, 10**12, 2.7, "5", [3], True, "huge"])
def test_region_counts_are_whole_numbers_in_a_range(tmp_path, count):
    path = write_store(tmp_path, {"a.npz": regions(), "b.npz": regions()})
    file = path / f"nbb_{VARIANT}.json"
    text = "1" + "0" * 5000 if count == "huge" else json.dumps(count)
    file.write_text(f'{{"a.npz": 3, "b.npz": {text}}}')
    all_in(message(lambda: ImageStore(path)), file.name, "found:", "expected:")
    if count != "huge":
        all_in(message(lambda: ImageStore(path)), "b.npz", repr(count))
    file.write_text("[3, 4]")
    all_in(message(lambda: ImageStore(path)), file.name, "[3, 4]")


@pytest.mark.parametrize("keys", [b"[1, 2]", b'{"a.npz": 1}', b"\xff\xfe", b"a.npz", b"5", b""])
def test_an_odd_list_of_keys_is_refused(tmp_path, keys):
    path = write_store(tmp_path, {"a.npz": regions()})
    with lmdb.open(str(path / f"feat_{VARIANT}"), lock=False) as env, env.begin(write=True) as txn:
        txn.put(b"__keys__", keys)
    all_in(message(lambda: ImageStore(path)), "__keys__", "data.mdb")


@pytest.mark.parametrize("key", [b"a\0", b"\xff.npz", b"a\n.npz"])
def test_names_of_images_that_an_index_or_a_line_would_change(tmp_path, key):
    path = write_store(tmp_path, {"a.npz": regions()})
    with lmdb.open(str(path / f"feat_{VARIANT}"), lock=False) as env, env.begin(write=True) as txn:
        txn.put(key, txn.get(b"a.npz"))
    all_in(message(lambda: ImageStore(path)), "data.mdb", "remedy")


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"MASK": 900}, "MASK|900|below 50"),
        ({"MASK": 20}, "MASK|20|ordinary word piece"),
        ({"CLS": 2}, "CLS, SEP|different ids"),
        ({"UNK": 3}, "MASK, UNK"),
        ({"UNK": -1}, "UNK|-1"),
        ({"SEP": 2.0}, "SEP|2.0"),
        ({"SEP": "2"}, "SEP|'2'"),
        ({"SEP": True}, "SEP|True"),
        ({"SEP": 10**30}, "SEP|10,000,000"),
        ({"vocab_sha256": [5]}, "vocab_sha256|[5]"),
        ({"bert": 5}, "bert|5"),
        ({"do_lower_case": "no"}, "do_lower_case|true or false"),
        ({"v_range": [10, 10**12]}, "v_range|1000000000000"),
        ({"v_range": [50, 10]}, "v_range|[50, 10]"),
        ({"v_range": [10, 10]}, "v_range|[10, 10]"),
        ({"v_range": [10]}, "v_range|[10]"),
        ({"v_range": "1050"}, "v_range|1050"),
        ({"v_range": [-5, 50]}, "v_range|-5"),
        ({"v_range": None}, "v_range|None"),
    ],
)
def test_the_vocabulary_of_a_store_makes_sense(tmp_path, changes, named):
    path = write_texts(tmp_path / "t.db", 2)
    (path / "meta.json").write_text(json.dumps(META | changes))
    all_in(message(lambda: TextStore(path)), "meta.json", "found:", "expected:", *named.split("|"))


@pytest.mark.parametrize(
    "file, value, named",
    [
        ("id2len.json", -3, "t1|-3"),
        ("id2len.json", 2.7, "t1|2.7"),
        ("id2len.json", "5", "t1|'5'"),
        ("id2len.json", None, "t1|None"),
        ("id2len.json", [3], "t1|[3]"),
        ("id2len.json", 10**12, "t1|1000000000000|0 to 1,000,000"),
        ("txt2img.json", 5, "t1|5"),
        ("txt2img.json", None, "t1|None"),
        ("txt2img.json", [], "t1|[]"),
        ("txt2img.json", "", "t1|''"),
        ("txt2img.json", {"a": 1}, "t1|{'a': 1}"),
        ("txt2img.json", ["0.npz", 3], "t1|['0.npz', 3]"),
        ("txt2img.json", ["0.npz", "1.npz"], "t1|images of each text: 1"),
        ("txt2img.json", "0.npz\0", "zero byte"),
        ("txt2img.json", "x" * 600, "600 characters"),
    ],
)
def test_values_of_side_files_are_named(tmp_path, monkeypatch, file, value, named):
    monkeypatch.setattr(txt_index, "CHUNK", 2)
    path = write_texts(tmp_path / "t.db", 3)
    content = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps(content | {"t1": value}))
    all_in(message(lambda: TextStore(path)), file, "found:", "expected:", "remedy:", *named.split("|"))


def test_ids_that_cannot_be_keys(tmp_path):
    control = [(f"t{c}1", ascii(f"t{c}1") + "|control character") for c in "\n\r\t\x7f\x85\u2028\x1b"]
    for number, (id_, named) in enumerate([("x" * 600, "600"), ("t\0", "zero byte"), ("", "1 to 511 bytes"), *control]):
        path = write_texts(tmp_path / f"t{number}.db", 2)
        (path / "id2len.json").write_text(json.dumps({"t0": 1, id_: 2}))
        all_in(message(partial(TextStore, path)), "id2len.json", *named.split("|"))
    path, ids = tmp_path / "long.db", ["y" * 300, "a b, c", "Â é\xa0\u2027 犬"]  # all of these are keys
    with TextWriter(path, META) as writer:
        for id_ in ids:
            writer.add(id_, {"input_ids": [10], "img_fname": "a.npz"})
    assert [TextStore(path).id(i) for i in range(3)] == ids


def edit_text(path, id_: str, change) -> None:
    Reader(path).close()  # a path can be opened once in a process
    with lmdb.open(str(path), lock=False, map_size=1 << 26) as env, env.begin(write=True) as txn:
        record = msgpack.unpackb(lz4.frame.decompress(txn.get(id_.encode())), raw=False)
        txn.put(id_.encode(), lz4.frame.compress(msgpack.packb(change(record))))


def test_a_record_that_names_another_image_than_the_side_file(tmp_path):
    path = write_texts(tmp_path / "t.db")
    edit_text(path, "t3", lambda record: record | {"img_fname": "2.npz"})
    all_in(message(TextStore(path).check), "t3: img_fname", "'2.npz'", "3.npz, as in txt2img.json")
    other = write_texts(tmp_path / "other.db")
    edit_text(other, "t3", lambda record: {"input_ids": record["input_ids"]})
    TextStore(other).check()  # a writer may leave it out


def test_the_release_stores_hold_what_they_must():
    folder = GOLDEN / "data_formats" / "img_db"
    for name, options in (("nlvr2_dev", {}), ("nlvr2_dev", {"conf_th": -1, "num_bb": 36}), ("re_coco_gt", GT_VARIANT)):
        store = ImageStore(folder / name, **options)
        for row in range(len(store)):
            store.check_record(row, soft_labels=True)
        store.check_soft_labels(13)
        with pytest.raises(InputError, match=r"soft_labels \(\d+, 13\)"):
            store.check_soft_labels(1601)
        store.close()
