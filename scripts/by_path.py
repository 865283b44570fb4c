"""Start a script again as a module, for `python scripts/NAME.py` from any folder; the scripts run this file.

A script that Python starts by its path cannot import the project, because the script's own folder is searched and not
the checkout. As a module it can, with the checkout among the folders that are searched.
"""

import os
import sys
from pathlib import Path

checkout = Path(__file__).resolve().parent.parent
script = Path(str(sys.modules["__main__"].__file__)).resolve().relative_to(checkout).with_suffix("")
search_path = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))
command = [sys.executable, "-P", "-m", ".".join(script.parts), *sys.argv[1:]]  # -P: not the working directory
sys.stdout.flush()
os.execve(sys.executable, command, os.environ | {"PYTHONPATH": search_path})
