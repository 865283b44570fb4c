"""A large matrix of scores, made chunk of rows by chunk of rows: what was finished before an interruption is kept."""

import dataclasses
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.files import atomic_write, read_json, write_json


@dataclasses.dataclass
class Chunks:
    """`folder` with `fingerprint.json`, what the scores depend on, and a `scores_{first row}.npy` for each chunk."""

    folder: Path
    rows: int
    columns: int
    size: int  # rows of a chunk

    def ranges(self) -> list[range]:
        """The rows of each chunk."""
        return [range(at, min(at + self.size, self.rows)) for at in range(0, self.rows, self.size)]

    def begin(self, fingerprint: dict[str, Any]) -> list[range]:
        """The chunks still to be made; refuses a folder that was begun with another fingerprint."""
        file = self.folder / "fingerprint.json"
        if file.exists():
            before = read_json(file)
            differ = [key for key in fingerprint | before if before.get(key) != fingerprint.get(key)]
            if differ:
                raise InputError(
                    "scores of another checkpoint, store or option are half done here",
                    file=file,
                    key=", ".join(differ),
                    found=", ".join(str(before.get(key)) for key in differ),
                    expected=", ".join(str(fingerprint.get(key)) for key in differ),
                    remedy=f"finish with the options of before, remove {self.folder}, or name another output_dir",
                )
        write_json(file, fingerprint, indent=4)
        return [rows for rows in self.ranges() if not self._file(rows).exists()]

    def _file(self, rows: range) -> Path:
        return self.folder / f"scores_{rows.start:08}.npy"

    def save(self, rows: range, scores: np.ndarray) -> None:
        """Keep the scores (rows, columns) of a chunk, whole or not at all."""
        stream = io.BytesIO()
        np.save(stream, scores.astype(np.float32, copy=False), allow_pickle=False)
        atomic_write(self._file(rows), stream.getvalue())

    def matrix(self) -> np.ndarray:
        """All chunks as one (rows, columns) matrix."""
        whole = np.empty((self.rows, self.columns), np.float32)
        for rows in self.ranges():
            file = self._file(rows)
            try:
                part = np.load(file, allow_pickle=False)
                found: object = part.shape
            except (OSError, ValueError, EOFError) as error:
                part, found = np.empty(0), error
            if part.shape != (len(rows), self.columns):
                expected = (len(rows), self.columns)
                raise InputError(
                    "not a whole chunk of scores", file=file, found=found, expected=expected, remedy="remove it"
                )
            whole[rows.start : rows.stop] = part
        return whole

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


def file_mark(path: str | Path) -> list[Any]:
    """What tells a file, or a folder's `data.mdb`, from one that was written later: path, size, time."""
    path = Path(os.path.realpath(path))
    if not path.exists():
        raise InputError("file not found", file=path, remedy="check the path")
    status = (path / "data.mdb" if (path / "data.mdb").exists() else path).stat()
    return [str(path), status.st_size, status.st_mtime_ns]
