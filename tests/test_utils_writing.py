"""What the operating system says when we write: one kind of error, the old file whole, and nothing left behind."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.txt_writer import TextWriter
from utils import checkpoint, log
from utils.errors import InputError, as_input_error
from utils.files import append_line, atomic_write, check_output, make_folder, new_folder, refuse_existing, write_json
from utils.npz import write_npz
from utils.os_errors import write_error, writing

MEGABYTE = 1 << 20


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As `ulimit -f`: a file cannot grow beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def write_folder(path: Path) -> None:
    with new_folder(path) as folder:
        np.savez(folder / "a.npz", a=np.zeros(MEGABYTE))


def write_texts(path: Path) -> None:
    with TextWriter(path, {"UNK": 1}) as writer:
        for i in range(3000):
            ids = np.random.default_rng(i).integers(0, 30_000, 200).tolist()
            writer.add(f"text{i}", {"input_ids": ids, "img_fname": "a.npz"})


WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: atomic_write(path, bytes(MEGABYTE)),
    "json": lambda path: write_json(path, ["text"] * MEGABYTE),
    "npz": lambda path: write_npz(path, [("a", np.zeros(MEGABYTE)), ("b", np.zeros(3))]),
    "weights": lambda path: checkpoint.save(path, {"a": torch.zeros(MEGABYTE)}),
    "train state": lambda path: checkpoint.save(path, {"a": torch.zeros(MEGABYTE)}, old_format=False),
    "folder": write_folder,
    "text store": write_texts,
}
FILES = ("bytes", "json", "npz", "weights", "train state")


@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_of_file_sizes(tmp_path: Path, name: str) -> None:
    path = tmp_path / "deep" / "out"
    path.parent.mkdir()
    if name in FILES:
        path.write_text("old")
    with largest_file(MEGABYTE // 4), pytest.raises(InputError) as error:
        WRITERS[name](path)
    text = str(error.value)
    assert f"cannot be written\n  file:     {path}" in text and "bytes are free" in text and "remedy" in text
    assert [entry.name for entry in path.parent.iterdir()] == (["out"] if name in FILES else [])
    assert name not in FILES or path.read_text() == "old"


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_where_a_folder_belongs_and_a_name_too_long(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    for path, reason in [
        (tmp_path / "file" / "out", "file is not a folder"),
        (tmp_path / "file" / "deep" / "out", "file is not a folder"),
        (tmp_path / ("x" * 300), "name too long"),
        (tmp_path / ("x" * 300) / "out", "name too long"),
    ]:
        with pytest.raises(InputError) as error:
            WRITERS[name](path)
        assert str(path) in str(error.value) and reason in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", FILES)
def test_what_is_not_a_file_is_not_replaced(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path, kind in [(tmp_path / "pipe", "a pipe"), (tmp_path / "folder", "a folder")]:
        with pytest.raises(InputError, match=rf"not a file[\s\S]*{path}[\s\S]*{kind}"):
            WRITERS[name](path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "pipe"]


def test_an_output_that_could_not_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [
        (tmp_path / "file" / "out", "file is not a folder"),
        (tmp_path / "pipe", "a pipe"),
        (tmp_path, "a folder"),
        (tmp_path / ("x" * 300), "name too long"),
    ]:
        with pytest.raises(InputError, match=reason):
            check_output(path)
        with pytest.raises(InputError, match=reason):
            append_line(path, "text")
    check_output(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    append_line(tmp_path / "new" / "out", "a")
    append_line(tmp_path / "new" / "out", "b")
    assert (tmp_path / "new" / "out").read_text() == "a\nb\n"


def test_the_log_and_the_metrics_stop_the_run(tmp_path: Path) -> None:
    logger, metrics = log.open_log(tmp_path), log.Metrics(tmp_path)
    with largest_file(100):
        with pytest.raises(InputError, match=r"cannot be written[\s\S]*log\.txt"):
            logger.info("x" * 200)
        with pytest.raises(InputError, match=r"cannot be written[\s\S]*metrics\.jsonl"):
            metrics.write({"step": 1, "text": "x" * 200})
    metrics.close()
    log.open_log(None)
    (tmp_path / "file").write_text("")
    for start in (log.open_log, log.Metrics):
        with pytest.raises(InputError, match=r"cannot be written[\s\S]*file is not a folder"):
            start(tmp_path / "file")


@pytest.mark.parametrize(
    "code, remedy", [("ENOSPC", "disk space"), ("EROFS", "can be written"), ("EACCES", "may write")]
)
def test_each_reason_has_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, remedy: str) -> None:
    number = getattr(__import__("errno"), code)

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InputError) as error:
        atomic_write(tmp_path / "a", b"12345")
    assert os.strerror(number) in str(error.value) and remedy in str(error.value)
    assert "expected: 5 bytes of space" in str(error.value) and not list(tmp_path.iterdir())


def test_a_disk_without_inodes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free_files, said in [(0, True), (5, False)]:
        disk = SimpleNamespace(f_bavail=13, f_frsize=4096, f_files=100, f_favail=free_files)
        monkeypatch.setattr(os, "statvfs", lambda _, disk=disk: disk)
        text = str(write_error(tmp_path / "a", OSError(28, "No space left on device")))
        assert "53,248 bytes are free" in text
        assert ("no more files can be made there (inodes)" in text) == said == ("remove files that" in text)
        assert "(inodes)" not in str(write_error(tmp_path / "a", OSError(30, "Read-only file system")))


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"link is a link to .*gone, which does not exist"):
        refuse_existing(tmp_path / "link")
    for write in (make_folder, check_output, write_folder):
        for path in (tmp_path / "link", tmp_path / "link" / "out"):
            if (write, path) == (check_output, tmp_path / "link"):
                continue  # a file takes the place of such a link
            with pytest.raises(
                InputError, match=r"link is a link to .*gone, which does not exist[\s\S]*remove the link"
            ):
                write(path)


def test_an_error_about_another_file_is_not_said_to_be_of_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input"), new_folder(tmp_path / "out"):
        (tmp_path / "input").read_text()


def test_outputs_with_paths_of_other_programs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("s3://bucket/x", "$RUNS/x", "~/x", "C:\\x"):
        for write in (check_output, make_folder, refuse_existing, lambda path: atomic_write(path, b"")):
            with pytest.raises(InputError, match="not a path of this machine"):
                write(path)
    assert not list(tmp_path.iterdir())


def test_other_errors_of_the_operating_system_name_file_and_place() -> None:
    def fail(error: BaseException) -> Any:
        try:
            raise error
        except BaseException as raised:
            return as_input_error(raised)

    text = str(fail(PermissionError(13, "Permission denied", "/a/b")))
    assert "/a/b" in text and "test_utils_writing.py, line" in text and "Permission denied" in text
    assert "out of memory" in str(fail(MemoryError("2 GB")))
    assert fail(RuntimeError("x")) is None and fail(ConnectionResetError(104, "reset")) is None
    assert "bytes are free" in str(write_error("/tmp/x", OSError(28, "No space left on device")))
    assert "disk space" not in str(write_error("/tmp/x", OSError(17, "File exists")))


def test_a_limit_of_file_sizes_is_named_where_the_library_hides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.os_errors.resource.getrlimit", lambda kind: (4096, 4096))
    expected = r"a file may have at most 4,096 bytes[\s\S]*ulimit -f unlimited"
    with pytest.raises(InputError, match=expected), writing(tmp_path / "a", errors=(RuntimeError,)):
        raise RuntimeError("Input/output error")
