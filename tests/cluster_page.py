"""The commands of docs/CLUSTER.md, and what stands for their machines, folders and options in a test."""

import re
from pathlib import Path

from tests.tiny_world import ROOT

PAGE = (ROOT / "docs" / "CLUSTER.md").read_text()
BLOCKS = dict(re.findall(r"<!-- tested: (\w+) -->\n```bash\n(.*?)```", PAGE, re.DOTALL))


def commands(name: str, config: Path | str, runs: Path | str, changes: dict[str, str] | None = None) -> list[str]:
    """The command lines of a block, one a machine, with a config and a folder for its runs.

    `changes`: other texts of the page, and what takes their place.
    """
    text = BLOCKS[name].replace("FILE", str(config)).replace("runs/", f"{runs}/")
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    return text.strip().splitlines()
