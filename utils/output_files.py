"""Output files of a script that reads other files: refused where they are inputs, and moved into place together."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from utils.errors import InputError
from utils.files import check_output, make_folder
from utils.os_errors import writing


def check_outputs(outputs: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
    """`InputError` where an output cannot be written, or is an input or another output, also through a link.

    Called before anything is read; nothing is written.
    """
    owners = {os.path.realpath(path): f"the input {path}" for path in inputs}
    for path in outputs:
        place = os.path.realpath(path)
        if place in owners:
            raise InputError(
                "the output would replace a file that the same command reads or writes",
                file=path,
                found=owners[place],
                expected="a file of its own",
                remedy="name another output",
            )
        check_output(path)
        owners[place] = f"another output of this command, {path}"


@contextlib.contextmanager
def moved_together(folder: Path) -> Iterator[Path]:
    """A hidden folder to write files into. They are moved to `folder` when the block ends without an error.

    Otherwise old files of the same names stay in `folder`, and an `InputError` names files as if they were there.
    """
    home = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    with contextlib.ExitStack() as stack:
        with writing(folder):
            hidden = stack.enter_context(TemporaryDirectory(prefix=".", suffix=".tmp", dir=home))
        try:
            yield Path(hidden)
        except InputError as error:
            raise InputError(str(error).replace(hidden, str(folder))) from None
        make_folder(folder)
        with writing(folder):
            for path in sorted(Path(hidden).iterdir()):
                os.replace(path, folder / path.name)
