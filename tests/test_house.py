"""The house rules: floors, sizes, names, documented paths, packages, and the options that users know."""

import argparse
import ast
import fnmatch
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_args

import pytest
from packaging.requirements import Requirement

from utils.options import field_metadata, field_types

ROOT = Path(__file__).parent.parent
Options: TypeAlias = dict[str, str]  # option → help

# The rooms of each floor, from low to high. A file imports its own room and the rooms of lower floors.
FLOORS = ("utils", "data model evaluation", "optim prepare", "train_*.py prepro.py scripts", "inf_*.py examples")
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
ROOT_FILES = {"train_*.py": "train_*.py", "pretrain*.py": "train_*.py", "inf_*.py": "inf_*.py"}  # pattern → room
# Users run these alone. What the project shares is written in them once more, so they may be longer.
PLAIN_FILES = ("scripts/convert_imgdir.py", "scripts/eval_nlvr2.py")
MODULES = {"pillow": "PIL"}  # package → module, where not only - and _ differ
NOT_IMPORTED = {"tensorboard": "torch.utils.tensorboard imports it"}
# The command lines that show all parsers of a script.
COMMANDS: dict[str, tuple[list[str], ...]] = {"prepro.py": ([], ["--task", "re"])}

BAD_NAME = re.compile(
    "[._]*(found|made|kept|said|told|given|drawn|held|asked|taken|shown|seen|known|listed|chosen|wanted|written|"
    "own|there|counted|answered|loaded|keep|twice)_*"
)
NAMES_THAT_STAY = {
    ("utils/errors.py", "found"): "the keyword of InputError",
    ("examples/nlvr1/head.py", ".wanted"): "a key of checkpoints",
}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, *COMPREHENSIONS)


def checkout() -> list[str]:
    """Files that git tracks or does not ignore; without git, all files but those that .gitignore names."""
    if (ROOT / ".git").exists():
        git = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
        if git.returncode == 0:
            return sorted(name for name in set(git.stdout.splitlines()) if (ROOT / name).exists())
    ignored = [".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text().split())]
    files = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*")) if path.is_file()]
    return [str(path) for path in files if not any(fnmatch.fnmatch(p, name) for p in path.parts for name in ignored)]


FILES = checkout()
PRODUCT = [name for name in FILES if name.endswith(".py") and not name.startswith("tests/")]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES if name.endswith((".py", ".md"))}
TREES = {name: ast.parse(TEXTS[name], name) for name in PRODUCT}


def check(offenders: list[str], remedy: str) -> None:
    assert not offenders, "\n".join(["", *offenders, remedy])


def room_of(path: str) -> str:
    top = path.split("/")[0]
    return next((room for pattern, room in ROOT_FILES.items() if fnmatch.fnmatch(top, pattern)), top)


def imported_modules(file: str) -> Iterator[tuple[int, str]]:
    """(line, top-level module) of every import at run time; a relative import stays in its room."""
    conditions = [node for node in ast.walk(TREES[file]) if isinstance(node, ast.If)]
    typing_only = [node for node in conditions if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")]
    skipped = {node for block in typing_only for statement in block.body for node in ast.walk(statement)}
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Import) and node not in skipped:
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node not in skipped and node.module and not node.level:
            yield node.lineno, node.module.split(".")[0]


