"""The Dockerfile as a list of instructions, and the files that `docker build` sends with it."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
Instruction = tuple[str, str]  # (name in capitals, arguments on one line)


def instructions(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile in their order, without comments and continued lines."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split()[0].upper(), line.split(maxsplit=1)[1]) for line in joined]


def expand(value: str, variables: dict[str, str]) -> str:
    """`value` with $NAME and ${NAME} replaced; KeyError for one that nobody has set."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: variables[match[1]], value)


def environment(steps: list[Instruction], **start: str) -> dict[str, str]:
    """What ARG and ENV set, in their order, on top of `start`; later FROM stages are not known."""
    variables = dict(start)
    for name, arguments in steps:
        if name == "ARG" and "=" in arguments:
            key, value = arguments.split("=", 1)
            variables.setdefault(key, expand(value, variables))
        elif name == "ENV":
            pairs = dict(pair.split("=", 1) for pair in arguments.split())
            variables |= {key: expand(value, variables) for key, value in pairs.items()}
    return variables


def exec_form(steps: list[Instruction], name: str) -> list[str]:
    """The words of ENTRYPOINT or CMD; ValueError where they are not written as a JSON list."""
    words = json.loads(dict(steps)[name])
    assert isinstance(words, list) and all(isinstance(word, str) for word in words)
    return words


def pattern(text: str) -> re.Pattern[str]:
    """A pattern of COPY or .dockerignore, for a whole path from the root: * within a folder, **/ for any folders."""
    parts = [{"**/": "(.*/)?", "*": "[^/]*"}.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*)", text)]
    return re.compile("".join(parts))


def context(root: Path, patterns: list[str]) -> Iterator[Path]:
    """The files below `root` that patterns of .dockerignore leave, relative to `root`. A pattern also holds for all
    that is below what it names; exceptions (!) are not known."""
    rules = [pattern(text) for text in patterns]
    for folder, folders, files in os.walk(root):
        for names in (folders, files):
            paths = {name: os.path.relpath(os.path.join(folder, name), root) for name in names}
            names[:] = [name for name, path in sorted(paths.items()) if not any(rule.fullmatch(path) for rule in rules)]
        yield from (Path(folder, name).relative_to(root) for name in files)


def ignored_patterns() -> list[str]:
    """The patterns of the checkout's .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def copy(arguments: str, target: Path) -> None:
    """Do a COPY instruction from the checkout to the folder `target`, which stands for the working directory."""
    *sources, destination = arguments.split()
    files = list(context(ROOT, ignored_patterns()))
    for source in sources:
        matches = [path for path in files if source == "." or pattern(source).fullmatch(str(path))]
        assert matches, f"COPY {source}: no such file in the checkout"
        for path in matches:
            copied = target / destination / (path if source == "." else path.name)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, copied)
