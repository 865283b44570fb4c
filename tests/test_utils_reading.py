"""Files that cannot be read, unpacked or parsed: one kind of error, which names the file, and no waiting."""

import gzip
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from model import weight_files
from prepare.feature_rows import read_tsv
from prepare.tokenizer import read_vocab
from scripts import eval_nlvr2
from utils import checkpoint, unpickle
from utils.errors import InputError
from utils.files import open_text, read_json, read_text
from utils.json_text import parse_json
from utils.npz import open_npz

PACKED = gzip.compress(b'{"a": [1, 2, 3]}' * 100, mtime=0)

DAMAGED = {
    "an integer of 5,000 digits": (b'{"a": ' + b"7" * 5000 + b"}", "4300"),
    "nested 100,000 deep": (b"[" * 100_000 + b"]" * 100_000, "levels deep"),
    "nested objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "levels deep"),
    "half of a pair": (rb'{"a": ["\ud83d\ude00", "x \ud83d y"]}', r"x \ud83d y"),
    "half of a pair in a key": (rb'{"\udc00": 1}', r"\udc00"),
    "half of a pair in bytes": (b'{"a": "\xed\xa0\xbd"}', "byte 7"),
    "NaN": (b'{"a": {"b": [1.5, NaN]}}', "nan at a.b[1]"),
    "infinity": (b'[{"a": -Infinity}]', "-inf at [0].a"),
    "a number beyond float64": (b'{"a": [1e309]}', "inf at a[0]"),
    "two values for a key": (b'{"a": 1, "b": 2, "a": 3}', "'a'"),
    "two objects": (b"{} {}", "Extra data"),
    "nothing": (b"", "nothing"),
    "a cut gzip": (PACKED[:-9], "end-of-stream"),
    "a gzip with a wrong byte": (PACKED[:30] + b"\xff" + PACKED[31:], ""),
    "a gzip with a wrong sum": (PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], "CRC"),
    "a gzip in a gzip": (gzip.compress(PACKED), "gzipped file inside"),
    "a zip": (b"PK\x03\x04" + bytes(50), "zip archive"),
    "latin-1": ("{'a': 'é'}".encode("latin-1"), "byte 7"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_json_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    content, reason = DAMAGED[name]
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(path)
    assert f"file:     {path}" in str(error.value) and reason in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
def test_json_in_every_encoding_of_unicode(tmp_path: Path, encoding: str, packed: bool) -> None:
    content = '{"a": "ü 語", "b": 1e300, "c": "NaN \\\\ud800", "d": 1, "d": 1}'.encode(encoding)
    path = tmp_path / "a.json"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_json(path) == {"a": "ü 語", "b": 1e300, "c": "NaN \\ud800", "d": 1}
    with open_text(path) as stream:
        assert stream.read(3) == read_text(path)[:3] == '{"a'


def test_half_pairs_can_be_asked_for() -> None:
    assert parse_json(r'"a \ud83d"', "x", half_pairs=True) == "a \ud83d"


def test_a_gzip_that_unpacks_to_an_absurd_size(tmp_path: Path) -> None:
    path = tmp_path / "bomb.json.gz"
    zeros = gzip.compress(bytes(1 << 24), 1)
    path.write_bytes(zeros * 40)  # 640 MB
    with pytest.raises(InputError, match=r"absurd size[\s\S]*bomb\.json\.gz[\s\S]*gunzip"):
        read_json(path)
    path.write_bytes(gzip.compress(b"[" + b"0," * 100_000 + b"0]"))  # as dense, but small
    assert len(read_json(path)) == 100_001


def test_a_file_larger_than_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.touch()
    os.truncate(path, 1 << 42)
    with pytest.raises(InputError, match=r"does not fit in memory[\s\S]*a\.json"):
        read_json(path)


@pytest.mark.parametrize("read", [read_json, read_text, unpickle.load, checkpoint.load])
def test_what_is_not_a_file_is_refused_without_waiting(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    kinds = {"pipe": "a pipe", "socket": "a socket", "folder": "a folder", "loop": "", "absent": "", "a" * 300: ""}
    for name, kind in kinds.items():
        with pytest.raises(InputError) as error:
            read(tmp_path / name)
        assert name in str(error.value) and kind in str(error.value)
    with pytest.raises(InputError, match="a device"):
        read("/dev/zero")
    with pytest.raises(InputError, match="file not found"):
        read("a\0b")


def test_an_npz_that_is_a_pipe_or_damaged_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    np.savez(tmp_path / "a.npz", a=np.arange(100.0))
    content = (tmp_path / "a.npz").read_bytes()
    huge = content.replace(b"(100,)", b"(9**9)")
    for name, text in [("cut", content[:-30]), ("empty", b""), ("huge", huge), ("text", b"PK\x03\x04no")]:
        (tmp_path / f"{name}.npz").write_bytes(text)
    for name in ("pipe", "cut", "empty", "text"):
        with pytest.raises(InputError, match=rf"{name}\.npz"), open_npz(tmp_path / f"{name}.npz"):
            pass


def test_commands_do_not_wait_for_a_pipe(tmp_path: Path) -> None:
    for name in ("a.tsv", "a.csv", "w.safetensors", "vocab.txt"):
        os.mkfifo(tmp_path / name)
    for read in (
        lambda: list(read_tsv(tmp_path / "a.tsv")),
        lambda: weight_files.read_weights(tmp_path / "w.safetensors"),
        lambda: read_vocab(tmp_path / "vocab.txt"),
    ):
        with pytest.raises(InputError, match="a pipe"):
            read()
    with pytest.raises(SystemExit):
        eval_nlvr2.main([str(tmp_path / "a.csv")] * 2)


@pytest.mark.parametrize(
    ("content", "reason", "remedy"),
    [
        (b'{"a": 1}\n{"a": 2}\n', "JSON lines, one value a line", "--jsonl"),
        (b"", "nothing, or white space alone", "download"),
        (b" <!DOCTYPE html>", "a web page", "download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git-LFS pointer", "git lfs pull"),
        (b'{"a": 1', "Expecting", "the original file"),
        (b"1" * 5000, "digits", "the original file"),
        (b'{"a": 1} x', "Extra data", "the original file"),
    ],
)
def test_what_stands_in_the_place_of_json_is_said_with_a_remedy(
    tmp_path: Path, content: bytes, reason: str, remedy: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"not a JSON file[\s\S]*a\.json[\s\S]*{reason}[\s\S]*remedy: .*{remedy}"):
        read_json(path)
