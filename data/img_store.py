"""Reading of image stores (image LMDBs), in every variant of the release (DESIGN section 4, docs/DATA.md).

Legend: n regions of an image, D feature width, C classes.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.blank_regions import BlankSigns, blank_problem, blank_signs
from data.img_index import announced_counts, no_such_variant, picture_keys
from data.index_cache import columns
from data.lmdb_io import Reader
from data.records import decode, positions
from data.region_checks import (
    Problem,
    Regions,
    as_half,
    conf_problem,
    label_problem,
    order_problem,
    region_problem,
    shape_problem,
)
from utils.errors import InputError

SAMPLE = 64  # records that `ImageStore.check` reads by default


class ImageStore:
    """One variant of an image LMDB. Images are numbered by row, sorted by key.

    `n_announced` (images,) int32: regions of each image as the release counts them, from `nbb_….json` or the fixed
    `num_bb`. `n_stored` (images,) int32: the same, but with `conf_th` -1 never more than the record holds. Both come
    from the index, so that batches are planned without opening the LMDB.
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
        """Choose a variant by the release's rule, and open it.

        With `conf_th` -1 it is `feat_numbb{num_bb}`. Otherwise it is `feat_th{conf_th}_max{max_bb}_min{min_bb}`, or,
        where that one's `nbb_….json` is missing, `all`, whose counts are then made from the confidences. `compressed`:
        the form `_compressed`. `blind`: one region of zeros for each image (a control). `InputError` when the variant
        does not exist, or its files are damaged or do not fit together.
        """
        self.path, self.blind, self.compressed = Path(path), blind, compressed
        self.conf_th, self.max_bb, self.min_bb, self.num_bb = conf_th, max_bb, min_bb, num_bb
        bounds = f"th{float(conf_th)}_max{max_bb}_min{min_bb}"
        counts = self.path / f"nbb_{bounds}.json"
        self.counts = counts if conf_th > -1 and counts.exists() else None
        if conf_th <= -1:
            name = f"feat_numbb{num_bb}"
        else:
            name = f"feat_{bounds}" if self.counts else "all"
        self.folder = self.path / (name + ("_compressed" if compressed else ""))
        if not self.folder.is_dir():
            raise no_such_variant(self.folder, bounds if conf_th > -1 else f"numbb{num_bb}", compressed)
        self._reader = Reader(self.folder)
        self._img_dim: int | None = None
        variant = f"image {self.folder.name} {bounds} {num_bb}"
        index = columns(self.path, variant, self._reader, sides=[counts], build=self._build, keys="names")
        self._names: np.ndarray = index["names"]
        self.n_announced: np.ndarray = np.ones(len(self._names), np.int32) if blind else index["nbb"]
        self.n_stored: np.ndarray = self.n_announced if blind else index["held"]

    def __reduce__(self) -> tuple[Any, ...]:  # another process opens the store itself
        names = ("conf_th", "max_bb", "min_bb", "num_bb", "compressed", "blind")
        return partial(ImageStore, self.path, **{name: getattr(self, name) for name in names}), ()

    def _build(self) -> dict[str, np.ndarray]:
        """Build the index: `names` (images,) bytes, sorted, and `nbb` and `held`, the two counts of regions."""
        self._reader.check_pages()
        keys = picture_keys(self._reader)
        if self.counts is not None:
            counts = announced_counts(self.counts, keys, self.folder)
            keys = [key for key in keys if key.decode() in counts]
            n_announced = np.array([counts[key.decode()] for key in keys], np.int32)
        elif self.conf_th <= -1:
            n_announced = np.full(len(keys), self.num_bb, np.int32)
        else:
            confident = [int((self._confidences(key) > self.conf_th).sum()) for key in keys]
            n_announced = np.clip(confident, self.min_bb, self.max_bb).astype(np.int32)
        n_stored = n_announced
        if self.conf_th <= -1:  # ground-truth boxes: num_bb is 100, but an image has only a few
            sizes = [len(self._decode(key)["features"]) for key in keys]
            n_stored = np.minimum(n_announced, sizes).astype(np.int32)
        self._reader.close()
        return {"names": np.array(keys), "nbb": n_announced, "held": n_stored}

    def _confidences(self, key: bytes) -> np.ndarray:
        """The confidences of an image's regions, for a store without a file of counts; `InputError` without them."""
        record = self._decode(key)
        if "conf" not in record:
            expected = f"conf, from which the number of regions is counted, or {self.path}/nbb_….json"
            raise self._bad(key, "the record has no confidences", ", ".join(record), expected)
        return record["conf"]

    def __len__(self) -> int:
        """The number of images."""
        return len(self._names)

    def name(self, row: int) -> str:
        """The key of the image in `row`."""
        return bytes(self._names[row]).decode()

    def rows(self, names: np.ndarray) -> np.ndarray:
        """The rows (m,) int32 of the images with the keys `names` (m,) bytes; -1 for a key that the store lacks."""
        rows = np.minimum(np.searchsorted(self._names, names), len(self._names) - 1)
        return np.where(self._names[rows] == names, rows, -1).astype(np.int32)

    @property
    def img_dim(self) -> int:
        """The feature width D, read from the first record."""
        if self._img_dim is None:
            open_before = self._reader.is_open
            self._img_dim = int(self._decode(bytes(self._names[0]))["features"].shape[-1])
            if not open_before:  # loader processes may fork later: leave nothing open
                self._reader.close()
        return self._img_dim

    def read(self, row: int, soft_labels: bool = False) -> Regions:
        """Read the regions of the image in `row`: `n_announced` of them, or all where the record has fewer.

        `soft_labels`: read the class probabilities too. `InputError` when the record is damaged or lacks them, or when
        its arrays cannot mean what they must (`data.region_checks`).
        """
        key = bytes(self._names[row])
        record = self._decode(key)
        n = min(int(self.n_announced[row]), len(record["features"]))
        feat, boxes, conf = as_half(record["features"][:n]), record["norm_bb"][:n], record.get("conf")
        arrays, labels = {"features": feat, "norm_bb": boxes}, None
        if soft_labels:
            if "soft_labels" not in record:
                raise self._bad(key, "the record has no soft labels", ", ".join(record), "soft_labels (MRC, MRC-kl)")
            arrays["soft_labels"] = labels = as_half(record["soft_labels"][:n])
        problem = region_problem(arrays)
        if problem is not None:
            raise self._bad(key, *problem)
        pos, conf = positions(boxes), np.ones(n, np.float16) if conf is None else conf[:n].reshape(-1)
        if self.blind:
            feat, pos = np.zeros_like(feat), np.zeros_like(pos)
        return Regions(features=feat, pos=pos, conf=conf, soft_labels=labels)

    def _decode(self, key: bytes) -> dict[str, np.ndarray]:
        """The arrays of a record, with their shapes checked."""
        value = self._reader.get(key)
        try:
            assert value is not None
            record = decode(value, self.compressed)
        except Exception as error:  # numpy, zipfile and struct each raise different errors
            encoding = "an npz" if self.compressed else "msgpack"
            raise self._bad(key, "an image record cannot be read", error, f"{encoding} of numeric arrays") from None
        problem = shape_problem(record)
        if problem is not None:
            raise self._bad(key, *problem)
        width = record["features"].shape[1]
        if self._img_dim is None:
            self._img_dim = width
        if width != self._img_dim:
            title = "the features of an image have another width than those of another image of the store"
            raise self._bad(key, title, width, self._img_dim)
        return record

    def _bad(self, key: bytes, problem: str, value: Any, expected: Any, array: str = "") -> InputError:
        return InputError(
            problem,
            file=self.folder / "data.mdb",
            key=f"{key.decode()}: {array or 'features, norm_bb, conf, soft_labels'}",
            found=value,
            expected=expected,
            remedy="extract or convert this image again; python -m scripts.check lists all such records",
        )

    def check(self, sample: int | None = SAMPLE, seed: int = 0, img_dim: int | None = None) -> None:
        """Check `sample` records drawn by `seed` (None: all), then close the LMDB; `InputError` when one is unusable.

        `img_dim`: the feature width of the model; None accepts any.
        """
        if img_dim is not None and self.img_dim != img_dim:
            key = bytes(self._names[0])
            raise self._bad(key, "the features have another width than the model's", self.img_dim, img_dim)
        rows = self._sample(sample, seed)
        self.check_blank([] if self.blind else [blank_signs(self.check_record(row)) for row in rows])
        self.check_order(rows)
        self.close()

    def check_blank(self, signs: Sequence[BlankSigns]) -> None:
        """`InputError` when the images with these signs are all what a failed extraction leaves."""
        problem = blank_problem(signs)
        if problem is not None:
            raise self._bad(b"all images", *problem)

    def check_order(self, rows: Sequence[int]) -> int:
        """The number of images in `rows` of which a region is left out that is more confident than one that is read.

        `InputError` when they are more than half of the images of which regions are left out. A few are normal: the
        release's extractor does not sort an image of which exactly 100 regions are above its threshold.
        """
        wrong: list[tuple[bytes, Problem]] = []
        cut = 0
        for row in rows if not self.blind else ():
            key = bytes(self._names[row])
            conf, n = self._decode(key).get("conf"), int(self.n_announced[row])
            if conf is not None and n < len(conf):
                cut += 1
                problem = order_problem(conf, n)
                wrong += [] if problem is None else [(key, problem)]
        if 2 * len(wrong) > cut:
            raise self._bad(wrong[0][0], *wrong[0][1])
        return len(wrong)

    def check_soft_labels(self, classes: int) -> None:
        """Check the soft labels of the records that `check` takes; `InputError` unless they have `classes` classes."""
        signs = []
        for row in self._sample(SAMPLE, 0):
            regions = self.read(row, soft_labels=True)
            assert regions.soft_labels is not None
            problem = label_problem(regions.soft_labels, classes)
            if problem is not None:
                raise self._bad(bytes(self._names[row]), *problem)
            signs.append(blank_signs(regions))
        self.check_blank([] if self.blind else signs)
        self.close()

    def _sample(self, sample: int | None, seed: int) -> list[int]:
        """The rows of `sample` records drawn by `seed`; None: of all records."""
        size = len(self) if sample is None else min(sample, len(self))
        return np.random.default_rng(seed).choice(len(self), size, replace=False).tolist()

    def check_record(self, row: int, soft_labels: bool = False) -> Regions:
        """Read and check one record, with `soft_labels` also those that it has, and return its regions."""
        key = bytes(self._names[row])
        regions = self.read(row, soft_labels and "soft_labels" in self._decode(key))
        problem = conf_problem(regions.conf)
        if problem is not None:
            raise self._bad(key, *problem)
        return regions

    def close(self) -> None:
        """Close the LMDB in this process; a later read opens it again."""
        self._reader.close()
