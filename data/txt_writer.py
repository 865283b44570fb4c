"""Writing text LMDBs (format: DESIGN section 4, docs/DATA.md), whole or not at all."""

from pathlib import Path
from typing import Any

import lmdb
import lz4.frame
import msgpack

from data.txt_store import LENGTHS
from utils.errors import InputError
from utils.files import whole_folder, write_json

SIDES = (*LENGTHS, "txt2img.json", "img2txts.json", "meta.json")
MAP_SIZE = 1 << 40  # an upper bound of LMDB's, not a size on disk
COMMIT_EVERY = 10_000  # texts


class TextWriter:
    """Writes a text store: nothing is at `path` until all of it is (use as a context manager)."""

    def __init__(self, path: str | Path, meta: dict[str, Any]):
        """`meta`: at least `UNK CLS SEP MASK v_range`."""
        self.path, self.meta = Path(path), meta
        self._whole = whole_folder(self.path)
        self._lens: dict[str, dict[str, int]] = {}  # by side file
        self._pictures: dict[str, Any] = {}

    def __enter__(self) -> "TextWriter":
        if self.path.exists():
            raise InputError("the output exists already", file=self.path, remedy="remove it, or name another")
        self._folder = self._whole.__enter__()
        self._env = lmdb.open(str(self._folder), map_size=MAP_SIZE, lock=False)
        self._txn = self._env.begin(write=True)
        return self

    def add(self, id: str, record: dict[str, Any]) -> None:
        """Add a text; `record` has `input_ids` and `img_fname`."""
        if id in self._pictures:
            raise InputError("an id stands twice", file=self.path, key=id)
        self._txn.put(id.encode(), lz4.frame.compress(msgpack.packb(record, use_bin_type=True)))
        self._pictures[id] = record["img_fname"]
        for file, length in lengths_of(record).items():
            self._lens.setdefault(file, {})[id] = length
        if len(self._pictures) % COMMIT_EVERY == 0:
            self._txn.commit()
            self._txn = self._env.begin(write=True)

    def side(self, name: str, value: Any) -> None:
        """Write `value` as the JSON file `name` beside the records."""
        assert name not in SIDES, name
        write_json(self._folder / name, value)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
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
        """Bring the records to the disk and write the side files."""
        self._txn.commit()
        self._env.sync(True)
        self._env.close()
        ids_by_picture: dict[str, list[str]] = {}
        for id_, pictures in self._pictures.items():
            for name in [pictures] if isinstance(pictures, str) else pictures:
                ids_by_picture.setdefault(name, []).append(id_)
        for file, lens in (self._lens or {LENGTHS[0]: {}}).items():
            write_json(self._folder / file, lens)
        write_json(self._folder / "txt2img.json", self._pictures)
        write_json(self._folder / "img2txts.json", ids_by_picture)
        write_json(self._folder / "meta.json", self.meta, indent=2)


def lengths_of(record: dict[str, Any]) -> dict[str, int]:
    """The lengths of a text by side file. VCR: of its question with the longest answer, and the longest rationale."""
    n = len(record["input_ids"])
    if "input_ids_as" not in record:
        return {"id2len.json": n}
    qa = n + max(map(len, record["input_ids_as"]))
    return {"id2len_qa.json": qa, "id2len_qar.json": qa + max(map(len, record["input_ids_rs"]))}
