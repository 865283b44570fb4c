"""Paths in the options: `data_root` is put before relative paths, and paths of the release's container become local.

The metadata `path` of a field says which rule holds. True: LMDBs and checkpoints, below `data_root`. "own": output
folder and model config, relative to the working directory, and a file that is not there is looked for in the checkout,
so that the shipped configs work from anywhere. A value may hold several paths, with the separator that the
metadata `joined` gives; default: ";" (VCR).
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from utils.local_paths import check_local
from utils.options import field_metadata

CHECKOUT = Path(__file__).resolve().parent.parent
MOUNTS = {  # folder at the root of the release's container: folder below data_root
    "txt": "txt_db",
    "img": "img_db",
    "pretrain": "pretrained",
    "storage": "finetune",
}


def resolve_paths(config: Any) -> list[str]:
    """Rewrite the path fields of `config`, and of dataclasses in its lists, in place; returns notes for the log.

    `InputError` for a URL, and for other paths that are not of this machine (`utils.local_paths`).
    """
    notes: list[str] = []
    root = getattr(config, "data_root", "")
    if root:
        # Absolute, so that the prefix is not added again when the saved options are given with --config.
        root = config.data_root = os.path.abspath(os.path.expanduser(root))
        check_local(root, "data_root")
        notes.append(f"data_root {root} is put before relative database and checkpoint paths")
    _resolve_fields(config, root, "", notes)
    return notes


def _resolve_fields(item: Any, root: str, prefix: str, notes: list[str]) -> None:
    """Rewrite the path fields of a dataclass in place; `prefix` is put before their names in `notes`."""
    for name, metadata in field_metadata(type(item)).items():
        value, is_path, key = getattr(item, name), bool(metadata.get("path")), prefix + name
        if is_path and isinstance(value, str):
            setattr(item, name, _resolve(value, metadata, root, key, notes))
        elif isinstance(value, list):
            for i, entry in enumerate(value):
                if is_path and isinstance(entry, str):
                    value[i] = _resolve(entry, metadata, root, f"{key}[{i}]", notes)
                elif dataclasses.is_dataclass(entry):
                    _resolve_fields(entry, root, f"{key}[{i}].", notes)


def _resolve(value: str, metadata: dict[str, Any], root: str, key: str, notes: list[str]) -> str:
    """The value of a path field, with the rule of its `metadata` applied to each path in it."""
    base, separator = metadata["path"], metadata.get("joined", ";")
    if "://" in value:
        check_local(value, key)
    paths = []
    for path in value.split(separator):
        path = os.path.expanduser(path)
        if os.path.isabs(path):
            paths.append(_unmount(path, base, root, key, notes))
        elif base is True:
            paths.append(os.path.join(root, path) if path else path)
        else:
            paths.append(find_file(path, key, notes))
        check_local(paths[-1], key)
    return separator.join(paths)


def find_file(path: str, key: str, notes: list[str]) -> str:
    """A relative `path`, or the file of that name in the checkout where the working directory has none; then noted."""
    if os.path.isabs(path) or os.path.exists(path) or not (CHECKOUT / path).is_file():
        return path
    notes.append(f"{key}: {path} is not in the working directory; {CHECKOUT / path} is used")
    return str(CHECKOUT / path)


def _unmount(path: str, base: bool | str, root: str, key: str, notes: list[str]) -> str:
    """The local path for a path of the release's container; other paths, and paths that exist here, are unchanged."""
    _, mount, *rest = path.split("/")
    if mount not in (*MOUNTS, "src"):
        return path
    # An output folder may not exist yet: then it is enough that the mount exists.
    if os.path.exists(path) or (base == "own" and mount != "src" and os.path.isdir(f"/{mount}")):
        notes.append(f"{key}: {path} is kept, because /{mount} exists on this machine")
        return path
    folder = str(CHECKOUT) if mount == "src" else os.path.join(root, MOUNTS[mount])
    local_path = os.path.join(folder, *rest)
    notes.append(f"{key}: {path} is a path of the release's container; {local_path} is used instead")
    return local_path
