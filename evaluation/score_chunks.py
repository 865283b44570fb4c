"""A large matrix of scores, made chunk of rows by chunk of rows: what was finished before an interruption is kept."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.files import atomic_file, read_json, write_json


@dataclasses.dataclass(kw_only=True)
class Chunks:
    """A folder of chunks, each a `scores_{first row}.npy`; its `fingerprint.json` says what the scores depend on."""

    folder: Path
    rows: int
    columns: int
    chunk_rows: int

    def ranges(self) -> list[range]:
        """The rows of each chunk."""
        starts = range(0, self.rows, self.chunk_rows)
        return [range(start, min(start + self.chunk_rows, self.rows)) for start in starts]

    def begin(self, fingerprint: dict[str, Any]) -> list[range]:
        """The chunks still to be made; refuses a folder that was begun with another fingerprint."""
        file = self.folder / "fingerprint.json"
        if file.exists():
            previous = read_json(file)
            changed_keys = [key for key in fingerprint | previous if previous.get(key) != fingerprint.get(key)]
            if changed_keys:
                raise InputError(
                    "scores of another checkpoint, store or option are half done here",
                    file=file,
                    key=", ".join(changed_keys),
                    found=", ".join(str(previous.get(key)) for key in changed_keys),
                    expected=", ".join(str(fingerprint.get(key)) for key in changed_keys),
                    remedy=f"finish with the options of before, remove {self.folder}, or name another output_dir",
                )
        write_json(file, fingerprint, indent=4)
        return [rows for rows in self.ranges() if not self._file(rows).exists()]

    def _file(self, rows: range) -> Path:
        return self.folder / f"scores_{rows.start:08}.npy"

    def save(self, rows: range, scores: np.ndarray) -> None:
        """Keep the scores (rows, columns) of a chunk, whole or not at all."""
        with atomic_file(self._file(rows)) as stream:
            np.save(stream, scores.astype(np.float32, copy=False), allow_pickle=False)

    def matrix(self) -> np.ndarray:
        """All chunks as one (rows, columns) matrix."""
        scores = np.empty((self.rows, self.columns), np.float32)
        for rows in self.ranges():
            file = self._file(rows)
            try:
                chunk = np.load(file, allow_pickle=False)
                content: object = chunk.shape
            except (OSError, ValueError, EOFError) as error:
                chunk, content = np.empty(0), error
            if chunk.shape != (len(rows), self.columns):
                raise InputError(
                    "not a whole chunk of scores",
                    file=file,
                    found=content,
                    expected=(len(rows), self.columns),
                    remedy="remove it",
                )
            scores[rows.start : rows.stop] = chunk
        return scores

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


def file_fingerprint(path: str | Path) -> list[Any]:
    """What tells a file, or a folder's `data.mdb`, from one that was written later: path, size, time."""
    path = Path(os.path.realpath(path))
    if not path.exists():
        raise InputError("file not found", file=path, remedy="check the path")
    status = (path / "data.mdb" if (path / "data.mdb").exists() else path).stat()
    return [str(path), status.st_size, status.st_mtime_ns]
