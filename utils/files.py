"""Writing whole files or none, and reading JSON with errors a user understands."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

from utils.errors import InputError


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, sees the old file or the new one and never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    """Write `value` as JSON, whole or not at all."""
    atomic_write(path, (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode())


def read_json(path: str | Path) -> Any:
    """Read a JSON file; `InputError` when it is absent or is not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError("file not found", file=path, remedy="check the path") from None
    except OSError as error:
        raise InputError("cannot be read", file=path, found=error.strerror, expected="a JSON file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError("not a JSON file", file=path, found=error, expected="JSON text") from None


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked where it is gzipped (told by its first bytes, not by its name)."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (FileNotFoundError, IsADirectoryError):
        raise InputError("file not found", file=path, remedy="check the path") from None
    except (OSError, EOFError) as error:
        raise InputError("file cannot be read", file=path, found=error) from None
