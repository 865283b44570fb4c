"""Where files are: `data_root` before relative paths, and the release's container mounts made local.

A field's metadata `path` says which: True (databases, checkpoints: below `data_root`) or "own" (output
folder, model config: relative to the working directory). An entry may hold several paths, joined by what the metadata
`joined` says, else by ";" (VCR).
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from utils.options import field_metadata

CHECKOUT = Path(__file__).resolve().parent.parent
MOUNTS = {
    "txt": "txt_db",
    "img": "img_db",
    "pretrain": "pretrained",
    "storage": "finetune",
}  # below data_root


def resolve_paths(config: Any) -> list[str]:
    """Rewrite the path fields of `config`, and of dataclasses in its lists, in place; return log notes."""
    notes: list[str] = []
    root = getattr(config, "data_root", "")
    if root:
        # Absolute, so that the saved options, given again with --config, are not prefixed twice.
        root = config.data_root = os.path.abspath(os.path.expanduser(root))
        notes.append(f"data_root {root} is put before relative database and checkpoint paths")
    _resolve_fields(config, root, "", notes)
    return notes


def _resolve_fields(item: Any, root: str, prefix: str, notes: list[str]) -> None:
    """Rewrite the path fields of a dataclass in place; `prefix` stands before their names in `notes`."""
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
    """`value` with each of its joined paths made local, as the field's `metadata` says."""
    base, separator = metadata["path"], metadata.get("joined", ";")
    paths = []
    for path in value.split(separator):
        path = os.path.expanduser(path)
        if os.path.isabs(path):
            paths.append(_unmount(path, base, root, key, notes))
        else:
            paths.append(os.path.join(root, path) if base is True and path else path)
    return separator.join(paths)


def _unmount(path: str, base: bool | str, root: str, key: str, notes: list[str]) -> str:
    """The local path for one below a mount of the release's container, unless this machine has the mount too."""
    _, mount, *rest = path.split("/")
    if mount not in (*MOUNTS, "src"):
        return path
    # What is still to be written counts as there when its mount is.
    if os.path.exists(path) or (base == "own" and mount != "src" and os.path.isdir(f"/{mount}")):
        notes.append(f"{key}: {path} kept, because /{mount} exists on this machine")
        return path
    folder = str(CHECKOUT) if mount == "src" else os.path.join(root, MOUNTS[mount])
    local_path = os.path.join(folder, *rest)
    notes.append(f"{key}: {path} (a mount of the release's container) is read as {local_path}")
    return local_path
