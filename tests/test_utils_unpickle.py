"""Unpickling: plain data in, nothing run."""

import gzip
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from utils.errors import InputError
from utils.unpickle import load


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


PLAIN: list[Any] = [
    {"sent_ids": [0, 1], "file_name": "COCO_train2014_000000581857_16.jpg", "ok": True, "none": None, "x": 2.5},
    ("ümlaut", b"\x00\xff", {1, 2}, frozenset([3]), 2**70, -1),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_and_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = [np.arange(6, dtype="<f4").reshape(2, 3), np.asfortranarray(np.eye(3, dtype=">i8")), np.array(["a", "bc"])]
    content = [*PLAIN, arrays, [np.float32(0.5), np.int64(7), np.bool_(True)]]
    found = load(put(tmp_path / "x.p", gzip.compress(pickle.dumps(content, protocol))))
    assert found[:2] == content[:2] and found[3] == [0.5, 7, True]
    assert [type(value) for value in found[3]] == [float, int, bool]
    for array, expected in zip(found[2], arrays):
        assert (array.dtype.kind, array.dtype.itemsize) == (expected.dtype.kind, expected.dtype.itemsize)
        assert array.flags.f_contiguous == expected.flags.f_contiguous
        np.testing.assert_array_equal(array, expected)


def test_python_2_wrote_it(tmp_path: Path) -> None:
    """Its strings are bytes here: read as UTF-8, else as latin-1. The bytes of its arrays stay as they are."""
    strings = b"\x80\x02]q\x00(U\x03dogq\x01X\x05\x00\x00\x00\xc3\xbcberq\x02U\x02\xe9aq\x03I5\nL7L\ne."
    assert load(put(tmp_path / "s.p", strings)) == ["dog", "über", "éa", 5, 7]
    for text, encoded in (("caf\u00e9", b"caf\xc3\xa9"), ("caf\u00e9", b"caf\xe9"), ("\u0142", b"\xc5\x82")):
        refs = b"\x80\x02]q\x00}U\x04sent(U" + bytes([len(encoded)]) + encoded + b"tsa."
        assert load(put(tmp_path / "r.p", refs)) == [{"sent": (text,)}]
    array = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02i2K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x04\x01\x00\xff\xfftb."
    )
    assert load(put(tmp_path / "a.p", array)).tolist() == [1, -1]
    as_text = array.replace(b"\x01\x00\xff\xff", b"\xc3\xa9\xc3\xe9")  # in part UTF-8
    assert load(put(tmp_path / "b.p", as_text)).tolist() == [-22077, -5693]
    sets = b"c__builtin__\nset\n((lI1\naI2\natR."
    assert load(put(tmp_path / "set.p", sets)) == {1, 2}


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (pickle.dumps([Harm()]), r"posix\.system"),
        (pickle.dumps(Harm(), 0), r"posix\.system"),
        (b"cos\nsystem\n(S'touch harmed'\ntR.", r"os\.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", r"__builtin__\.eval"),
        (b"cbuiltins\ngetattr\n.", r"builtins\.getattr"),
        (b"cnumpy\nload\n.", r"numpy\.load"),
        (pickle.dumps(torch.float32), r"torch\.|builtins\.getattr"),
        (pickle.dumps(torch.zeros(2)), r"torch\._utils\._rebuild_tensor_v2"),
        (pickle.dumps(OrderedDict(a=1)), r"collections\.OrderedDict"),
        (pickle.dumps(np.random.default_rng(0)), r"numpy\.random"),
    ],
)
def test_whatever_asks_for_code_is_refused_by_name(tmp_path: Path, monkeypatch: Any, content: bytes, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"not plain data[\s\S]*refs\.p[\s\S]*found: +" + name):
        load(put(tmp_path / "refs.p", content))
    assert not (tmp_path / "harmed").exists()


HEAD = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nU\x02i2K\x00K\x01\x87R"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2])[:-3],
        pickle.dumps(np.array([{"a": 1}], dtype=object)),
        pickle.dumps(np.zeros(2, [("a", "<i4"), ("b", "<f4")])),
        HEAD + b"(K\x01K\x03\x85" + DTYPE + b"\x89U\x04\x01\x00\xff\xfftb.",  # 3 numbers, 4 bytes
        HEAD + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89U\x00tb.",  # -1 numbers
        HEAD + b"(K\x01K\x02\x85cnumpy\nndarray\n\x89U\x04\x01\x00\xff\xfftb.",  # no dtype
        b"cnumpy\nndarray\n(I2\ntR.",
        b"\x80\x02Pid\n.",
    ],
)
def test_broken_pickles_and_arrays_of_objects_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"not a pickle, or a damaged one[\s\S]*refs\.p"):
        load(put(tmp_path / "refs.p", content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"file not found[\s\S]*refs\.p"):
        load(tmp_path / "refs.p")
