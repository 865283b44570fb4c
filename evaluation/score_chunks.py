"""A large score matrix that is computed in chunks of rows, so that an interrupted run can continue."""

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
    """A folder of chunks, files `scores_{first row}.npy`. `fingerprint.json` holds all that the scores depend on."""

    folder: Path
    rows: int
    columns: int
    chunk_rows: int

    def ranges(self) -> list[range]:
        """The range of rows of each chunk, in order."""
        starts = range(0, self.rows, self.chunk_rows)
        return [range(start, min(start + self.chunk_rows, self.rows)) for start in starts]

    def begin(self, fingerprint: dict[str, Any]) -> list[range]:
        """Start or continue; returns the chunks that are not finished.

        Raises `InputError` where the folder holds chunks with another fingerprint.
        """
        file = self.folder / "fingerprint.json"
        if file.exists():
            previous = read_json(file)
            changed_keys = [key for key in fingerprint | previous if previous.get(key) != fingerprint.get(key)]
            if changed_keys:
                raise InputError(
                    "the folder holds unfinished scores of another checkpoint, store or option",
                    file=file,
                    key=", ".join(changed_keys),
                    found=", ".join(str(previous.get(key)) for key in changed_keys),
                    expected=", ".join(str(fingerprint.get(key)) for key in changed_keys),
                    remedy=f"use the earlier options to finish, or remove {self.folder}, or name another output_dir",
                )
        write_json(file, fingerprint, indent=4)
        return [rows for rows in self.ranges() if not self._file(rows).exists()]

    def _file(self, rows: range) -> Path:
        """The file of a chunk."""
        return self.folder / f"scores_{rows.start:08}.npy"

    def save(self, rows: range, scores: np.ndarray) -> None:
        """Write the scores (rows, columns) of a chunk as fp32, whole or not at all."""
        with atomic_file(self._file(rows)) as stream:
            np.save(stream, scores.astype(np.float32, copy=False), allow_pickle=False)

    def matrix(self) -> np.ndarray:
        """All chunks as one matrix (rows, columns), fp32; `InputError` for a chunk that is damaged or incomplete."""
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
                    "a chunk of scores is damaged or incomplete",
                    file=file,
                    found=content,
                    expected=f"an array of shape {(len(rows), self.columns)}",
                    remedy="remove this file and run the same command again",
                )
            scores[rows.start : rows.stop] = chunk
        return scores

    def remove(self) -> None:
        """Remove the folder with all chunks."""
        shutil.rmtree(self.folder)


def file_fingerprint(path: str | Path) -> list[Any]:
    """Path, size and modification time of a file, or of the `data.mdb` in a folder, to notice when it changes.

    `InputError` where it does not exist.
    """
    path = Path(os.path.realpath(path))
    if not path.exists():
        raise InputError("file not found", file=path, remedy="check the path")
    status = (path / "data.mdb" if (path / "data.mdb").exists() else path).stat()
    return [str(path), status.st_size, status.st_mtime_ns]
