"""Writing of text stores (text LMDBs; format: DESIGN section 4, docs/DATA.md), each whole or not at all."""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lmdb
import lz4.frame
import msgpack

from data.txt_store import LENGTH_FILES
from utils.errors import InputError
from utils.files import whole_folder, write_json
from utils.os_errors import write_error, writing

SIDES = (*LENGTH_FILES, "txt2img.json", "img2txts.json", "meta.json")  # files that the writer makes itself
MAP_SIZE = 1 << 40  # bytes: the upper bound that LMDB asks for, not the size on disk
COMMIT_EVERY = 10_000  # texts


class TextWriter:
    """Write a text store. Use it as a context manager: the whole folder appears at `path` when the block ends.

    After an error in the block nothing is left at `path`.
    """

    def __init__(self, path: str | Path, meta: dict[str, Any]):
        """`path`: the new folder. `meta`: the content of `meta.json`, at least `UNK CLS SEP MASK v_range`."""
        self.path, self.meta = Path(path), meta
        self._whole = whole_folder(self.path)
        self._lens: dict[str, dict[str, int]] = {}  # by name of the file, then by id
        self._pictures: dict[str, Any] = {}  # `img_fname` by id

    def __enter__(self) -> "TextWriter":
        """Start writing to a temporary folder; `InputError` when `path` exists already."""
        if os.path.exists(self.path):
            raise InputError("the output exists already", file=self.path, remedy="remove it, or name another")
        self._folder = self._whole.__enter__()
        with self._writing():
            self._env = lmdb.open(os.fsencode(self._folder), map_size=MAP_SIZE, lock=False)
            self._txn = self._env.begin(write=True)
        return self

    def _writing(self) -> AbstractContextManager[None]:
        """Where LMDB writes: a full disk is an `InputError`."""
        return writing(self.path, errors=(lmdb.Error,))

    def add(self, id: str, record: dict[str, Any]) -> None:
        """Add a text under a new `id`. `record` must have `input_ids` and `img_fname`; `InputError` for an old `id`."""
        if id in self._pictures:
            raise InputError("two texts have the same id", file=self.path, key=id)
        value = lz4.frame.compress(msgpack.packb(record, use_bin_type=True))
        try:  # without a context, which would cost more than the rest
            self._txn.put(id.encode(), value)
        except lmdb.Error as error:
            raise write_error(self.path, error) from error
        self._pictures[id] = record["img_fname"]
        for file, length in lengths_of(record).items():
            self._lens.setdefault(file, {})[id] = length
        if len(self._pictures) % COMMIT_EVERY == 0:
            with self._writing():
                self._txn.commit()
                self._txn = self._env.begin(write=True)

    def side(self, name: str, value: Any) -> None:
        """Write `value` as the JSON file `name` into the folder of the store."""
        assert name not in SIDES, name
        write_json(self._folder / name, value)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Finish the store and move it to `path`; after an error, remove what was written."""
        try:
            if kind is None:
                self._finish()
            else:
                self._txn.abort()
                self._env.close()
        except BaseException as failure:
            self._whole.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._whole.__exit__(kind, error, trace)

    def _finish(self) -> None:
        """Flush the records to disk and write the side files."""
        with self._writing():
            self._txn.commit()
            self._env.sync(True)
            self._env.close()
        ids_by_picture: dict[str, list[str]] = {}
        for id_, pictures in self._pictures.items():
            for name in [pictures] if isinstance(pictures, str) else pictures:
                ids_by_picture.setdefault(name, []).append(id_)
        for file, lens in (self._lens or {LENGTH_FILES[0]: {}}).items():
            write_json(self._folder / file, lens)
        write_json(self._folder / "txt2img.json", self._pictures)
        write_json(self._folder / "img2txts.json", ids_by_picture)
        write_json(self._folder / "meta.json", self.meta, indent=2)


def lengths_of(record: dict[str, Any]) -> dict[str, int]:
    """The length of a text, in word pieces, for each file of lengths that lists it.

    VCR has two: the question with its longest answer, and the question with its longest answer and rationale.
    """
    n = len(record["input_ids"])
    if "input_ids_as" not in record:
        return {"id2len.json": n}
    qa = n + max(map(len, record["input_ids_as"]))
    return {"id2len_qa.json": qa, "id2len_qar.json": qa + max(map(len, record["input_ids_rs"]))}
