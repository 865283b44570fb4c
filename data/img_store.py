"""Image LMDBs, in every variant of the release (DESIGN section 4, docs/DATA.md).

Legend: n regions of a picture, D feature width, C classes.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.lmdb_io import Reader, columns
from data.records import decode
from utils.errors import InputError
from utils.files import read_json

KEYS = b"__keys__"
SAMPLE = 64  # records decoded when a store is checked at the start of a run
EXPONENT = {np.dtype(np.float16): (np.uint16, 0x7C00)}  # all ones in NaN and infinity


@dataclass
class Regions:
    """The regions of a picture, most confident first; arrays may be views into the LMDB."""

    features: np.ndarray  # (n, D) float16
    pos: np.ndarray  # (n, 7) float32: x1, y1, x2, y2, w, h, w·h in 0..1
    conf: np.ndarray  # (n,)
    soft_labels: np.ndarray | None  # (n, C) float16, where asked for


class ImageStore:
    """Pictures by row, in the order of their names: how many regions each has, without opening the LMDB, and those."""

    def __init__(
        self,
        path: str | Path,
        conf_th: float = 0.2,
        max_bb: int = 100,
        min_bb: int = 10,
        num_bb: int = 36,
        compressed: bool = False,
        blind: bool = False,
    ):
        """Choose the variant as the release does: `conf_th` -1 for a fixed `num_bb`, else by threshold and bounds;
        without its `nbb…json`, counts come from the variant `all`. `blind`: one empty region a picture."""
        self.path, self.blind, self.compressed = Path(path), blind, compressed
        self.conf_th, self.max_bb, self.min_bb, self.num_bb = conf_th, max_bb, min_bb, num_bb
        bounds = f"th{conf_th}_max{max_bb}_min{min_bb}"
        counts = self.path / f"nbb_{bounds}.json"
        self._counts = counts if conf_th > -1 and counts.exists() else None
        name = f"feat_numbb{num_bb}" if conf_th <= -1 else f"feat_{bounds}" if self._counts else "all"
        self.folder = self.path / (name + ("_compressed" if compressed else ""))
        if not self.folder.is_dir():
            raise self._no_such_variant(bounds if conf_th > -1 else f"numbb{num_bb}")
        self._reader = Reader(self.folder)
        self._img_dim: int | None = None
        sources = [self.folder / "data.mdb", counts]
        index = columns(self.path, f"{self.folder.name} {bounds} {num_bb}", sources, self._build)
        self._names: np.ndarray = index["names"]
        self.nbb: np.ndarray = np.ones(len(self._names), np.int32) if blind else index["nbb"]

    def _no_such_variant(self, wanted: str) -> InputError:
        if not self.path.is_dir():
            return InputError(
                "image LMDB not found",
                file=self.path,
                key="img_db",
                found="no such folder",
                expected="a folder with feat_… in it",
                remedy="check the path and data_root, or make it with scripts/convert_imgdir.py",
            )
        there = sorted(p.name for p in self.path.iterdir() if p.name.startswith(("feat_", "nbb_", "all")))
        return InputError(
            "the image store has no such variant",
            file=self.folder,
            key="conf_th, max_bb, min_bb, num_bb, compressed_db",
            found=f"{', '.join(there) or 'no variant at all'} in {self.path}",
            expected=f"nbb_{wanted}.json and feat_{wanted}{'_compressed' if self.compressed else ''}",
            remedy="set those keys to a variant that is there, or make this one with scripts/convert_imgdir.py",
        )

    def _build(self) -> dict[str, np.ndarray]:
        """Names, sorted, and how many regions of each are used."""
        keys = sorted(key for key in self._reader.keys() if key != KEYS)
        if self._counts is not None:
            counts: dict[str, int] = read_json(self._counts)
            absent = sorted(set(counts) - {key.decode() for key in keys})
            if absent or not counts:
                raise InputError(
                    "the counts of regions and the LMDB do not belong together",
                    file=self._counts,
                    key=", ".join(absent[:3]),
                    found=f"{len(absent)} of {len(counts)} pictures are not in {self.folder}",
                    expected="every picture, at least one",
                    remedy="copy the whole folder again, or make it again with scripts/convert_imgdir.py",
                )
            keys = [key for key in keys if key.decode() in counts]
            nbb = np.array([counts[key.decode()] for key in keys], np.int32)
        elif self.conf_th <= -1:
            nbb = np.full(len(keys), self.num_bb, np.int32)
        else:
            confident = [int((self._decode(key)["conf"] > self.conf_th).sum()) for key in keys]
            nbb = np.clip(confident, self.min_bb, self.max_bb).astype(np.int32)
        self._reader.close()
        return {"names": np.array(keys), "nbb": nbb}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, row: int) -> str:
        """The key of a picture."""
        return bytes(self._names[row]).decode()

    def rows(self, names: np.ndarray) -> np.ndarray:
        """Rows (m,) of pictures by name, an array of bytes; -1 where the store has none of that name."""
        at = np.minimum(np.searchsorted(self._names, names), len(self._names) - 1)
        return np.where(self._names[at] == names, at, -1).astype(np.int32)

    @property
    def img_dim(self) -> int:
        """Feature width D, of the first record."""
        if self._img_dim is None:
            was_open = self._reader.is_open
            self._img_dim = int(self._decode(bytes(self._names[0]))["features"].shape[-1])
            if not was_open:  # asked for before workers fork: leave nothing open
                self._reader.close()
        return self._img_dim

    def read(self, row: int, soft_labels: bool = False) -> Regions:
        """The regions of a picture: as many as announced, or as the record holds if that is fewer."""
        key = bytes(self._names[row])
        record = self._decode(key)
        n = min(int(self.nbb[row]), len(record["features"]))
        feat, box = record["features"][:n], record["norm_bb"][:n].astype(np.float32)
        if not (_finite(feat) and np.isfinite(box).all()):
            raise self._bad(key, "features or boxes that are not finite", "NaN or infinity", "finite numbers")
        if box.shape[1] == 4:
            box = np.concatenate([box, box[:, 2:] - box[:, :2]], axis=1)
        pos = np.concatenate([box, box[:, 4:5] * box[:, 5:6]], axis=1)
        labels = None
        if soft_labels:
            if "soft_labels" not in record:
                raise self._bad(key, "no soft labels", ", ".join(record), "soft_labels, for MRC and MRC-kl")
            labels = record["soft_labels"][:n].astype(np.float16, copy=False)
        feat = feat.astype(np.float16, copy=False)
        if self.blind:
            feat, pos = np.zeros_like(feat), np.zeros_like(pos)
        return Regions(feat, pos, record["conf"][:n] if "conf" in record else np.ones(n, np.float16), labels)

    def _decode(self, key: bytes) -> dict[str, np.ndarray]:
        """A record, its shapes checked."""
        value = self._reader.get(key)
        try:
            assert value is not None
            record = decode(value, self.compressed)
        except Exception as error:  # numpy, zipfile and struct each have errors of their own
            kind = "an npz" if self.compressed else "msgpack"
            raise self._bad(key, "an image record cannot be read", error, f"{kind} of numeric arrays") from None
        feat, box = record.get("features"), record.get("norm_bb")
        if feat is None or box is None or feat.ndim != 2 or box.ndim != 2 or box.shape[1] not in (4, 6):
            shapes = {name: array.shape for name, array in record.items()}
            raise self._bad(key, "not the arrays of an image", shapes, "features (n, D), norm_bb (n, 6), conf (n,)")
        sizes = {len(array) for name, array in record.items() if name in ("features", "norm_bb", "conf", "soft_labels")}
        if sizes != {len(feat)} or len(feat) == 0:
            shapes = {name: array.shape for name, array in record.items()}
            raise self._bad(key, "an image without boxes, or of uneven arrays", shapes, "the same number of rows, 1 or more")
        if self._img_dim is not None and feat.shape[1] != self._img_dim:
            raise self._bad(key, "features of another width", feat.shape[1], self._img_dim)
        return record

    def _bad(self, key: bytes, what: str, found: Any, expected: Any) -> InputError:
        return InputError(
            what,
            file=self.folder / "data.mdb",
            key=f"{key.decode()}: features, norm_bb, conf, soft_labels",
            found=found,
            expected=expected,
            remedy="extract or convert this picture again; python -m scripts.check finds all such records",
        )

    def check(self, sample: int | None = SAMPLE, seed: int = 0, img_dim: int | None = None) -> None:
        """Decode and validate `sample` records by seed (None: all). `img_dim`: the width that the model takes."""
        if img_dim is not None and self.img_dim != img_dim:
            key = bytes(self._names[0])
            raise self._bad(key, "features of another width than the model's", self.img_dim, img_dim)
        rng = np.random.default_rng(seed)
        chosen = range(len(self)) if sample is None else rng.choice(len(self), min(sample, len(self)), replace=False)
        for row in chosen:
            self.check_record(int(row))
        self.close()

    def check_record(self, row: int) -> None:
        """One record in full, soft labels included where it has them."""
        key = bytes(self._names[row])
        labelled = "soft_labels" in self._decode(key)
        labels = self.read(row, soft_labels=labelled).soft_labels
        if labels is not None and not _finite(labels):
            raise self._bad(key, "soft_labels that are not finite", "NaN or infinity", "finite numbers")

    def close(self) -> None:
        """Close the LMDB in this process; a later read opens it again."""
        self._reader.close()


class ImageStores:
    """Every image store of a run, once for each path and choice of variant."""

    def __init__(self) -> None:
        self._stores: dict[Any, ImageStore] = {}

    def get(self, path: str | Path, **options: Any) -> ImageStore:
        """The store at `path`; the same object when asked again."""
        key = (os.path.realpath(path), *sorted(options.items()))
        if key not in self._stores:
            self._stores[key] = ImageStore(path, **options)
        return self._stores[key]


def _finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite; fp16 by its bits, several times faster than arithmetic on it."""
    if array.dtype not in EXPONENT:
        return bool(np.isfinite(array).all())
    kind, mask = EXPONENT[array.dtype]
    return bool(((array.view(kind) & mask) != mask).all())
