"""What `scripts/install_horovod.sh` says before it builds anything. That it builds: the tests that need Horovod."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.tiny_world import ROOT

SCRIPT = ROOT / "scripts" / "install_horovod.sh"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with the commands that the script needs, each of which does nothing; one Python without torch."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "Python.h").touch()
    python = f'case "$2" in *sysconfig*) echo {tmp_path};; *) echo "No module named torch" >&2; exit 1;; esac'
    for name, lines in {"cmake": "", "make": "", "c++": "", "python3": python}.items():
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)
    for name in ("bash", "dirname"):
        (folder / name).symlink_to(f"/usr/bin/{name}" if os.path.exists(f"/usr/bin/{name}") else f"/bin/{name}")
    return folder


def refusal(tools: Path, *arguments: str) -> str:
    environment = {"PATH": str(tools), "HOME": str(tools), "VIRTUAL_ENV": str(tools)}
    command = [str(tools / "bash"), str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and not done.stdout
    return done.stderr


@pytest.mark.parametrize("tool", ["cmake", "make", "c++"])
def test_a_missing_build_tool_is_named_with_its_package(tools: Path, tool: str) -> None:
    (tools / tool).unlink()
    assert f"error: {tool} is not installed" in refusal(tools) and "apt-get install" in refusal(tools)


def test_a_python_without_headers_or_torch_or_that_is_absent_is_named(tools: Path) -> None:
    assert "cannot import torch" in refusal(tools) and "requirements.txt" in refusal(tools)
    (tools.parent / "Python.h").unlink()
    assert "the headers of Python are not installed" in refusal(tools)
    assert "no Python named python9" in refusal(tools, "python9")
