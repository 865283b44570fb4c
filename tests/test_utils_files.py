"""Files and folders that appear whole or not at all."""

from pathlib import Path

import pytest

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


def test_a_folder_that_another_process_finished_first_stays(tmp_path: Path) -> None:
    path, temporary = tmp_path / "index", tmp_path / ".building-1"
    temporary.mkdir()
    with pytest.raises(InputError, match="not empty"), whole_folder(path, temporary) as folder:
        (folder / "ours").write_text("")
        path.mkdir()
        (path / "theirs").write_text("")
    assert folder == temporary and names(tmp_path) == ["index"] and names(path) == ["theirs"]
