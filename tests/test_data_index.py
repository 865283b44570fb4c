"""The index files of a store: used when they fit it, built again when not, and never a wrong pairing."""

import json
import os
import random
import shutil
import struct
from pathlib import Path

import lmdb
import numpy as np
import pytest

from data import lmdb_pages
from data.img_store import ImageStore
from data.lmdb_io import Reader
from data.txt_store import TextStore
from scripts import check
from tests.test_data_store_faults import VARIANT, message, regions, write_store, write_texts
from utils import fingerprints
from utils.errors import InputError

N = 60


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.setenv("UNITER_CACHE", str(tmp_path / "cache"))
    return write_texts(tmp_path / "t.db", N)


def content(path) -> dict[str, tuple[int, list[str]]]:
    """Id → length and images, of every text."""
    store = TextStore(path)
    store.check()
    return {store.id(i): (int(store.lens[i]), store.pictures(i)) for i in range(len(store))}


def index_of(path) -> Path:
    (folder,) = (path / ".index").iterdir()
    return folder


def rewrite(file: Path, change) -> None:
    """Change the JSON in a file, with the same size and time."""
    status = file.stat()
    file.write_text(json.dumps(change(json.loads(file.read_text())), ensure_ascii=False) + "\n")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size


def test_a_second_opening_builds_nothing(texts, monkeypatch):
    first = content(texts)
    monkeypatch.setattr(TextStore, "_build", lambda self: pytest.fail("built again"))
    assert content(texts) == first


def test_side_files_with_the_same_size_and_time_but_another_content(texts):
    before = content(texts)
    ids = list(before)
    swapped = {id_: before[ids[i ^ 1]][1][0] for i, id_ in enumerate(ids)}
    rewrite(texts / "txt2img.json", lambda _: swapped)
    store = TextStore(texts)
    assert [store.pictures(i) for i in range(N)] == [[swapped[id_]] for id_ in ids]


def test_an_lmdb_with_the_same_size_and_time_but_other_texts(tmp_path, texts):
    content(texts)
    other = tmp_path / "other.db"
    shutil.copytree(texts, other)
    shutil.rmtree(other / ".index")
    status = (other / "data.mdb").stat()
    data = bytearray((other / "data.mdb").read_bytes())
    place = data.rfind(b"t59")
    data[place : place + 3] = b"t5:"
    for file in (other, texts):
        (file / "data.mdb").write_bytes(data)
        os.utime(file / "data.mdb", ns=(status.st_atime_ns, status.st_mtime_ns))
        assert "t59" in message(lambda path=file: content(path))


@pytest.mark.parametrize("seed", range(25))
def test_index_files_that_are_damaged_are_built_again(texts, seed):
    expected, rng = content(texts), random.Random(seed)
    folder = index_of(texts)
    file = rng.choice(sorted(folder.iterdir()))
    data = bytearray(file.read_bytes())
    deed = ("flip", "cut", "remove", "folder", "grow", "empty")[seed % 6]
    if deed == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    data = {"cut": data[: rng.randrange(len(data))], "grow": data + b"\0", "empty": b""}.get(deed, data)
    file.unlink()
    if deed == "folder":
        file.mkdir()
    elif deed != "remove":
        file.write_bytes(data)
    assert content(texts) == expected
    assert TextStore(texts)._ids.tolist() == [id_.encode() for id_ in expected]
    assert not [path for path in (texts / ".index").iterdir() if path.name.startswith(".")]


