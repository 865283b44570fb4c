"""A large score matrix that is computed in chunks of rows, so that an interrupted run can continue."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.files import read_json, write_json
from utils.npz import open_npz, read_array, write_npz

VERSION = 2  # raise it when the arrays of a chunk change


@dataclasses.dataclass(kw_only=True)
class Chunks:
    """A folder of chunks, files `scores_{first row}_{tag}.npz`. `fingerprint.json` holds all that the scores depend on.

    The tag is a hash of the fingerprint, so a chunk without it, or with that of other scores, is not used. A chunk
    holds its `scores` and its `first_row`, so that one with the name of another chunk is refused.
    """

    folder: Path
    rows: int
    columns: int
    chunk_rows: int
    tag: str = ""  # `begin` sets it

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
            content = read_json(file)
            previous = content if isinstance(content, dict) else {}
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
        self.tag = hashlib.sha256(json.dumps([VERSION, fingerprint], sort_keys=True).encode()).hexdigest()[:12]
        return [rows for rows in self.ranges() if not self._file(rows).exists()]

    def _file(self, rows: range) -> Path:
        """The file of a chunk."""
        return self.folder / f"scores_{rows.start:08}_{self.tag}.npz"

    def save(self, rows: range, scores: np.ndarray) -> None:
        """Write the scores (rows, columns) of a chunk as fp32, whole or not at all."""
        arrays = [("scores", scores.astype(np.float32, copy=False)), ("first_row", np.array(rows.start))]
        write_npz(self._file(rows), arrays)

    def matrix(self) -> np.ndarray:
        """All chunks as one matrix (rows, columns), fp32.

        `InputError` for a chunk that is damaged, incomplete or of other rows.
        """
        scores = np.empty((self.rows, self.columns), np.float32)
        for rows in self.ranges():
            file = self._file(rows)
            try:
                with open_npz(file) as arrays:
                    chunk, first_row = read_array(arrays, "scores", file), read_array(arrays, "first_row", file)
                content: object = f"an array of shape {chunk.shape}, from row {first_row} on"
            except InputError as error:
                chunk, first_row, content = np.empty(0), np.array(-1), error
            if chunk.shape != (len(rows), self.columns) or first_row.tolist() != rows.start:
                raise InputError(
                    "a chunk of scores is damaged, incomplete or of other rows",
                    file=file,
                    found=content,
                    expected=f"an array of shape {(len(rows), self.columns)}, from row {rows.start} on",
                    remedy="remove this file and run the same command again",
                )
            scores[rows.start : rows.stop] = chunk
        return scores

    def remove(self) -> None:
        """Remove the folder with all chunks."""
        shutil.rmtree(self.folder)
