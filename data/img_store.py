"""Image LMDBs, in every variant of the release (DESIGN section 4, docs/DATA.md).

Legend: n regions of a picture, D feature width, C classes.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.img_index import announced_counts, picture_keys
from data.lmdb_io import Reader, columns
from data.records import decode
from utils.errors import InputError

SAMPLE = 64  # records decoded when a store is checked at the start of a run


@dataclass(kw_only=True)
class Regions:
    """The regions of a picture, most confident first; arrays may be views into the LMDB."""

    features: np.ndarray  # (n, D) float16
    pos: np.ndarray  # (n, 7) float32: x1, y1, x2, y2, w, h, w·h in 0..1
    conf: np.ndarray  # (n,)
    soft_labels: np.ndarray | None  # (n, C) float16, where asked for


class ImageStore:
    """An image LMDB by row, rows sorted by key.

    `n_announced` (n,) int32: the regions of each picture as the release counts them (its `nbb…json`, or a fixed
    number). `n_stored` (n,) int32: the regions that are there, as far as it is known without reading. Both come from
    the index; only `read` opens the LMDB.
    """

    def __init__(
        self,
        path: str | Path,
        *,
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
        if conf_th <= -1:
            name = f"feat_numbb{num_bb}"
        else:
            name = f"feat_{bounds}" if self._counts else "all"
        self.folder = self.path / (name + ("_compressed" if compressed else ""))
        if not self.folder.is_dir():
            raise self._no_such_variant(bounds if conf_th > -1 else f"numbb{num_bb}")
        self._reader = Reader(self.folder)
        self._img_dim: int | None = None
        sources = [self.folder / "data.mdb", counts]
        # The index goes by the names that older indexes have, so that those are still read: nbb, held.
        index = columns(self.path, f"{self.folder.name} {bounds} {num_bb} held", sources, self._build)
        self._names: np.ndarray = index["names"]
        self.n_announced: np.ndarray = np.ones(len(self._names), np.int32) if blind else index["nbb"]
        self.n_stored: np.ndarray = self.n_announced if blind else index["held"]

    def __reduce__(self) -> tuple[Any, ...]:  # another process opens it for itself
        names = ("conf_th", "max_bb", "min_bb", "num_bb", "compressed", "blind")
        return partial(ImageStore, self.path, **{name: getattr(self, name) for name in names}), ()

    def _no_such_variant(self, variant: str) -> InputError:
        if not self.path.is_dir():
            return InputError(
                "image LMDB not found",
                file=self.path,
                key="img_db",
                found="no such folder",
                expected="a folder with feat_… in it",
                remedy="check the path and data_root, or make it with scripts/convert_imgdir.py",
            )
        variants = sorted(p.name for p in self.path.iterdir() if p.name.startswith(("feat_", "nbb_", "all")))
        suffix = "_compressed" if self.compressed else ""
        if f"feat_{variant}{suffix}" in variants:
            return InputError(
                "the numbers of regions are missing: the LMDB is there, the JSON that belongs to it is not",
                file=self.path / f"nbb_{variant}.json",
                found="no such file",
                expected='{"NAME": REGIONS, …}, written with the LMDB',
                remedy="copy this file too, or make the store again with scripts/convert_imgdir.py",
            )
        return InputError(
            "the image store has no such variant",
            file=self.folder,
            key="conf_th, max_bb, min_bb, num_bb, compressed_db",
            found=f"{', '.join(variants) or 'no variant at all'} in {self.path}",
            expected=f"feat_{variant}{suffix}" + (f" and nbb_{variant}.json" if variant.startswith("th") else ""),
            remedy="set those keys to a variant that is there, or make this one with scripts/convert_imgdir.py",
        )

    def _build(self) -> dict[str, np.ndarray]:
        """Names, sorted, and how many regions each picture has, as announced and as stored."""
        keys = picture_keys(self._reader)
        if self._counts is not None:
            counts = announced_counts(self._counts, keys, self.folder)
            keys = [key for key in keys if key.decode() in counts]
            n_announced = np.array([counts[key.decode()] for key in keys], np.int32)
        elif self.conf_th <= -1:
            n_announced = np.full(len(keys), self.num_bb, np.int32)
        else:
            confident = [int((self._decode(key)["conf"] > self.conf_th).sum()) for key in keys]
            n_announced = np.clip(confident, self.min_bb, self.max_bb).astype(np.int32)
        n_stored = n_announced
        if self.conf_th <= -1:  # ground-truth boxes: a hundred are announced, a few are there
            sizes = [len(self._decode(key)["features"]) for key in keys]
            n_stored = np.minimum(n_announced, sizes).astype(np.int32)
        self._reader.close()
        return {"names": np.array(keys), "nbb": n_announced, "held": n_stored}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, row: int) -> str:
        """The key of a picture."""
        return bytes(self._names[row]).decode()

    def rows(self, names: np.ndarray) -> np.ndarray:
        """Rows (m,) of pictures by name, an array of bytes; -1 where the store has none of that name."""
        rows = np.minimum(np.searchsorted(self._names, names), len(self._names) - 1)
        return np.where(self._names[rows] == names, rows, -1).astype(np.int32)

    @property
    def img_dim(self) -> int:
        """Feature width D, of the first record."""
        if self._img_dim is None:
            open_before = self._reader.is_open
            self._img_dim = int(self._decode(bytes(self._names[0]))["features"].shape[-1])
            if not open_before:  # asked for before workers fork: leave nothing open
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
            extent = f"norm_bb from {pos.min()} to {pos.max()}"
            raise self._bad(key, "boxes that are not shares of the picture", extent, "corners and sizes in 0..1")
        conf = record["conf"][:n] if "conf" in record else np.ones(n, np.float16)
        if self.blind:
            feat, pos = np.zeros_like(feat), np.zeros_like(pos)
        return Regions(features=feat, pos=pos, conf=conf, soft_labels=labels)

    def _half(self, key: bytes, name: str, array: np.ndarray) -> np.ndarray:
        """The array as float16, all of it finite: seen by its bits, ten times faster than `np.isfinite`."""
        if array.dtype != np.float16:
            with np.errstate(over="ignore"):
                array = array.astype(np.float16)
        if (array.view(np.uint16) & 0x7FFF).max() >= 0x7C00:
            count = f"{int((~np.isfinite(array)).sum())} of {array.size} are NaN, infinite or beyond float16"
            raise self._bad(key, f"{name} that are not finite", count, "finite numbers")
        return array

    def _decode(self, key: bytes) -> dict[str, np.ndarray]:
        """A record, its shapes checked."""
        value = self._reader.get(key)
        try:
            assert value is not None
            record = decode(value, self.compressed)
        except Exception as error:  # numpy, zipfile and struct each have errors of their own
            encoding = "an npz" if self.compressed else "msgpack"
            raise self._bad(key, "an image record cannot be read", error, f"{encoding} of numeric arrays") from None
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

    def _bad(self, key: bytes, problem: str, value: Any, expected: Any) -> InputError:
        return InputError(
            problem,
            file=self.folder / "data.mdb",
            key=f"{key.decode()}: features, norm_bb, conf, soft_labels",
            found=value,
            expected=expected,
            remedy="extract or convert this picture again; python -m scripts.check finds all such records",
        )

    def check(self, sample: int | None = SAMPLE, seed: int = 0, img_dim: int | None = None) -> None:
        """Decode and validate `sample` records by seed (None: all). `img_dim`: the width that the model takes."""
        if img_dim is not None and self.img_dim != img_dim:
            key = bytes(self._names[0])
            raise self._bad(key, "features of another width than the model's", self.img_dim, img_dim)
        rng = np.random.default_rng(seed)
        rows = range(len(self)) if sample is None else rng.choice(len(self), min(sample, len(self)), replace=False)
        for row in rows:
            self.check_record(int(row))
        self.close()

    def check_record(self, row: int) -> Regions:
        """One record in full, soft labels included where it has them."""
        return self.read(row, soft_labels="soft_labels" in self._decode(bytes(self._names[row])))

    def close(self) -> None:
        """Close the LMDB in this process; a later read opens it again."""
        self._reader.close()


def positions(norm_bb: np.ndarray) -> np.ndarray:
    """(n, 6) x1, y1, x2, y2, w, h, or (n, 4) without w and h → (n, 7) float32 with w·h, a product of float32."""
    pos = np.empty((len(norm_bb), 7), np.float32)
    pos[:, : norm_bb.shape[1]] = norm_bb
    if norm_bb.shape[1] == 4:
        pos[:, 4:6] = pos[:, 2:4] - pos[:, :2]
    np.multiply(pos[:, 4], pos[:, 5], out=pos[:, 6])
    return pos
