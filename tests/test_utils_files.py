"""Files and folders that appear whole or not at all."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_world import ROOT
from utils.errors import InputError
from utils.files import atomic_file, new_folder, whole_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with atomic_file(path) as stream:
        stream.write(b"old")
        assert not path.exists() and len(names(path.parent)) == 1
    with pytest.raises(ZeroDivisionError), atomic_file(path) as stream:
        stream.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and names(path.parent) == ["a.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    with pytest.raises(ZeroDivisionError), new_folder(path) as folder:
        (folder / "a").write_text("")
        raise ZeroDivisionError
    assert names(path.parent) == []
    path.mkdir()
    with new_folder(path) as folder:  # an empty folder is replaced
        (folder / "a").write_text("")
        assert names(path) == []
    assert names(path) == ["a"] and names(path.parent) == ["out"]
    with pytest.raises(InputError, match="the output exists already and is not empty"), new_folder(path):
        pass
    with pytest.raises(InputError, match="the output exists already and is not empty"), new_folder(path / "a"):
        pass


WRITER = """
import sys, time
from utils.files import new_folder
with new_folder(sys.argv[1]) as folder:
    (folder / "a").write_text("")
    print(flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_left_is_removed_by_the_next_and_a_living_run_is_respected(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        temporary = f".out.{other.pid}.tmp"
        assert names(tmp_path) == [temporary, f"{temporary}.lock"]
        (tmp_path / ".outer.1.tmp").mkdir()  # another output's
        with new_folder(tmp_path / "out") as folder:
            (folder / "b").write_text("")
        assert names(tmp_path) == [temporary, f"{temporary}.lock", ".outer.1.tmp", "out"]
        other.kill()
    shutil.rmtree(tmp_path / "out")
    with new_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == [".outer.1.tmp", "out"]


def test_a_folder_that_another_process_finished_first_stays(tmp_path: Path) -> None:
    path, temporary = tmp_path / "index", tmp_path / ".building-1"
    temporary.mkdir()
    with pytest.raises(InputError, match="not empty"), whole_folder(path, temporary) as folder:
        (folder / "ours").write_text("")
        path.mkdir()
        (path / "theirs").write_text("")
    assert folder == temporary and names(tmp_path) == ["index"] and names(path) == ["theirs"]
