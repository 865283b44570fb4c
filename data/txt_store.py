"""Text LMDBs: reading, writing (format: DESIGN section 4, docs/DATA.md)."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import lz4.frame
import msgpack
import numpy as np

from data.lmdb_io import Reader, columns
from data.txt_index import text_columns
from utils.errors import InputError
from utils.files import read_json, write_json

LENGTHS = ("id2len.json", "id2len_qar.json", "id2len_qa.json")
SIDES = (*LENGTHS, "txt2img.json", "img2txts.json", "meta.json")
MAP_SIZE = 1 << 40  # an upper bound of LMDB's, not a size on disk
VCR_TOKENS = 81  # for persons and objects, appended to the vocabulary
SAMPLE = 64  # records decoded when a store is opened


@dataclass(frozen=True)
class Meta:
    """Special ids, the range of ordinary word pieces, and the vocabulary's hash where it is known."""

    cls: int
    sep: int
    mask: int
    unk: int | None
    v_range: tuple[int, int]
    tokenizer: str | None = None
    vocab_sha256: str | None = None


def read_meta(path: Path) -> Meta:
    """`meta.json` of a store, by whichever writer: the tokeniser's name has three spellings."""
    if not path.is_dir():
        raise InputError(
            "text LMDB not found",
            file=path,
            key="txt_db",
            found="no such folder",
            expected="a folder NAME.db",
            remedy="check the path and data_root, or prepare it with prepro.py",
        )
    meta = read_json(path / "meta.json")
    try:
        low, high = meta["v_range"]
        name = meta.get("tokenizer") or meta.get("toker") or meta.get("bert")
        return Meta(
            int(meta["CLS"]),
            int(meta["SEP"]),
            int(meta["MASK"]),
            int(meta["UNK"]) if "UNK" in meta else None,
            (int(low), int(high)),
            name,
            meta.get("vocab_sha256"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "not the meta.json of a text store",
            file=path / "meta.json",
            key="CLS, SEP, MASK, UNK, v_range",
            found=repr(error),
            expected="CLS, SEP, MASK, UNK and v_range [low, high]",
            remedy="prepare the store with prepro.py",
        ) from None


class TextStore:
    """Texts 0 .. n-1 of a text LMDB, in the order of `id2len.json`.

    `lens` (n,) int32: word pieces without [CLS] and [SEP]. `img_names` (m,) bytes, sorted, distinct: the pictures;
    `img_index` (n, k) int32 into it: those of each text (k = 2 for NLVR2 and VCR). All memory-mapped.
    """

    def __init__(self, path: str | Path, max_txt_len: int | None = None, lengths: str | None = None):
        """`max_txt_len`: longer texts (word pieces, without [CLS] and [SEP]) are left out; None or -1: none are.

        `lengths`: the side file to take them from, where there are several (VCR); None: the first of `LENGTHS`.
        """
        self.path, self._options = Path(path), (max_txt_len, lengths)
        self.meta = read_meta(self.path)
        self._reader = Reader(self.path)
        there = [name for name in LENGTHS if (self.path / name).exists()]
        self.lengths = lengths or (there or LENGTHS)[0]
        sources = [self.path / name for name in ("data.mdb", "txt2img.json", self.lengths)]
        index = columns(self.path, f"text {self.lengths}", sources, self._build)
        self._ids, self._sorted, self.img_names = index["ids"], index["sorted"], index["img_names"]
        self.lens, self.img_index = index["lens"], index["img_index"]
        self._kept: np.ndarray | None = None  # rows of the texts that are left, where some were left out
        if max_txt_len is not None and max_txt_len >= 0 and (self.lens > max_txt_len).any():
            self._kept = np.flatnonzero(self.lens <= max_txt_len).astype(np.int32)
            self.lens, self.img_index = self.lens[self._kept], self.img_index[self._kept]

    def __reduce__(self) -> tuple[Any, ...]:
        return TextStore, (self.path, *self._options)  # another process opens it for itself

    def _build(self) -> dict[str, np.ndarray]:
        keys = (key for key, _ in self._reader.items())
        made = text_columns(self.path, self.lengths, keys, self._decode)
        self._reader.close()
        return made

    def __len__(self) -> int:
        return len(self.lens)

    def id(self, i: int) -> str:
        """The id of text `i`."""
        return self._key(i).decode()

    def index_of(self, id: str) -> int:
        """The text with this id; `InputError` where there is none."""
        key = np.bytes_(id.encode())
        at = int(np.searchsorted(self._ids, key, sorter=self._sorted))
        row = int(self._sorted[min(at, len(self._ids) - 1)])
        i = row if self._kept is None else int(np.searchsorted(self._kept, row))
        if self._ids[row] != key or i >= len(self) or self._key(i) != key:
            raise InputError("no text with this id, or it was left out for its length", file=self.path, key=id)
        return i

    def _key(self, i: int) -> bytes:
        return self._ids[i if self._kept is None else self._kept[i]]

    def read(self, i: int) -> dict[str, Any]:
        """The record of text `i`: `input_ids`, `img_fname` and the fields of its dataset."""
        record = self._decode(self._key(i))
        high = self.meta.v_range[1] + (VCR_TOKENS if "input_ids_as" in record else 0)
        lists = [record["input_ids"], *record.get("input_ids_as", ()), *record.get("input_ids_rs", ())]
        bad = next((ids for ids in lists if not all(type(t) is int and 0 <= t < high for t in ids)), None)
        if bad is not None:
            raise InputError(
                "word pieces outside the vocabulary",
                file=self.path / "data.mdb",
                key=self.id(i),
                found=str(bad)[:200],
                expected=f"integers 0..{high - 1}, as v_range in meta.json says",
                remedy="prepare the store again with one vocab.txt",
            )
        return record

    def _decode(self, key: bytes) -> dict[str, Any]:
        value = self._reader.get(key)
        try:
            record = msgpack.unpackb(lz4.frame.decompress(value), raw=False)
            if isinstance(record, dict) and isinstance(record["input_ids"], list):
                return record
            found: object = type(record).__name__
        except Exception as error:  # lz4, msgpack and a missing key each have errors of their own
            found = f"{type(error).__name__}: {error}"
        raise InputError(
            "a record cannot be read",
            file=self.path / "data.mdb",
            key=key.decode(),
            found=found,
            expected="lz4 of msgpack of a dict with input_ids",
            remedy="prepare the store again; python -m scripts.check finds all such records",
        )

    def check(self, seed: int = 0) -> None:
        """Read a sample of records drawn by seed, and close the LMDB, so that it is not open when workers fork."""
        rng = np.random.default_rng(seed)
        for i in rng.choice(len(self), min(SAMPLE, len(self)), replace=False):
            self.check_record(int(i))
        self.close()

    def check_record(self, i: int) -> None:
        """One record, its length as announced (VCR's lengths count more than `input_ids`)."""
        n = len(self.read(i)["input_ids"])
        if self.lengths == LENGTHS[0] and n != self.lens[i]:
            raise InputError(
                "a text of another length than announced",
                file=self.path / self.lengths,
                key=self.id(i),
                found=f"{n} word pieces in data.mdb",
                expected=int(self.lens[i]),
                remedy="copy the whole folder again, or prepare it again",
            )

    def close(self) -> None:
        """Close the LMDB in this process; a later read opens it again."""
        self._reader.close()


def lengths_of(record: dict[str, Any]) -> dict[str, int]:
    """The lengths of a text by side file. VCR: of its question with the longest answer, and the longest rationale."""
    n = len(record["input_ids"])
    if "input_ids_as" not in record:
        return {"id2len.json": n}
    qa = n + max(map(len, record["input_ids_as"]))
    return {"id2len_qa.json": qa, "id2len_qar.json": qa + max(map(len, record["input_ids_rs"]))}


class TextWriter:
    """Writes a text store: nothing is at `path` until all of it is (use as a context manager)."""

    def __init__(self, path: str | Path, meta: dict[str, Any]):
        """`meta`: at least `UNK CLS SEP MASK v_range`."""
        self.path, self.meta = Path(path), meta
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._lens: dict[str, dict[str, int]] = {}  # by side file
        self._pictures: dict[str, Any] = {}

    def __enter__(self) -> "TextWriter":
        if self.path.exists():
            raise InputError("the output exists already", file=self.path, remedy="remove it, or name another")
        self._temporary.mkdir(parents=True)
        self._env = lmdb.open(str(self._temporary), map_size=MAP_SIZE, lock=False)
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
        if len(self._pictures) % 10_000 == 0:
            self._txn.commit()
            self._txn = self._env.begin(write=True)

    def side(self, name: str, value: Any) -> None:
        """Write `value` as the JSON file `name` beside the records."""
        assert name not in SIDES, name
        write_json(self._temporary / name, value)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is not None:
                self._txn.abort()
                self._env.close()
                return
            self._txn.commit()
            self._env.sync(True)
            self._env.close()
            by_picture: dict[str, list[str]] = {}
            for id_, picture in self._pictures.items():
                for name in [picture] if isinstance(picture, str) else picture:
                    by_picture.setdefault(name, []).append(id_)
            for file, lens in (self._lens or {LENGTHS[0]: {}}).items():
                write_json(self._temporary / file, lens)
            write_json(self._temporary / "txt2img.json", self._pictures)
            write_json(self._temporary / "img2txts.json", by_picture)
            write_json(self._temporary / "meta.json", self.meta, indent=2)
            os.rename(self._temporary, self.path)
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)