def imported_rooms(file: str) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of the project."""
    tops = {path.split("/")[0] for path in PRODUCT} | {"tests"}
    for line, module in imported_modules(file):
        yield from ((line, room_of(top)) for top in (module, f"{module}.py") if top in tops)


def test_every_python_file_is_in_a_room_of_the_table() -> None:
    offenders = sorted({room_of(file) for file in PRODUCT} - FLOOR_OF.keys())
    check(offenders, "Rooms without a floor: enter each in FLOORS of tests/test_house.py, as low as its imports allow.")


def test_no_import_goes_to_a_higher_floor_or_to_another_room_of_the_same_floor() -> None:
    offenders = [
        f"{file}:{line}: {room_of(file)} imports {room}"
        for file in PRODUCT
        for line, room in imported_rooms(file)
        if room != room_of(file) and FLOOR_OF.get(room, 9) >= FLOOR_OF.get(room_of(file), 9)
    ]
    check(offenders, "A room may import lower floors only: move what both need to a room below, or pass it in.")


def test_scripts_that_run_as_plain_files_import_nothing_of_the_project() -> None:
    offenders = [f"{file}:{line}: imports {room}" for file in PLAIN_FILES for line, room in imported_rooms(file)]
    check(offenders, "Users run these files alone, without the checkout: write what they need in the file itself.")


def test_every_path_in_the_documents_exists() -> None:
    tops, basenames = {name.split("/")[0] for name in FILES}, {Path(name).name for name in FILES}
    offenders = []
    for document in [name for name in FILES if name.endswith(".md")]:
        fenced = False
        for number, line in enumerate(TEXTS[document].splitlines(), 1):
            fenced ^= line.lstrip().startswith("```")
            words = [] if fenced or line.startswith("    ") else re.findall(r"`([^`\s]+)[^`]*`", line)
            for word in words:  # of a command line, the script
                path = re.split(r"::|#", word)[0].rstrip(":/").removeprefix("./")
                inside = path.split("/")[0] in tops and not re.search(r"[*{…<]", path)
                bare_script = re.fullmatch(r"\w+\.py", path)
                if (inside and not (ROOT / path).exists()) or (bare_script and path not in basenames):
                    offenders.append(f"{document}:{number}: `{word}`")
    check(offenders, "No such file: write its present name, or leave the sentence out.")


def test_functions_have_at_most_45_lines_and_files_at_most_260() -> None:
    sizes = [(file, len(TEXTS[file].splitlines()), 460 if file in PLAIN_FILES else 260) for file in PRODUCT]
    for file, tree in TREES.items():
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        sizes += [(f"{file}: {node.name}", (node.end_lineno or 0) - node.lineno + 1, 45) for node in functions]
    offenders = [f"{name} has {size} lines; at most {most}" for name, size, most in sizes if size > most]
    check(offenders, "Split it where its subject changes; do not squeeze lines.")


def test_every_required_package_is_imported() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    packages = {re.split(r"[^\w.-]", line)[0] for line in lines} - {"", *NOT_IMPORTED}
    modules = {module for file in PRODUCT for _, module in imported_modules(file)}
    offenders = sorted(name for name in packages if MODULES.get(name, name.replace("-", "_")) not in modules)
    check(offenders, "Nothing imports it: take it out of requirements.txt, or give its reason in NOT_IMPORTED.")


def test_pyproject_and_requirements_agree() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = {requirement.name: requirement.specifier for requirement in map(Requirement, dependencies)}
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().split())
    offenders = [f"{name}: only in one of the two files" for name in sorted(bounds.keys() ^ pins.keys())]
    common = sorted(bounds.keys() & pins.keys())
    offenders += [f"{name}: {pins[name]} is not {bounds[name]}" for name in common if pins[name] not in bounds[name]]
    check(offenders, "pyproject.toml gives each package that requirements.txt pins a lower bound.")


def test_mypy_wants_every_function_annotated() -> None:
    section = (ROOT / "pyproject.toml").read_text().partition("[tool.mypy]")[2].split("\n[")[0].splitlines()
    assert "disallow_untyped_defs = true" in section, "pyproject.toml: set disallow_untyped_defs = true in [tool.mypy]"


def command_line(module: Any, argv: list[str]) -> Any:
    """What `main` reads `argv` with, a parser or a class of options; nothing of the script runs after that."""

    def stop(reader: Any, *args: Any, **kwargs: Any) -> None:
        sys.exit(reader)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr("utils.config._parse_flags", stop)
        patch.setattr(sys, "argv", [module.__name__, *argv])
        module.main()
    return end.value.code


def parser_options(parser: argparse.ArgumentParser, command: str) -> dict[str, Options]:
    """Command → its options, of a parser and its subcommands."""
    options: dict[str, Options] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, subparser in action.choices.items():
                options |= parser_options(subparser, f"{command} {name}")
        elif not isinstance(action, argparse._HelpAction):
            names = action.option_strings or [action.dest]
            options.setdefault(command, {}).update(dict.fromkeys(names, action.help or ""))
    return options


def entry_class(hint: Any) -> Any:
    """The dataclass in a type, such as list[DataEntry]; an option of such a type is set in JSON only."""
    return hint if is_dataclass(hint) else next(filter(None, map(entry_class, get_args(hint))), None)


def config_options(config_class: type) -> Options:
    options: Options = {}
    metadata = field_metadata(config_class)
    for name, hint in field_types(config_class).items():
        entry = entry_class(hint)
        options[name if entry else f"--{name}"] = metadata[name].get("help", "")
        for field in fields(entry) if entry else ():
            options[f"{name}.{field.name}"] = "a key in JSON, which --help does not list"
    return options


@pytest.fixture(scope="module")
def options() -> dict[str, Options]:
    """Command → its options, of every script."""
    options: dict[str, Options] = {}
    for file in [file for file in PRODUCT if '\nif __name__ == "__main__":' in TEXTS[file]]:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        for argv in COMMANDS.get(file, ([],)):
            reader, command = command_line(module, argv), " ".join([file, *argv[:1]])
            is_parser = isinstance(reader, argparse.ArgumentParser)
            options |= parser_options(reader, command) if is_parser else {command: config_options(reader)}
    return options


def test_every_options_help_has_3_to_25_words(options: dict[str, Options]) -> None:
    offenders = [
        f"{command}: {name} has {len(help.split())} words: {help!r}"
        for command, names in options.items()
        for name, help in names.items()
        if not 3 <= len(help.split()) <= 25
    ]
    check(offenders, "Say in 3 to 25 plain words what the option does, with its unit.")


def test_no_option_comes_or_goes_unnoticed(options: dict[str, Options]) -> None:
    frozen = json.loads((ROOT / "tests/fixtures/options.json").read_text())
    offenders = []
    for command in sorted(frozen.keys() | options.keys()):
        before, now = set(frozen.get(command, ())), set(options.get(command, ()))
        offenders += [f"{command}: {name} is new" for name in sorted(now - before)]
        offenders += [f"{command}: {name} is gone" for name in sorted(before - now)]
    check(offenders, "Users see this: where it is meant, change tests/fixtures/options.json and the documents too.")


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope without those of the scopes in it."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, SCOPES):
            yield from own_nodes(node)


def bound_name(node: ast.AST) -> str:
    """The name that a node binds (.NAME: an attribute), or ""."""
    if isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else f".{node.attr}"
        return name if isinstance(node.ctx, ast.Store) else ""
    return node.arg if isinstance(node, ast.arg) else getattr(node, "name", None) or ""


def lasting_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of parameters, attributes, names in modules and classes, and variables used over three lines on."""
    for scope in (node for node in ast.walk(tree) if isinstance(node, SCOPES)):
        last_use = dict(sorted((node.id, node.lineno) for node in ast.walk(scope) if isinstance(node, ast.Name)))
        for node in own_nodes(scope):
            name, line = bound_name(node), getattr(node, "lineno", 0)
            lasting = isinstance(scope, ast.Module | ast.ClassDef) or isinstance(node, ast.arg) or name.startswith(".")
            if lasting or last_use.get(name, line) - line > 3:
                yield line, name


def test_no_lasting_name_is_a_bare_participle_or_adverb() -> None:
    offenders = [
        f"{file}:{line}: {name}"
        for file, tree in TREES.items()
        for line, name in sorted(lasting_names(tree))
        if BAD_NAME.fullmatch(name) and (file, name) not in NAMES_THAT_STAY
    ]
    check(offenders, "Name what the value is, with a noun: answers, known_tasks. Three lines may do without.")
