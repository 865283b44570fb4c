"""Paths that only another program would understand: URLs, variables of a shell, paths of Windows.

Here each would be the literal name of a new folder, which nobody looks for.
"""

import os
import re
from pathlib import Path

from utils.errors import InputError

# What the names look like that do not exist yet, joined by "/", and what that is.
FOREIGN = (
    (re.compile(r"\w:(/|$)|^[A-Za-z]:\\"), "a URL, or a path of Windows"),
    (re.compile(r"\\"), "a path of Windows, or with a backslash"),
    (re.compile(r"\$[\w({]|`|%\w+%"), "a variable or a command, which only a shell replaces"),
    (re.compile(r"^~"), "a home folder that this machine does not know, or that only a shell replaces"),
    (re.compile(r"[\x01-\x1f\x7f]|(^|/)\s|\s(/|$)"), "a name with a space at its edge, or a control character"),
)
SIGNS = re.compile(r"[:\\$`%~\x01-\x20\x7f]")  # any other path is fine, which is quick to see


def check_local(path: str | Path, key: str | None = None) -> None:
    """`InputError` for a path that only another program would understand, unless it exists here under this very name.

    `key`: the option that gives it.
    """
    text = os.fspath(path)
    if not SIGNS.search(text) or not text.strip():  # an empty text is a matter of the option's range
        return
    absent = [place.name for place in (Path(text), *Path(text).parents) if not os.path.lexists(place)]
    names = "/".join(reversed(absent))
    kind = next((kind for pattern, kind in FOREIGN if pattern.search(names)), None)
    if kind is None:
        return
    whole = os.path.expanduser(os.path.expandvars(text))
    raise InputError(
        "not a path of this machine",
        file=repr(text)[1:-1],
        key=key,
        found=kind,
        expected="a path as this machine writes it, such as /data/runs/1 or runs/1",
        remedy=f"write it in full: {whole}"
        if whole != text and "$" not in whole
        else "name a file or folder of this machine: copy or mount what is elsewhere; an odd name that exists is taken",
    )