def test_an_index_that_comes_with_a_store_is_used_only_where_it_fits(tmp_path, texts):
    expected = content(texts)
    copy = shutil.copytree(texts, tmp_path / "copy.db")  # with times
    assert content(copy) == expected and len(list((copy / ".index").iterdir())) == 1
    other = write_texts(tmp_path / "other.db", N // 2)
    shutil.copytree(texts / ".index", other / ".index")
    assert len(content(other)) == N // 2
    folder = index_of(texts)
    mine = next(path for path in (other / ".index").iterdir() if path.name != folder.name)
    shutil.rmtree(mine)
    shutil.copytree(folder, mine)  # whole, under the right name, and of another store
    assert len(content(other)) == N // 2


def test_a_store_that_cannot_be_written_with_a_damaged_index(texts, monkeypatch):
    expected = content(texts)
    (index_of(texts) / "ids.npy").write_bytes(b"")
    real = os.rename

    def refuse(source, target):
        if str(target).startswith(str(texts)) or str(source).startswith(str(texts)):
            raise PermissionError(13, "Permission denied", str(target))
        real(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    assert content(texts) == expected and content(texts) == expected


def test_the_index_of_an_image_store_follows_its_counts(tmp_path):
    path = write_store(tmp_path / "img", {f"{i}.npz": regions() for i in range(9)}, {f"{i}.npz": 2 for i in range(9)})
    assert ImageStore(path).n_announced.tolist() == [2] * 9
    status = (path / f"nbb_{VARIANT}.json").stat()
    (path / f"nbb_{VARIANT}.json").write_text(json.dumps({f"{i}.npz": 3 for i in range(9)}))
    os.utime(path / f"nbb_{VARIANT}.json", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ImageStore(path).n_announced.tolist() == [3] * 9


def deep_lmdb(path: Path) -> Path:
    """An LMDB with branch pages, leaf pages and large values; returns its file."""
    path.mkdir()
    with lmdb.open(str(path), map_size=1 << 28, lock=False) as env, env.begin(write=True) as txn:
        for i in range(6000):
            txn.put(f"{i:05}.npz".encode(), bytes(9000 if i % 1000 == 0 else 30))
    return path / "data.mdb"


def test_a_sound_lmdb_passes(tmp_path):
    deep_lmdb(tmp_path / "a")
    lmdb_pages.check_pages(tmp_path / "a")
    with lmdb.open(str(tmp_path / "b"), lock=False):
        pass
    lmdb_pages.check_pages(tmp_path / "b")  # empty


@pytest.mark.parametrize("pointed_at", ["root", "sibling", "beyond", "free"])
def test_pages_that_point_somewhere_else_are_refused(tmp_path, pointed_at):
    file = deep_lmdb(tmp_path / "a")
    layout = lmdb_pages.read_layout(file.parent)
    data = bytearray(file.read_bytes())
    page = layout.root * layout.page_size
    first, second = struct.unpack_from("<HH", data, page + 16)
    sibling = struct.unpack_from("<HHH", data, page + second)
    number = {"root": layout.root, "sibling": sibling[0], "beyond": layout.last + 99, "free": 2**40}[pointed_at]
    struct.pack_into("<HHH", data, page + first, number & 0xFFFF, number >> 16 & 0xFFFF, number >> 32)
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"the LMDB is damaged[\s\S]*data\.mdb[\s\S]*page"):
        Reader(file.parent).check_pages()


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_lmdb_is_refused_or_read_without_waiting(tmp_path, seed):
    """Bytes changed anywhere in the headers of pages: after the check, LMDB reads what is left without dying."""
    file, rng = deep_lmdb(tmp_path / "a"), random.Random(seed)
    data = bytearray(file.read_bytes())
    start = rng.randrange(2, len(data) // 4096) * 4096
    for _ in range(3):
        data[start + rng.randrange(200)] = rng.randrange(256)
    file.write_bytes(data)
    try:
        reader = Reader(file.parent)
        reader.check_pages()
        assert len(list(reader.items())) == 6000
    except InputError as error:
        assert "data.mdb" in str(error)
    finally:
        reader.close()


def test_the_full_scan_checks_the_pages_of_a_store_that_has_an_index(texts, monkeypatch):
    content(texts)
    monkeypatch.setattr(fingerprints, "BLOCKS", 0)
    content(texts)  # an index that does not notice what follows
    layout, status = lmdb_pages.read_layout(texts), (texts / "data.mdb").stat()
    data = bytearray((texts / "data.mdb").read_bytes())
    struct.pack_into("<H", data, layout.root * layout.page_size + 12, 14)  # an impossible end of its entries
    (texts / "data.mdb").write_bytes(data)
    os.utime(texts / "data.mdb", ns=(status.st_atime_ns, status.st_mtime_ns))
    monkeypatch.setattr(Reader, "has_sample", lambda self, keys: True)
    assert f"page {layout.root} has a wrong header" in message(lambda: check.check_texts(str(texts)))


def test_more_entries_than_the_header_says(tmp_path):
    file = deep_lmdb(tmp_path / "a")
    data = bytearray(file.read_bytes())
    for page in (0, 4096):
        struct.pack_into("<Q", data, page + 120, 5000)
    file.write_bytes(data)
    reader = Reader(file.parent)
    assert "6,000 entries" in message(reader.check_pages)
    assert "more entries" in message(lambda: list(reader.items()))
    reader.close()


def test_what_is_not_a_file_in_place_of_an_lmdb(tmp_path):
    os.mkfifo(tmp_path / "data.mdb")
    assert "a pipe" in message(lambda: Reader(tmp_path))
    np.testing.assert_equal(len(os.listdir(tmp_path)), 1)
