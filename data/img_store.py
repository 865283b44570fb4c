"""Image LMDBs, in every variant of the release (DESIGN section 4, docs/DATA.md).

Legend: n regions of a picture, D feature width, C classes.
"""

import json
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
        bounds = f"th{float(conf_th)}_max{max_bb}_min{min_bb}"
        counts = self.path / f"nbb_{bounds}.json"
        self._counts = counts if conf_th > -1 and counts.exists() else None
        name = f"feat_numbb{num_bb}" if conf_th <= -1 else f"feat_{bounds}" if self._counts else "all"
        self.folder = self.path / (name + ("_compressed" if compressed else ""))
        if not self.folder.is_dir():
            raise self._no_such_variant(bounds if conf_th > -1 else f"numbb{num_bb}")
        self._reader = Reader(self.folder)
        self._img_dim: int | None = None
        sources = [self.folder / "data.mdb", counts]
        index = columns(self.path, f"{self.folder.name} {bounds} {num_bb} held", sources, self._build)
        self._names: np.ndarray = index["names"]
        # What the release counts, and what is there as far as known: of a fixed number, what each record holds.
        self.n_announced: np.ndarray = np.ones(len(self._names), np.int32) if blind else index["nbb"]
        self.n_stored: np.ndarray = self.n_announced if blind else index["held"]

    def __reduce__(self) -> tuple[Any, ...]:  # another process opens it for itself
        options = self.conf_th, self.max_bb, self.min_bb, self.num_bb, self.compressed, self.blind
        return ImageStore, (self.path, *options)

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
        suffix = "_compressed" if self.compressed else ""
        if f"feat_{wanted}{suffix}" in there:
            return InputError(
                "the numbers of regions are missing: the LMDB is there, the JSON that belongs to it is not",
                file=self.path / f"nbb_{wanted}.json",
                found="no such file",
                expected='{"NAME": REGIONS, …}, written with the LMDB',
                remedy="copy this file too, or make the store again with scripts/convert_imgdir.py",
            )
        return InputError(
            "the image store has no such variant",
            file=self.folder,
            key="conf_th, max_bb, min_bb, num_bb, compressed_db",
            found=f"{', '.join(there) or 'no variant at all'} in {self.path}",
            expected=f"feat_{wanted}{suffix}" + (f" and nbb_{wanted}.json" if wanted.startswith("th") else ""),
            remedy="set those keys to a variant that is there, or make this one with scripts/convert_imgdir.py",
        )

    def _build(self) -> dict[str, np.ndarray]:
        """Names, sorted, and how many regions of each are used, as announced and as held."""
        keys = [key for key, _ in self._reader.items() if key != KEYS]
        listed = self._reader.get(KEYS)
        absent = sorted(set(json.loads(bytes(listed))) - {key.decode() for key in keys}) if listed else []
        if absent or not keys:
            raise InputError(
                "an image LMDB is not whole",
                file=self.folder / "data.mdb",
                key=", ".join(absent[:3]) or None,
                found=f"{len(keys)} pictures; {len(absent)} that __keys__ lists are not there",
                expected="every picture, at least one",
                remedy="copy the whole folder again, or make it again with scripts/convert_imgdir.py",
            )
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
        held = nbb
        if self.conf_th <= -1:  # ground-truth boxes: a hundred are announced, a few are there
            held = np.minimum(nbb, [len(self._decode(key)["features"]) for key in keys]).astype(np.int32)
        self._reader.close()
        return {"names": np.array(keys), "nbb": nbb, "held": held}

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
        n = min(int(self.n_announced[row]), len(record["features"]))
        feat = self._half(key, "features", record["features"][:n])
        labels = None
        if soft_labels:
            if "soft_labels" not in record:
                raise self._bad(key, "no soft labels", ", ".join(record), "soft_labels, for MRC and MRC-kl")
            labels = self._half(key, "soft_labels", record["soft_labels"][:n])
        pos = positions(record["norm_bb"][:n])
        if not (pos.min() >= -1 and pos.max() <= 2):  # false for NaN too; a box may leave the picture a little
            found = f"norm_bb from {pos.min()} to {pos.max()}"
            raise self._bad(key, "boxes that are not shares of the picture", found, "corners and sizes in 0..1")
        if self.blind:
            feat, pos = np.zeros_like(feat), np.zeros_like(pos)
        return Regions(feat, pos, record["conf"][:n] if "conf" in record else np.ones(n, np.float16), labels)

    def _half(self, key: bytes, name: str, array: np.ndarray) -> np.ndarray:
        """The array as float16, all of it finite: seen by its bits, ten times faster than `np.isfinite`."""
        if array.dtype != np.float16:
            with np.errstate(over="ignore"):
                array = array.astype(np.float16)
        if (array.view(np.uint16) & 0x7FFF).max() >= 0x7C00:
            found = f"{int((~np.isfinite(array)).sum())} of {array.size} are NaN, infinite or beyond float16"
            raise self._bad(key, f"{name} that are not finite", found, "finite numbers")
        return array

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
            expected = "the same number of rows, 1 or more"
            raise self._bad(key, "an image without boxes, or of uneven arrays", shapes, expected)
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

    def check_record(self, row: int) -> Regions:
        """One record in full, soft labels included where it has them."""
        return self.read(row, soft_labels="soft_labels" in self._decode(bytes(self._names[row])))

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


def positions(norm_bb: np.ndarray) -> np.ndarray:
    """(n, 6) x1, y1, x2, y2, w, h, or (n, 4) without w and h → (n, 7) float32 with w·h, a product of float32."""
    pos = np.empty((len(norm_bb), 7), np.float32)
    pos[:, : norm_bb.shape[1]] = norm_bb
    if norm_bb.shape[1] == 4:
        pos[:, 4:6] = pos[:, 2:4] - pos[:, :2]
    np.multiply(pos[:, 4], pos[:, 5], out=pos[:, 6])
    return pos
