"""Reading of text stores (text LMDBs; format: DESIGN section 4, docs/DATA.md). `data.txt_writer` writes them."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lz4.frame
import msgpack
import numpy as np

from data.index_cache import columns
from data.lmdb_io import Reader
from data.side_files import check_meta, quoted
from data.text_signs import TextSigns, token_lists
from data.txt_index import text_columns
from utils.errors import InputError
from utils.files import read_json
from utils.formats import TEXT_KEYS, VCR_TOKENS

LOG = logging.getLogger("uniter")

LENGTH_FILES = ("id2len.json", "id2len_qar.json", "id2len_qa.json")  # of text lengths; the default is the first found
SAMPLE = 64  # records that `TextStore.check` reads


@dataclass(frozen=True, kw_only=True)
class Meta:
    """The vocabulary of a text store, as its `meta.json` describes it."""

    cls: int  # ids of special tokens
    sep: int
    mask: int
    unk: int | None
    v_range: tuple[int, int]  # ids of ordinary word pieces: from the first number up to, without, the second
    tokenizer: str | None = None  # its name
    vocab_sha256: str | None = None  # hash of vocab.txt, where the writer stored it
    do_lower_case: bool | None = None  # how text was made fit for the vocabulary; None where the writer did not say
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool | None = None


def read_meta(path: Path) -> Meta:
    """Read `meta.json` of the text store at `path`; `InputError` when the folder does not exist or a field is wrong."""
    if not path.is_dir():
        raise InputError(
            "text LMDB not found",
            file=path,
            key="txt_db",
            found="a file" if path.exists() else "no such folder",
            expected="a folder NAME.db with data.mdb in it",
            remedy="check the path and data_root, or prepare it with prepro.py",
        )
    return meta_of(path / "meta.json", read_json(path / "meta.json"))


def meta_of(file: Path, content: Any) -> Meta:
    """The vocabulary that `content` describes, from `file`, a meta.json or vocab.json; `InputError` if it is wrong.

    Known writers use three keys for the tokenizer's name.
    """
    check_meta(file, content)
    return Meta(
        cls=content["CLS"],
        sep=content["SEP"],
        mask=content["MASK"],
        unk=content.get("UNK"),
        v_range=tuple(content["v_range"]),
        tokenizer=content.get("tokenizer") or content.get("toker") or content.get("bert"),
        vocab_sha256=content.get("vocab_sha256"),
        **{key: content[key] for key in TEXT_KEYS if isinstance(content.get(key), bool)},
    )


def _are_tokens(ids: Any, high: int) -> bool:
    return isinstance(ids, list) and all(type(token) is int and 0 <= token < high for token in ids)


class TextStore:
    """Texts 0 .. n-1 of a text LMDB, in the order of its file of lengths (`id2len.json`).

    `lens` (n,) int32: word pieces of each text, without [CLS] and [SEP] (VCR: see `data.txt_writer.lengths_of`).
    `img_names` (m,) bytes: the keys of all images that the texts name, sorted. `img_index` (n, k) int32: for each text
    the rows in `img_names` of its k images (k = 2 for NLVR2 and VCR, else 1). They come from a memory-mapped index.
    """

    def __init__(self, path: str | Path, max_txt_len: int | None = None, lengths: str | None = None):
        """Open the store at `path`. `InputError` when a file is missing or damaged, or the files do not fit together.

        `max_txt_len`: leave out texts with more word pieces than this; None or -1 keeps all texts. `lengths`: the file
        of text lengths, for stores with several (VCR); None takes the first of `LENGTH_FILES` that exists.
        """
        self.path, self._options = Path(path), (max_txt_len, lengths)
        self.meta = read_meta(self.path)
        self._reader = Reader(self.path)
        present = [name for name in LENGTH_FILES if (self.path / name).exists()]
        self.lengths = lengths or (present or LENGTH_FILES)[0]
        if self.lengths not in present:
            raise InputError(
                "the text store lacks its file of text lengths",
                file=self.path / self.lengths,
                key="lengths of VCR's questions and answers" if lengths else None,
                found=", ".join(present) or "no such file",
                expected=self.lengths + (", which only a store of VCR has" if lengths else ""),
                remedy="give a store that prepro.py vcr made"
                if lengths
                else "copy the whole folder of the store again",
            )
        sides = [self.path / name for name in ("txt2img.json", self.lengths)]
        index = columns(self.path, f"text {self.lengths}", self._reader, sides=sides, build=self._build, keys="ids")
        self._ids, self.img_names = index["ids"], index["img_names"]
        self.lens, self.img_index = index["lens"], index["img_index"]
        self._rows: np.ndarray | None = None  # rows of the index of the texts that are not too long; None: all texts
        if max_txt_len is not None and max_txt_len >= 0 and (self.lens > max_txt_len).any():
            self._rows = np.flatnonzero(self.lens <= max_txt_len).astype(np.int32)
            self.lens, self.img_index = self.lens[self._rows], self.img_index[self._rows]

    def __reduce__(self) -> tuple[Any, ...]:
        return TextStore, (self.path, *self._options)  # another process opens the store itself

    def _build(self) -> dict[str, np.ndarray]:
        self._reader.check_pages()
        keys = (key for key, _ in self._reader.items())
        index = text_columns(self.path, self.lengths, keys, self.decode)
        self._reader.close()
        return index

    def __len__(self) -> int:
        """n, the number of texts, without those that are too long."""
        return len(self.lens)

    def id(self, i: int) -> str:
        """The id of text `i`, which is its key in the LMDB."""
        return self._key(i).decode()

    def pictures(self, i: int) -> list[str]:
        """The keys of the images of text `i`."""
        return [bytes(name).decode() for name in self.img_names[self.img_index[i]]]

    def _key(self, i: int) -> bytes:
        return self._ids[i if self._rows is None else self._rows[i]]

    def read(self, i: int) -> dict[str, Any]:
        """Read the record of text `i`: `input_ids`, `img_fname` and the fields of its dataset (docs/DATA.md).

        `InputError` when the record cannot be decoded, or has word pieces outside the vocabulary.
        """
        record = self.decode(self._key(i))
        high = self.meta.v_range[1] + (VCR_TOKENS if "input_ids_as" in record else 0)
        bad = next((ids for ids in token_lists(record) if not _are_tokens(ids, high)), None)
        if bad is not None:
            raise InputError(
                "a text has word pieces outside the vocabulary",
                file=self.path / "data.mdb",
                key=self.id(i),
                found=str(bad)[:200],
                expected=f"lists of integers 0..{high - 1}, by v_range in meta.json",
                remedy="prepare the store again with one vocab.txt",
            )
        return record

    def decode(self, key: bytes) -> dict[str, Any]:
        """The record of a key, also of one that the file of lengths leaves out; `InputError` when it is damaged."""
        value = self._reader.get(key)
        try:
            record = msgpack.unpackb(lz4.frame.decompress(value), raw=False)
            if isinstance(record, dict) and isinstance(record["input_ids"], list):
                return record
            problem = type(record).__name__
        except Exception as error:  # lz4, msgpack and a missing key each raise a different error
            problem = f"{type(error).__name__}: {error}"
        raise InputError(
            "a text record cannot be read",
            file=self.path / "data.mdb",
            key=key.decode(),
            found=problem,
            expected="an lz4 frame of a msgpack map with a list input_ids",
            remedy="prepare the store again; python -m scripts.check lists all such records",
        )

    def check(self, seed: int = 0) -> None:
        """Check `SAMPLE` records drawn by `seed`, then close the LMDB, which must not be open when processes fork.

        `InputError` when one is unusable, or nearly all hold special tokens. What is odd is logged as a warning.
        """
        rng, signs = np.random.default_rng(seed), self.signs()
        for i in rng.choice(len(self), min(SAMPLE, len(self)), replace=False):
            signs.add(self.check_record(int(i)))
        self.close()
        signs.check(self.path)
        for warning in signs.warnings():
            LOG.warning("%s: in a sample %s", self.path, warning)

    def signs(self) -> TextSigns:
        """A new count of odd tokens, for the vocabulary of this store."""
        meta = self.meta
        return TextSigns(meta.cls, meta.sep, meta.mask, meta.unk, meta.v_range[0])

    def check_record(self, i: int) -> dict[str, Any]:
        """Read text `i` and check that it has the length and images of the side files; `InputError` otherwise.

        The lengths of VCR are not compared: they count more than `input_ids`.
        """
        record = self.read(i)
        n, pictures = len(record["input_ids"]), self.pictures(i)
        named = record.get("img_fname", pictures)
        if ([named] if isinstance(named, str) else named) != pictures:
            raise InputError(
                "a text's record names another image than txt2img.json",
                file=self.path / "data.mdb",
                key=f"{self.id(i)}: img_fname",
                found=quoted(named),
                expected=f"{', '.join(pictures)}, as in txt2img.json",
                remedy="copy the whole folder again, or prepare it again",
            )
        if self.lengths == LENGTH_FILES[0] and n != self.lens[i]:
            raise InputError(
                "the file of lengths gives a wrong length for a text",
                file=self.path / self.lengths,
                key=self.id(i),
                found=f"{int(self.lens[i])} word pieces",
                expected=f"{n} word pieces, as in data.mdb",
                remedy="copy the whole folder again, or prepare it again",
            )
        return record

    def close(self) -> None:
        """Close the LMDB in this process; a later read opens it again."""
        self._reader.close()
