"""The Dockerfile, launch_container.sh and scripts/bootstrap.sh, without Docker and without an installation."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests import dockerfile
from tests.dockerfile import ROOT
from utils.paths import MOUNTS

LAUNCH = ROOT / "launch_container.sh"
SCRIPTS = ("launch_container.sh", "scripts/bootstrap.sh", "scripts/setup.sh")


def steps() -> list[dockerfile.Instruction]:
    return dockerfile.instructions((ROOT / "Dockerfile").read_text())


def shell(command: list[str], **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Run a command with these variables; None: without that one."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": None, "UNITER_VENV": None, "UNITER_REQUIREMENTS": None, **variables}
    given = {name: value for name, value in env.items() if value is not None}
    return subprocess.run(command, env=given, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)


# The Dockerfile


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed (requirements-dev.txt)")
def test_hadolint_passes() -> None:
    done = subprocess.run(["hadolint", "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (apt-get)")
def test_shellcheck_passes() -> None:
    command = ["shellcheck", "--external-sources", "--shell=bash", *SCRIPTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_base_image_is_an_argument_with_a_pinned_version() -> None:
    default, source = steps()[:2]
    assert default[0] == "ARG" and re.fullmatch(r"BASE_IMAGE=[\w/]+:\d+\.\d+\.\d+-base-ubuntu2\d\.04", default[1])
    assert source == ("FROM", "${BASE_IMAGE}")


def test_the_image_starts_programs_without_a_shell_between_them_and_the_signals() -> None:
    assert dockerfile.exec_form(steps(), "ENTRYPOINT") == ["/usr/bin/tini", "--"]
    assert dockerfile.exec_form(steps(), "CMD") == ["bash"]


def test_bootstrap_installs_all_and_links_give_the_mounts_their_names_below_data_root() -> None:
    run = [arguments for name, arguments in steps() if name == "RUN"]
    assert run[0].startswith("scripts/bootstrap.sh ") and not re.search("apt-get|pip", " ".join(run))
    links = {folder: mount for mount, folder in re.findall(r"ln -s /(\w+) /uniter/(\w+)", " ".join(run[1:]))}
    assert links == {folder: mount for mount, folder in MOUNTS.items()}
    variables = dockerfile.environment(steps(), PATH="")
    assert variables["REQUIREMENTS"] == "requirements.txt" and variables["HOROVOD"] == "0"


def test_every_copied_file_exists(tmp_path: Path) -> None:
    for name, arguments in steps():
        if name == "COPY":
            dockerfile.copy(arguments, tmp_path)
    assert (tmp_path / "scripts/bootstrap.sh").stat().st_mode & 0o100 and (tmp_path / "train_vqa.py").exists()


def test_no_file_names_a_package_index() -> None:
    for name in (*SCRIPTS, "Dockerfile", *(path.name for path in ROOT.glob("requirements*.txt"))):
        assert not re.search(r"https?://|index-url|find-links|--trusted-host", (ROOT / name).read_text()), name


def test_the_build_context_has_all_files_of_the_checkout_and_none_of_its_runs(tmp_path: Path) -> None:
    wanted = ["Dockerfile", "model/uniter.py", "scripts/demo_world/probe.py", "tests/golden/a.json", "config/x.json"]
    unwanted = [".git/config", ".venv/bin/python", "demo/a/b.pt", "output/x", "txt_db/a.db/data.mdb", "img_db/x"]
    unwanted += ["pretrained/a.pt", "finetune/x", "model/__pycache__/uniter.pyc", "a.pyc", ".mypy_cache/x", ".index/x"]
    for name in wanted + unwanted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = dockerfile.ignored_patterns()
    assert sorted(map(str, dockerfile.context(tmp_path, patterns))) == sorted(wanted)
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()}
    assert {pattern.removeprefix("**/") for pattern in patterns} == ignored | {".git"}


# Requirements for a V100


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith(("#", "-r"))]
    return dict(line.split("==") for line in lines)


def test_the_pins_for_a_v100_differ_in_torch_alone() -> None:
    common, v100 = pins("requirements.txt"), pins("requirements-v100.txt")
    assert {name for name in common.keys() | v100.keys() if common.get(name) != v100.get(name)} == {"torch"}
    # From 2.11 on, the default build of torch has no kernels for compute capability 7.0.
    assert v100["torch"] in Requirement("torch>=2.6,<2.11").specifier


# launch_container.sh


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in ("txt db", "img,db", "output", "pretrained")]
    for path in paths:
        path.mkdir()
    return list(map(str, paths))


def docker_command(*arguments: str, **variables: str | None) -> list[str]:
    done = shell([str(LAUNCH), "--dry_run", *arguments], **variables)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def refusal(*arguments: str, **variables: str | None) -> str:
    done = shell([str(LAUNCH), *arguments], **variables)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: ")
    return done.stderr


def test_the_five_folders_are_mounted_as_in_the_release(folders: list[str]) -> None:
    command = docker_command(*folders)
    mounts = [command[i + 1] for i, word in enumerate(command) if word == "--mount"]
    txt, img, output, pretrained = folders
    assert mounts == [
        f"type=bind,src={ROOT},dst=/src",
        f"type=bind,src={txt},dst=/txt,readonly",
        f'type=bind,"src={img}",dst=/img,readonly',  # docker reads a field with a comma only in quotes
        f"type=bind,src={output},dst=/storage",
        f"type=bind,src={pretrained},dst=/pretrain,readonly",
    ]
    assert command[:2] == ["docker", "run"] and {"--rm", "--ipc=host"} < set(command) and command[-1] == "uniter"
    assert "-it" not in command  # no terminal here


def test_relative_folders_become_absolute(folders: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    relative = [os.path.relpath(folder, ROOT) for folder in folders]
    assert docker_command(*relative) == docker_command(*folders)


GPUS: list[tuple[str | None, list[str]]] = [
    (None, ["--gpus", "all"]),
    ("all", ["--gpus", "all"]),
    ("0,2", ["--gpus", '"device=0,2"']),
    ("GPU-8a-1", ["--gpus", '"device=GPU-8a-1"']),
    ("", []),
    ("-1", []),
]


@pytest.mark.parametrize(("visible", "words"), GPUS)
def test_cuda_visible_devices_chooses_the_gpus(folders: list[str], visible: str | None, words: list[str]) -> None:
    command = docker_command(*folders, CUDA_VISIBLE_DEVICES=visible)
    start = ["docker", "run", "--rm", "--ipc=host", "--workdir", "/src", "--env", "UNITER_CACHE=/storage/.cache"]
    assert command[: command.index("--mount")] == start + words


def test_a_command_an_image_and_arguments_of_docker_are_passed_on(folders: list[str]) -> None:
    options = ["--image", "uniter:v100", "--docker", "--user=1000:1000", "--docker", "--env=A=b c"]
    command = docker_command(*options, *folders, "python", "train_vqa.py", "--config", "/src/a b.json")
    extra = ["--user=1000:1000", "--env=A=b c", "uniter:v100"]
    assert command[-7:] == [*extra, "python", "train_vqa.py", "--config", "/src/a b.json"]


def test_wrong_arguments_are_refused(folders: list[str]) -> None:
    assert "3 folders; expected four: usage" in refusal(*folders[:3])
    assert f"IMG_DIR: no folder {folders[1]}/x; expected" in refusal(folders[0], f"{folders[1]}/x", *folders[2:])
    assert "unknown option --gpu; usage" in refusal("--gpu", *folders)
    assert "--image needs a value" in refusal("--image")
    for devices in ("0 1", "0,", ",1", "0,,1", '0"'):
        assert f"CUDA_VISIBLE_DEVICES={devices}; expected" in refusal(*folders, CUDA_VISIBLE_DEVICES=devices)


def test_it_may_be_sourced_as_on_the_page_of_the_release(folders: list[str]) -> None:
    script = f"source {LAUNCH} --dry_run {shlex.join(folders)}; echo lives; source {LAUNCH} /; echo status $?"
    done = shell(["bash", "-c", script])
    assert done.stdout.splitlines()[1:] == ["lives", "status 2"] and "expected four" in done.stderr


def fake_docker(folder: Path, answer: str) -> dict[str, str | None]:
    """A `docker` that answers to `image inspect` and prints the words of all else, one a line."""
    folder.mkdir()
    program = folder / "docker"
    program.write_text(f'#!/bin/bash\nif [ "$1" = image ]; then {answer}; fi\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_docker_gets_the_words_that_dry_run_prints(folders: list[str], tmp_path: Path) -> None:
    done = shell([str(LAUNCH), *folders, "ls", "a  b"], **fake_docker(tmp_path / "bin", "exit 0"))
    assert done.returncode == 0 and ["docker", *done.stdout.splitlines()] == docker_command(*folders, "ls", "a  b")


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
def test_the_command_of_docker_understands_every_word(folders: list[str], tmp_path: Path) -> None:
    """It reads its arguments before it looks for the daemon, which is nowhere here."""
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/nowhere", "CUDA_VISIBLE_DEVICES": "0,2"}
    done = shell([str(LAUNCH), "--image", "x", *folders], **nowhere)
    assert "annot connect to the Docker daemon" in done.stderr and "invalid argument" not in done.stderr
    assert "invalid argument" in shell(["docker", "run", "--mount", "src=/a,b", "x"], **nowhere).stderr


def test_a_missing_image_and_a_silent_docker_are_told_apart(folders: list[str], tmp_path: Path) -> None:
    absent = fake_docker(tmp_path / "absent", "echo Error: No such image: uniter >&2; exit 1")
    assert "no image uniter; build it in the checkout: docker build -t uniter ." in refusal(*folders, **absent)
    silent = fake_docker(tmp_path / "silent", "echo permission denied >&2; exit 1")
    assert "docker does not answer: permission denied" in refusal(*folders, **silent)


# scripts/bootstrap.sh and scripts/setup.sh


def bootstrap(tmp_path: Path, system: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "os-release").write_text(system)
    return shell(["scripts/bootstrap.sh", *arguments], UNITER_OS_RELEASE=str(tmp_path / "os-release"))


SYSTEMS = [
    ("ID=debian\nVERSION_ID=12", "python3"),
    ("ID=debian\nVERSION_ID=13", "python3"),
    ('ID=ubuntu\nVERSION_ID="24.04"', "python3"),
    ('ID=ubuntu\nVERSION_ID="22.04"', "python3.11"),
]


@pytest.mark.parametrize(("system", "python"), SYSTEMS)
def test_the_packages_are_those_of_the_system(tmp_path: Path, system: str, python: str) -> None:
    done = bootstrap(tmp_path, system, "--dry_run")
    packages = done.stdout.splitlines()[0].split()
    assert packages == ["packages:", "ca-certificates", "git", "tini", python, f"{python}-venv"], done.stderr
    done = bootstrap(tmp_path, system, "--dry_run", "--horovod", "1", "--requirements", "requirements-v100.txt")
    assert {"build-essential", "cmake", "libopenmpi-dev", f"{python}-dev"} < set(done.stdout.split())
    assert "requirements-v100.txt" in done.stdout and "then: scripts/install_horovod.sh" in done.stdout


OTHERS = ["", "debian", "debian 11", "ubuntu 20.04", "ubuntu 22.10", "fedora 42", "linuxmint 22", "debian testing"]


@pytest.mark.parametrize("system", OTHERS)
def test_other_systems_are_refused_by_name(tmp_path: Path, system: str) -> None:
    words = zip(("ID", "VERSION_ID"), system.split())
    done = bootstrap(tmp_path, "ID_LIKE=ubuntu\n" + "\n".join(f"{key}={word}" for key, word in words), "--dry_run")
    assert done.returncode == 2 and done.stderr.startswith("error: unknown system: ")
    assert "expected Debian 12 or later, or Ubuntu 22.04" in done.stderr and done.stdout == ""


MISTAKES = [
    (["--horovod", "yes"], "--horovod yes; expected 0 or 1"),
    (["--horovod"], "--horovod needs a value"),
    (["--requirements", "none.txt"], "--requirements: no file none.txt in"),
    (["now"], "unknown argument now"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_bootstrap_refuses_wrong_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = bootstrap(tmp_path, "ID=debian\nVERSION_ID=12", *arguments)
    assert done.returncode == 2 and message in done.stderr


def test_bootstrap_without_root_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "bin/id"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 1000\n")
    program.chmod(0o755)
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_ID=12")
    variables = {"PATH": f"{program.parent}:{os.environ['PATH']}", "UNITER_OS_RELEASE": str(tmp_path / "os-release")}
    done = shell(["scripts/bootstrap.sh"], **variables)
    assert done.returncode == 2 and "must run as root: sudo" in done.stderr and done.stdout == ""


PYTHON = """#!/bin/bash
case "$1 $2" in
"-c "*) ;;
"-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/bin/pip"; chmod +x "$3/bin/pip" ;;
"-m pip") cat "${@: -1}"; echo end ;;
esac
"""


def test_an_environment_for_a_v100_keeps_its_torch(tmp_path: Path) -> None:
    """With a Python that prints the pins which pip is told."""
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    venv = tmp_path / "venv"

    def set_up(file: str, **variables: str) -> list[str]:
        """The pins that are installed."""
        variables |= {"UNITER_VENV": str(venv), "PYTHON": str(tmp_path / "python")}
        done = shell(["bash", "-euc", f". scripts/setup.sh {file}; command -v python"], **variables)
        assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"{venv}/bin/python", done.stderr
        return [line for line in done.stdout.splitlines() if not line.startswith(("#", "installing", "/", "end"))]

    v100 = [f"{name}=={version}" for name, version in pins("requirements-v100.txt").items()]
    tools = [line for line in (ROOT / "requirements-dev.txt").read_text().splitlines() if not line.startswith("-r")]
    assert set_up("requirements.txt", UNITER_REQUIREMENTS="requirements-v100.txt") == v100
    assert set_up("requirements.txt") == []  # nothing new
    assert set_up("requirements-dev.txt") == v100 + tools
    assert set_up("requirements-dev.txt") == set_up("requirements.txt") == []
    common = [f"{name}=={version}" for name, version in pins("requirements.txt").items()]
    assert set_up("requirements.txt", UNITER_REQUIREMENTS="requirements.txt") == common  # another base is asked for
    assert set_up("requirements-dev.txt", UNITER_REQUIREMENTS="requirements-v100.txt") == v100 + tools


def test_a_replacement_of_the_pins_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pip").touch()
    (tmp_path / "bin/pip").chmod(0o755)
    variables = {"UNITER_VENV": str(tmp_path), "UNITER_REQUIREMENTS": "none.txt"}
    done = shell(["bash", "-euc", ". scripts/setup.sh requirements.txt"], **variables)
    assert done.returncode == 2 and "no file none.txt in" in done.stderr
