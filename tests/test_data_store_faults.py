"""Stores that others wrote, cut, moved or opened elsewhere: read where they can be, refused by name where not."""

import hashlib
import json
import os
import pickle
import shutil

import lmdb
import lz4.frame
import msgpack
import msgpack_numpy
import numpy as np
import pytest

from data import index_cache, records, txt_index
from data.img_store import ImageStore
from data.lmdb_io import Reader
from data.txt_store import TextStore
from data.txt_writer import TextWriter
from tests.golden_data import GOLDEN
from utils.errors import InputError

META = {"CLS": 1, "SEP": 2, "MASK": 3, "UNK": 4, "v_range": [10, 50]}
VARIANT = "th0.2_max100_min10"


def regions(n=3, width=8, dtype=np.float16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    corner = rng.random((n, 2)) * 0.5
    box = np.concatenate([corner, corner + 0.25, np.full((n, 2), 0.25)], 1)
    made = {"features": rng.normal(size=(n, width)), "norm_bb": box, "conf": rng.random(n)}
    return {name: array.astype(dtype) for name, array in made.items()}


def write_store(path, pictures: dict[str, dict], counts: dict[str, int] | None = None):
    """An image store that is not ours: no `__keys__`, msgpack as its writer likes."""
    (path / f"feat_{VARIANT}").mkdir(parents=True)
    with lmdb.open(str(path / f"feat_{VARIANT}"), map_size=1 << 26, lock=False) as env, env.begin(write=True) as txn:
        for name, record in pictures.items():
            packed = msgpack.packb(record, default=msgpack_numpy.encode, use_bin_type=True)
            txn.put(name.encode(), packed if isinstance(record, dict) else record)
    counts = {name: 10 for name in pictures} if counts is None else counts
    (path / f"nbb_{VARIANT}.json").write_text(json.dumps(counts))
    return path


def write_texts(path, n=25):
    with TextWriter(path, META) as writer:
        for i in range(n):
            writer.add(f"t{i}", {"input_ids": [10 + i % 40] * (i % 7 + 1), "img_fname": f"{i % 4}.npz"})
    return path


def message(function) -> str:
    with pytest.raises(InputError) as error:
        function()
    return str(error.value)


def all_in(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, f"{part!r} not in:\n{text}"


EXPECTED = json.loads((GOLDEN / "data_formats" / "expected" / "img_db.json").read_text())


@pytest.mark.parametrize("name", [name for name in EXPECTED if not name.endswith(".json")])
def test_every_array_of_the_references_stores_bit_for_bit(name):
    """Type, shape and hash of all arrays in all image stores, through the decoder and not through an index."""
    expected, reader = EXPECTED[name], Reader(GOLDEN / "data_formats" / "img_db" / name)
    stored = dict(reader.items())
    assert len(stored) == expected["n_entries"]
    assert json.loads(bytes(stored.pop(b"__keys__"))) == expected["__keys__"]
    assert {key.decode() for key in stored} == set(expected["records"])
    for key, value in stored.items():
        arrays = records.decode(value, compressed=name.endswith("_compressed"))
        wanted = {n: tuple(v) for n, v in expected["records"][key.decode()].items() if n != "allow_pickle"}
        found = {
            n: (str(a.dtype), list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()[:16]) for n, a in arrays.items()
        }
        assert found == wanted
    reader.close()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("columns", [4, 6])
def test_stores_of_others(tmp_path, dtype, columns):
    """Other float types and boxes without width and height: float16 features, seven float32 positions."""
    record = regions(dtype=dtype)
    record["norm_bb"] = record["norm_bb"][:, :columns]
    store = ImageStore(write_store(tmp_path, {"a.npz": record}))
    found = store.read(0)
    assert found.features.dtype == np.float16 and found.pos.dtype == np.float32 and found.pos.shape == (3, 7)
    np.testing.assert_array_equal(found.features, record["features"].astype(np.float16))
    np.testing.assert_allclose(found.pos[:, :4], record["norm_bb"][:, :4], rtol=1e-6)
    np.testing.assert_allclose(found.pos[:, 4:], [[0.25, 0.25, 0.0625]] * 3, atol=1e-3)
    store.close()


def test_both_ways_to_decode_agree(monkeypatch):
    """The quick way for the usual bytes, and the general one: all types, shapes and sizes of msgpack's headers."""
    for n, width, dtype in [(1, 2, "<f2"), (3, 130, "<f4"), (40, 2048, "<f2"), (300, 3, "<f2"), (2, 300, "<f4")]:
        record = regions(n, width, np.dtype(dtype)) | {"soft_labels": np.ones((n, 7), np.dtype(dtype))}
        value = memoryview(msgpack.packb(record, default=msgpack_numpy.encode, use_bin_type=True))
        quick = records._decode_usual(value)
        assert quick is not None
        with monkeypatch.context() as patch:
            patch.setattr(records, "_decode_usual", lambda value: None)
            general = records.decode(value, compressed=False)
        for name in record:
            np.testing.assert_array_equal(quick[name], record[name])
            np.testing.assert_array_equal(general[name], record[name])
            assert quick[name].dtype == general[name].dtype == record[name].dtype
            assert np.shares_memory(quick[name], np.frombuffer(value, np.uint8))  # no copy
    other = {"features": np.ones((2, 3), np.float64), "extra": np.arange(5)}
    value = memoryview(msgpack.packb(other, default=msgpack_numpy.encode, use_bin_type=True))
    assert records._decode_usual(value) is None
    assert records.decode(value, compressed=False)["extra"].tolist() == [0, 1, 2, 3, 4]
    for end in range(len(value)):
        with pytest.raises((ValueError, IndexError, records.struct.error)):
            records.decode(value[:end], compressed=False)


@pytest.mark.parametrize(
    "spoil, named",
    [
        (lambda r: r | {"features": r["features"] * 1e6}, "features"),
        (lambda r: r | {"norm_bb": r["norm_bb"] * 640}, "relative to the image's size"),
        (lambda r: r | {"norm_bb": r["norm_bb"] * np.nan}, "norm_bb"),
        (lambda r: r | {"norm_bb": r["norm_bb"][:, :5]}, "norm_bb"),
        (lambda r: r | {"conf": r["conf"][:2]}, "different numbers of rows"),
        (lambda r: {"features": r["features"]}, "norm_bb"),
        (lambda r: r | {"features": [[1.0, 2.0]]}, "features"),
        (lambda r: r["features"].tobytes(), "msgpack"),
    ],
)
def test_records_that_cannot_be_used(tmp_path, spoil, named):
    record = spoil(regions(dtype=np.float32))
    store = ImageStore(write_store(tmp_path, {"good.npz": regions(), "worse.npz": record}))
    store.read(0)
    all_in(message(lambda: store.read(1)), "worse.npz", "data.mdb", "remedy", named)
    store.close()


def test_soft_labels_that_are_not_there_or_not_finite(tmp_path):
    labelled = regions() | {"soft_labels": np.full((3, 5), np.inf, np.float16)}
    store = ImageStore(write_store(tmp_path, {"a.npz": regions(), "b.npz": labelled}))
    all_in(message(lambda: store.read(0, soft_labels=True)), "a.npz", "soft_labels")
    all_in(message(lambda: store.read(1, soft_labels=True)), "b.npz", "soft_labels", "15 of 15")
    store.close()


def test_counts_that_are_missing_or_of_another_store(tmp_path):
    path = write_store(tmp_path, {"a.npz": regions()}, {"a.npz": 10, "b.npz": 10})
    all_in(message(lambda: ImageStore(path)), "nbb_th0.2", "b.npz")
    (path / f"nbb_{VARIANT}.json").unlink()
    text = message(lambda: ImageStore(path))
    all_in(text, f"file:     {path}/nbb_{VARIANT}.json", "missing beside its LMDB")


def test_variants_that_exist_are_named(tmp_path):
    path = shutil.copytree(GOLDEN / "data_formats" / "img_db" / "re_coco_gt", tmp_path / "gt")
    text = message(lambda: ImageStore(path))
    all_in(text, "feat_th0.2_max100_min10", "feat_numbb100", "conf_th", "remedy")
    all_in(message(lambda: ImageStore(tmp_path / "gone")), "gone", "remedy")


def test_keys_that_the_list_names_must_be_there(tmp_path):
    path = write_store(tmp_path, {"a.npz": regions()})
    with lmdb.open(str(path / f"feat_{VARIANT}"), lock=False) as env, env.begin(write=True) as txn:
        txn.put(b"__keys__", b'["a.npz", "lost.npz"]')
    all_in(message(lambda: ImageStore(path)), "lost.npz", "data.mdb")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(tmp_path, part):
    path = write_store(tmp_path, {f"{i}.npz": regions(20, 200) for i in range(30)})
    file = path / f"feat_{VARIANT}" / "data.mdb"
    os.truncate(file, int(file.stat().st_size * part))
    all_in(message(lambda: ImageStore(path)), "data.mdb", "bytes", "remedy")


def test_a_whole_file_may_be_shorter_than_its_header_says(tmp_path):
    """LMDB writes no free pages at the end: such a file is read, and refused when a used page goes too."""
    with lmdb.open(str(tmp_path), map_size=1 << 26, lock=False) as env:
        for key in (b"a", b"b"):
            with env.begin(write=True) as txn:
                txn.put(key, bytes(50_000))
        with env.begin(write=True) as txn:
            txn.delete(b"a")
        with env.begin(write=True) as txn:  # at the end of the file; the list of free pages goes to those of `a`
            txn.put(b"c", bytes(200_000))
            txn.delete(b"c")
        promised = (env.info()["last_pgno"] + 1) * 4096
    file = tmp_path / "data.mdb"
    assert file.stat().st_size < promised
    reader = Reader(tmp_path)
    assert [(key, len(value)) for key, value in reader.items()] == [(b"b", 50_000)]
    reader.close()
    os.truncate(file, file.stat().st_size - 20_000)
    all_in(message(lambda: Reader(tmp_path)), "data.mdb", "bytes")


def test_not_an_lmdb(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"x" * 9000)
    all_in(message(lambda: Reader(tmp_path)), "data.mdb", "not an LMDB")


def in_a_fork(function) -> bytes:
    """What `function` returns in a forked child."""
    out, into = os.pipe()
    if os.fork() == 0:
        try:
            os.write(into, function())
        except BaseException as error:
            os.write(into, repr(error).encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as stream:
        found = stream.read()
    os.wait()
    return found


def test_a_store_in_use_is_read_in_a_forked_child_too(tmp_path):
    images = ImageStore(write_store(tmp_path / "img", {"a.npz": regions()}))
    texts = TextStore(write_texts(tmp_path / "t.db"))
    expected = images.read(0).features.tobytes() + bytes(texts.read(3)["input_ids"])
    assert in_a_fork(lambda: images.read(0).features.tobytes() + bytes(texts.read(3)["input_ids"])) == expected
    assert images.read(0).features.tobytes() + bytes(texts.read(3)["input_ids"]) == expected
    images.close(), texts.close()


def test_stores_travel_to_a_spawned_worker_as_their_options(tmp_path):
    images = ImageStore(write_store(tmp_path / "img", {"a.npz": regions()}), min_bb=10, blind=True)
    texts = TextStore(write_texts(tmp_path / "t.db", 300), max_txt_len=4)
    packed = pickle.dumps((images, texts))
    assert len(packed) < 500
    images2, texts2 = pickle.loads(packed)
    assert images2.blind and images2.n_announced.tolist() == [1]
    np.testing.assert_array_equal(texts2.lens, texts.lens)


def test_an_id_has_its_place(tmp_path):
    path = write_texts(tmp_path / "t.db")
    for store in (TextStore(path), TextStore(path, max_txt_len=4)):
        ids = [store.id(i) for i in range(len(store))]
        assert len(set(ids)) == len(ids) and store.read(ids.index("t3"))["input_ids"] == [13] * 4
        assert ("t6" in ids) == (len(store) == 25)  # seven word pieces
        store.close()


def test_side_files_in_any_order_and_in_small_pieces(tmp_path, monkeypatch):
    path = write_texts(tmp_path / "t.db")
    first = TextStore(path)
    named = [first.img_names[k].decode() for k in first.img_index[:, 0]]
    pictures = json.loads((path / "txt2img.json").read_text())
    (path / "txt2img.json").write_text(json.dumps(dict(sorted(pictures.items(), reverse=True)), indent=3) + "\n")
    monkeypatch.setattr(txt_index, "TEXT", 160)
    monkeypatch.setattr(txt_index, "CHUNK", 4)
    again = TextStore(path)
    assert [again.img_names[k].decode() for k in again.img_index[:, 0]] == named
    np.testing.assert_array_equal(again.lens, first.lens)
    (path / "txt2img.json").unlink()  # then the records say it
    without = TextStore(path)
    assert [without.img_names[k].decode() for k in without.img_index[:, 0]] == named
    without.close()


@pytest.mark.parametrize(
    "file, text, named",
    [
        ("id2len.json", '{"t0": 3, "t1": "five"}', "entry 2"),
        ("id2len.json", '{"t0": 3, "t1": -1}', "entry 2"),
        ("id2len.json", '{"t0": 3 "t1": 4}', "comma"),
        ("id2len.json", '{"t0": 3, "t1"', "key"),
        ("id2len.json", "[3, 4]", "begin"),
        ("id2len.json", "{}", "no texts"),
        ("txt2img.json", '{"t0": "a.npz", "t1": ["a.npz", "b.npz"]}', "entry 2"),
        ("txt2img.json", '{"t0": "a.npz"}', "t1"),
        ("meta.json", '{"CLS": 1}', "SEP"),
        ("meta.json", "", "JSON"),
    ],
)
def test_side_files_that_cannot_be_used(tmp_path, file, text, named):
    path = write_texts(tmp_path / "t.db", 2)
    (path / file).write_text(text)
    all_in(message(lambda: TextStore(path)), file, named)


@pytest.mark.parametrize("ids", [[50], [-1], [10.5], "no", None])
def test_word_pieces_that_the_vocabulary_lacks(tmp_path, ids):
    path = write_texts(tmp_path / "t.db")
    with lmdb.open(str(path), lock=False, map_size=1 << 24) as env, env.begin(write=True) as txn:
        txn.put(b"t5", lz4.frame.compress(msgpack.packb({"input_ids": ids, "img_fname": "1.npz"})))
    store = TextStore(path)
    all_in(message(lambda: store.read(5)), "t5", "data.mdb", "remedy")
    store.close()


def test_where_the_store_cannot_be_written_the_index_goes_to_the_cache(tmp_path, monkeypatch):
    path = write_texts(tmp_path / "t.db")
    monkeypatch.setenv("UNITER_CACHE", str(tmp_path / "cache"))
    real = index_cache.tempfile.mkdtemp

    def refuse(dir, prefix):
        if dir.is_relative_to(path):
            raise PermissionError
        return real(dir=dir, prefix=prefix)

    monkeypatch.setattr(index_cache.tempfile, "mkdtemp", refuse)
    assert len(TextStore(path)) == 25
    made = list((tmp_path / "cache").rglob("*.npy"))
    assert {file.stem for file in made} == {"ids", "lens", "img_names", "img_index"}
    monkeypatch.setattr(TextStore, "_build", lambda self: pytest.fail("built again"))
    assert TextStore(path).id(7) == "t7"


@pytest.mark.parametrize("with_counts", [True, False])
def test_an_lmdb_that_is_a_file_is_named_so(tmp_path, with_counts):
    path = write_store(tmp_path, {"a.npz": regions()})
    lmdb_folder = path / f"feat_{VARIANT}"
    (lmdb_folder / "data.mdb").rename(path / "file")
    shutil.rmtree(lmdb_folder)
    (path / "file").rename(lmdb_folder)
    if not with_counts:
        (path / f"nbb_{VARIANT}.json").unlink()
    all_in(message(lambda: ImageStore(path)), f"feat_{VARIANT}", "a file, as", "data.mdb", "subdir=False")
    all_in(message(lambda: ImageStore(lmdb_folder)), "found:    a file")
    all_in(message(lambda: TextStore(lmdb_folder)), "found:    a file")


def test_arrays_whose_bytes_are_marked_as_text_are_read(tmp_path):
    """As msgpack before 1.0 wrote them, and with use_bin_type=False; zeros are text that can be decoded."""
    expected = regions(40, 64) | {"soft_labels": np.zeros((40, 3), np.float16)}
    packed = msgpack.packb(expected, default=msgpack_numpy.encode, use_bin_type=False)
    decoded = records.decode(memoryview(packed), compressed=False)
    assert decoded.keys() == expected.keys()
    for name, array in expected.items():
        assert decoded[name].dtype == array.dtype and np.array_equal(decoded[name], array)
    ImageStore(write_store(tmp_path, {"a.npz": packed}, {"a.npz": 40})).check()


def test_an_empty_name_of_the_cache_is_none(tmp_path, monkeypatch):
    """The working directory is no cache."""
    path, real = write_texts(tmp_path / "t.db"), index_cache.tempfile.mkdtemp

    def refuse(dir, prefix):
        if dir.is_relative_to(path):
            raise PermissionError
        return real(dir=dir, prefix=prefix)

    monkeypatch.setattr(index_cache.tempfile, "mkdtemp", refuse)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("UNITER_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert len(TextStore(path)) == 25
    assert list((tmp_path / "home" / ".cache" / "uniter").rglob("ids.npy"))
    assert not list((tmp_path / "work").iterdir())
