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
from utils.errors import InputError
from utils.files import read_json, write_json

LENGTHS = ("id2len.json", "id2len_qar.json", "id2len_qa.json")
MAP_SIZE = 1 << 40  # an upper bound of LMDB's, not a size on disk
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
    """Texts by number, in the order of `id2len.json`: lengths and pictures without opening the LMDB, records from it."""

    def __init__(self, path: str | Path, max_txt_len: int | None = None):
        """`max_txt_len`: longer texts (word pieces, without [CLS] and [SEP]) are left out; None or -1: none are."""
        self.path = Path(path)
        self.meta = read_meta(self.path)
        self._reader = Reader(self.path)
        sources = [self.path / name for name in ("data.mdb", "txt2img.json", *LENGTHS)]
        index = columns(self.path, "text", sources, self._build)
        lens = index["lens"]
        keep = slice(None) if max_txt_len in (None, -1) else np.flatnonzero(lens <= max_txt_len)
        self._ids, self.lens = index["ids"][keep], lens[keep]
        self.img_names, self.img_index = index["img_names"], index["img_index"][keep]

    def _build(self) -> dict[str, np.ndarray]:
        """Columns: ids, lens (n,), the distinct picture names, sorted, and which of them each text is about (n, k)."""
        lengths = next((self.path / name for name in LENGTHS if (self.path / name).exists()), self.path / LENGTHS[0])
        id2len: dict[str, int] = read_json(lengths)
        keys = set(self._reader.keys())
        absent = [id_ for id_ in id2len if id_.encode() not in keys]
        if absent or not id2len:
            raise InputError(
                "the lengths and the LMDB do not belong together",
                file=lengths,
                key=", ".join(absent[:3]),
                found=f"{len(absent)} of {len(id2len)} ids are not in {self.path / 'data.mdb'}",
                expected="every id, at least one",
                remedy="copy the whole folder again, or prepare it again",
            )
        txt2img = self.path / "txt2img.json"
        if txt2img.exists():
            pictures = read_json(txt2img)
            named = [pictures.get(id_) for id_ in id2len]
        else:
            named = [self._decode(id_.encode()).get("img_fname") for id_ in id2len]
        if any(name is None for name in named):
            bad = next(id_ for id_, name in zip(id2len, named) if name is None)
            raise InputError("a text has no picture", file=txt2img, key=bad, expected="the name of a picture")
        pairs = [[name] if isinstance(name, str) else list(name) for name in named]
        names, inverse = np.unique([name.encode() for pair in pairs for name in pair], return_inverse=True)
        self._reader.close()
        return {
            "ids": np.array([id_.encode() for id_ in id2len]),
            "lens": np.fromiter(id2len.values(), np.int32, len(id2len)),
            "img_names": names,
            "img_index": inverse.astype(np.int32).reshape(len(pairs), -1),
        }

    def __len__(self) -> int:
        return len(self.lens)

    def id(self, i: int) -> str:
        """The id of text `i`."""
        return bytes(self._ids[i]).decode()

    def read(self, i: int) -> dict[str, Any]:
        """The record of text `i`: `input_ids`, `img_fname` and the fields of its dataset."""
        return self._decode(bytes(self._ids[i]))

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
        """Decode a sample of records by seed; ids of word pieces must lie in the vocabulary."""
        rng = np.random.default_rng(seed)
        for i in rng.choice(len(self), min(SAMPLE, len(self)), replace=False) if len(self) else ():
            self.check_record(int(i))
        self._reader.close()

    def check_record(self, i: int) -> None:
        """One record: its length as announced, its ids in the vocabulary."""
        ids = self.read(i)["input_ids"]
        high = self.meta.v_range[1] + 100  # VCR appends 81 tokens for persons and objects
        if any(type(t) is not int or not 0 <= t < high for t in ids):
            raise InputError(
                "word pieces outside the vocabulary", file=self.path, key=self.id(i), expected=f"0..{high - 1}"
            )

    def close(self) -> None:
        """Close the LMDB in this process; a later read opens it again."""
        self._reader.close()


class TextWriter:
    """Writes a text store: nothing is at `path` until all of it is (use as a context manager)."""

    def __init__(self, path: str | Path, meta: dict[str, Any]):
        """`meta`: at least `UNK CLS SEP MASK v_range`."""
        self.path, self.meta = Path(path), meta
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._lens: dict[str, int] = {}
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
        if id in self._lens:
            raise InputError("an id stands twice", file=self.path, key=id)
        self._txn.put(id.encode(), lz4.frame.compress(msgpack.packb(record, use_bin_type=True)))
        self._lens[id], self._pictures[id] = len(record["input_ids"]), record["img_fname"]
        if len(self._lens) % 10_000 == 0:
            self._txn.commit()
            self._txn = self._env.begin(write=True)

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
            write_json(self._temporary / "id2len.json", self._lens)
            write_json(self._temporary / "txt2img.json", self._pictures)
            write_json(self._temporary / "img2txts.json", by_picture)
            write_json(self._temporary / "meta.json", self.meta, indent=2)
            os.rename(self._temporary, self.path)
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)
