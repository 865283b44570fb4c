"""The Dockerfile's own steps in a bare Debian 12: a chroot that debootstrap makes, because there may be no Docker.

It needs root, debootstrap, the network of the package manager, 4 GB and many minutes, so it runs only where the
variable UNITER_TEST_CHROOT names a folder for it:

    UNITER_TEST_CHROOT=/var/tmp/chroot ./scripts/test.sh -n 0 tests/test_container_chroot.py

`log.txt` in that folder has all output. The chroot gets this machine's settings of pip and apt, and so the build of
torch that these settings choose: the Dockerfile and its scripts know of none of them. Mounts are made in a namespace
that ends with each step, so nothing is ever mounted where this test deletes the chroot.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import dockerfile
from tests.dockerfile import ROOT

SWITCH = "UNITER_TEST_CHROOT"
NAMESPACE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
# What a container has: process 1 of its own, devices, shared memory. $1: the chroot; $2: folders that are handed in,
# one a line; then the command.
ENTER = r"""
set -e
root="$1" folders="$2"
shift 2
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
while read -r folder; do
    [ -n "$folder" ] || continue
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    mount -o remount,bind,ro "$root$folder"
done <<<"$folders"
exec chroot "$root" "$@"
"""
PIP_VARIABLES = re.compile(r"PIP_\w+|\w+_proxy|\w+_PROXY|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE")


def reason_to_skip() -> str:
    missing = [tool for tool in ("debootstrap", "unshare", "chroot") if shutil.which(tool) is None]
    if SWITCH not in os.environ:
        return f"takes many minutes: name a folder for it in {SWITCH}"
    if os.geteuid() != 0:
        return "only root can make a chroot"
    return f"not installed: {', '.join(missing)}" if missing else ""


class Chroot:
    """A Debian 12 in a folder, with the settings of this machine's package managers."""

    def __init__(self, folder: Path):
        self.root, self.log = folder / "root", folder / "log.txt"
        self.folders: list[str] = []  # handed in: those of packages on this machine's disk
        self.variables: dict[str, str] = {}

    def say(self, line: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{line}\n")
        print(line, flush=True)

    def do(self, title: str, command: list[str], limit: float = 6 * 3600) -> str:
        """Run a command with all its processes in a namespace; returns its output. AssertionError where it fails."""
        start, before = time.monotonic(), self.log.stat().st_size
        with self.log.open("a") as log:
            done = subprocess.run(
                [*NAMESPACE, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, timeout=limit
            )
        output = self.log.read_bytes()[before:].decode(errors="replace")
        self.say(f"== {title}: status {done.returncode}, {time.monotonic() - start:.0f} s")
        assert done.returncode == 0, "\n".join([title, *output.splitlines()[-40:]])
        return output

    def install(self) -> None:
        """Make the bare system, from the mirror of this machine's apt where it serves Debian 12."""
        query = ["--format", "$(REPO_URI)", "Codename: bookworm", "Created-By: Packages"]
        sources = subprocess.run(["apt-get", "indextargets", *query], capture_output=True, text=True)
        mirror = sources.stdout.split()[:1]
        self.do("debootstrap", ["debootstrap", "--variant=minbase", "bookworm", str(self.root), *mirror])
        for name in ("resolv.conf", "hosts"):
            shutil.copyfile(f"/etc/{name}", self.root / "etc" / name)
        if mirror:
            for name in ("sources.list", "sources.list.d", "apt.conf.d", "trusted.gpg.d", "keyrings"):
                there, here = Path("/etc/apt", name), self.root / "etc/apt" / name
                if there.is_dir():
                    shutil.copytree(there, here, dirs_exist_ok=True)
                elif there.exists() or here.exists():
                    here.write_text(there.read_text() if there.exists() else "")

    def hand_in_pip_settings(self) -> None:
        """Give the chroot pip's settings, the files they name (copied), and the folders (mounted read-only)."""
        lines = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
        of_files = [line.split("=", 1) for line in lines.splitlines() if not line.startswith(":env:")]
        settings = [(name.split(".", 1)[1], value.strip("'\"")) for name, value in of_files]
        self.variables = {name: self._there(v) for name, v in os.environ.items() if PIP_VARIABLES.fullmatch(name)}
        body = "".join(f"{name} = {self._there(value)}\n" for name, value in settings)
        (self.root / "etc/pip.conf").write_text(f"[global]\n{body}")

    def _there(self, value: str) -> str:
        """A setting as it reads in the chroot; its files and folders are handed in."""
        words = []
        for word in value.split():
            path = word.removeprefix("file://")
            if path.startswith("/") and Path(path).is_file():
                copied = self.root / "opt/settings" / Path(path).name
                copied.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copied)
                word = f"/opt/settings/{copied.name}"
            elif path.startswith("/") and Path(path).is_dir():
                # The files of an index lie beside it. Nothing that the system needs may be covered by a mount.
                folder = Path(path).parent if path != word else Path(path)
                assert len(folder.parts) > 2, f"{folder} cannot be handed in: move what pip's settings name deeper"
                self.folders.append(str(folder))
            words.append(word)
        return " ".join(words)

    def inside(self, variables: dict[str, str], workdir: str, command: list[str]) -> list[str]:
        """The command line that enters the chroot and runs `command` in `workdir` with nothing but `variables`."""
        pairs = [f"{name}={value}" for name, value in (variables | self.variables).items()]
        shell = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', workdir, *command]
        folders = "\n".join(sorted(set(self.folders)))
        return ["bash", "-c", ENTER, "enter", str(self.root), folders, "/usr/bin/env", "-i", *pairs, *shell]

    def remove(self) -> None:
        """Delete the chroot, unless something is mounted in it."""
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        assert not [point for point in mounts if Path(point).is_relative_to(self.root)], "mounted: nothing is deleted"
        shutil.rmtree(self.root, ignore_errors=True)


@pytest.fixture
def chroot() -> Iterator[Chroot]:
    folder = Path(os.environ[SWITCH]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chroot = Chroot(folder)
    assert not chroot.root.exists(), f"{chroot.root} exists: delete it, or name another folder in {SWITCH}"
    chroot.log.write_text("")
    try:
        yield chroot
    finally:
        chroot.remove()


def cpu_torch_is_at_hand(folder: Path) -> bool:
    """Whether pip would take a CPU build for the pinned torch on Python 3.11; others are gigabytes."""
    pin = next(line for line in (ROOT / "requirements.txt").read_text().split() if line.startswith("torch=="))
    options = "--dry-run --quiet --no-deps --ignore-installed --only-binary=:all: --python-version=3.11 --report=-"
    command = [sys.executable, "-m", "pip", "install", *options.split(), f"--target={folder / 'none'}", pin]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return report["install"][0]["metadata"]["version"].endswith("+cpu")


def stops_on_sigterm(chroot: Chroot, command: list[str]) -> int:
    """The status of `command` as process 1 of a namespace after SIGTERM, which it gets when it has said so."""
    process = subprocess.Popen([*NAMESPACE, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(first[0]), signal.SIGTERM)
    return process.wait(120)


@pytest.mark.slow
@pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())
def test_the_steps_of_the_dockerfile_set_up_a_bare_debian_on_which_the_fast_tests_pass(chroot: Chroot) -> None:
    if not cpu_torch_is_at_hand(chroot.log.parent):
        pytest.skip("pip's settings choose a GPU build of torch: name a folder with the CPU wheel in PIP_FIND_LINKS")
    start = time.monotonic()
    chroot.install()
    chroot.hand_in_pip_settings()
    steps = dockerfile.instructions((ROOT / "Dockerfile").read_text())
    system = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    variables, workdir = dockerfile.environment(steps, **system), "/"
    for name, arguments in steps:
        if name == "WORKDIR":
            workdir = dockerfile.expand(arguments, variables)
            (chroot.root / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            dockerfile.copy(arguments, chroot.root / workdir.lstrip("/"))
        elif name == "RUN":
            chroot.do(f"RUN {arguments}", chroot.inside(variables, workdir, ["/bin/sh", "-c", arguments]))
    again = chroot.do("bootstrap again", chroot.inside(variables, workdir, ["scripts/bootstrap.sh"]))
    assert "installing" not in again and "apt" not in again and "ready: torch" in again
    entry = dockerfile.exec_form(steps, "ENTRYPOINT")
    waits = "import time; print('ready', flush=True); time.sleep(600)"
    command = chroot.inside(variables, workdir, [*entry, "python", "-c", waits])
    assert stops_on_sigterm(chroot, command) == 128 + signal.SIGTERM
    output = chroot.do("fast tests", chroot.inside(variables, workdir, [*entry, "scripts/test.sh", "--fast"]))
    chroot.say(f"== the whole: {time.monotonic() - start:.0f} s")
    assert re.search(r"\d+ passed", output.splitlines()[-1]), output[-2000:]
