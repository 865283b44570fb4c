"""The packed batch (DESIGN section 2): one flat stream of text tokens and image regions, without padding.

Legend: T tokens, R regions, N = T + R units, B sequences, E examples, U distinct region rows, D feature width.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

IMG_TYPE = 1  # the token type of regions; text has 0
HOST_FIELDS = ("seqlens", "txt_lens")  # fields that stay on the host


@dataclass(kw_only=True)
class Image:
    """The regions of one image. `key` identifies the image, so that a batch holds its regions once."""

    key: Hashable
    feat: np.ndarray  # (n, D) float16, as stored
    pos: np.ndarray  # (n, 7) float32
    soft_labels: np.ndarray | None = None  # (n, C) float16; only for making targets, not part of a batch


@dataclass(kw_only=True)
class Seq:
    """One sequence: its tokens, [CLS] and [SEP] included, then the regions of its images.

    Put a target in the dictionary that fits its values; all sequences of a task use the same one for it. `collate`
    concatenates the arrays of all sequences along the first axis. Before that it shifts unit positions by the start of
    the sequence in the stream, and region positions by the first row of the image in `PackedBatch.img_feat`.
    """

    input_ids: np.ndarray  # (t,) int64
    images: Sequence[Image] = ()
    txt_type_ids: np.ndarray | None = None  # (t,) int64, zeros when None
    img_types: Sequence[int] | None = None  # the token type of each image, `IMG_TYPE` when None
    img_mask: np.ndarray | None = None  # (r,) bool over the regions of all images, True where masked
    targets: dict[str, np.ndarray] = field(default_factory=dict)  # not shifted; one value per sequence: (1, …)
    unit_targets: dict[str, np.ndarray] = field(default_factory=dict)  # int64 positions among the sequence's units
    region_targets: dict[str, np.ndarray] = field(default_factory=dict)  # int64 positions in the regions of one image


@dataclass
class Example:
    """One example of a dataset: one or more sequences, and the targets of the example as a whole.

    `collate` concatenates targets along the first axis, so one value per example has the shape (1, …).
    """

    id: str
    seqs: list[Seq]
    targets: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(kw_only=True)
class PackedBatch:
    """Examples of one task as one stream of units, ready for the model. DESIGN section 2 explains every field.

    `seqlens` and `txt_lens` stay on the host, so that computing a shape never waits for the device.
    """

    task: str
    ids: list[str]
    group: Tensor  # (B,) int64: the example of each sequence
    input_ids: Tensor  # (T,) int64
    position_ids: Tensor  # (T,) int64
    txt_type_ids: Tensor  # (T,) int64
    img_feat: Tensor  # (U, D) float16
    img_pos_feat: Tensor  # (U, 7) float32
    img_row: Tensor  # (R,) int64
    img_masks: Tensor | None  # (R,) bool, True where masked; None when the task masks no region
    img_type_ids: Tensor  # (R,) int64
    txt_index: Tensor  # (T,) int64
    img_index: Tensor  # (R,) int64
    cu_seqlens: Tensor  # (B + 1,) int32
    seqlens: Tensor  # (B,) int32, host
    txt_lens: Tensor  # (B,) int32, host
    max_seqlen: int
    targets: dict[str, Tensor]

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.ids)

    @property
    def units(self) -> int:
        """The number of text tokens and image regions in the batch."""
        return int(self.seqlens.sum())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "PackedBatch":
        """The batch with `function` applied to every tensor that does not stay on the host."""
        tensors: dict[str, Any] = {
            f.name: function(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor) and f.name not in HOST_FIELDS
        }
        return replace(self, **tensors, targets={name: function(value) for name, value in self.targets.items()})

    def tensors(self) -> list[Tensor]:
        """All tensors that move to the device with the batch."""
        values = [getattr(self, f.name) for f in fields(self) if f.name not in HOST_FIELDS]
        return [value for value in (*values, *self.targets.values()) if isinstance(value, Tensor)]

    def to(self, device: torch.device, non_blocking: bool = True) -> "PackedBatch":
        """The batch on `device`; lengths stay on the host."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PackedBatch":
        """The batch in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def select(self, sequences: Tensor) -> "PackedBatch":
        """The batch of some sequences only: `sequences` (b,) int64, in this order, on the batch's device.

        Images are shared: `img_feat` and `img_pos_feat` stay whole. Examples are numbered again in order of appearance,
        and `ids` follows. Targets are dropped. Waits for the device: `sequences` and `group` are copied to the host.
        """
        index = sequences.cpu()
        txt_lens, img_lens = self.txt_lens[index].numpy(), (self.seqlens - self.txt_lens)[index].numpy()
        bounds = np.concatenate([[0], np.cumsum(txt_lens + img_lens)]).astype(np.int32)
        group = self.group.cpu()[index].tolist()
        new_group = {old: new for new, old in enumerate(dict.fromkeys(group))}
        device = self.input_ids.device

        def move(rows: np.ndarray) -> Tensor:
            return torch.from_numpy(rows).to(device, non_blocking=True)

        tokens = move(_stream_index(self.txt_lens, index))
        regions = move(_stream_index(self.seqlens - self.txt_lens, index))
        return replace(
            self,
            ids=[self.ids[old] for old in new_group],
            group=move(np.array([new_group[old] for old in group], np.int64)),
            input_ids=self.input_ids[tokens],
            position_ids=self.position_ids[tokens],
            txt_type_ids=self.txt_type_ids[tokens],
            img_row=self.img_row[regions],
            img_masks=None if self.img_masks is None else self.img_masks[regions],
            img_type_ids=self.img_type_ids[regions],
            txt_index=move(_ranges(list(zip(bounds[:-1], txt_lens)))),
            img_index=move(_ranges(list(zip(bounds[:-1] + txt_lens, img_lens)))),
            cu_seqlens=move(bounds),
            seqlens=self.seqlens[index],
            txt_lens=self.txt_lens[index],
            max_seqlen=int(self.seqlens[index].max()),
            targets={},
        )

    def __repr__(self) -> str:
        """The sizes of the batch, not its tensors."""
        targets = {name: tuple(value.shape) for name, value in self.targets.items()}
        return (
            f"PackedBatch({self.task}: {len(self)} examples, {len(self.group)} sequences, "
            f"{len(self.input_ids)} tokens, "
            f"{len(self.img_row)} regions ({len(self.img_feat)} distinct), targets {targets})"
        )


def collate(
    task: str, examples: Sequence[Example], img_dim: int, empty: Callable[..., Tensor] = torch.empty
) -> PackedBatch:
    """Pack examples into one stream: the only collate function. `img_dim`: D, needed where no example has an image.

    `empty(shape, dtype=…)` makes the tensors of the regions: in a loader process, in shared memory.
    """
    seqs = [seq for example in examples for seq in example.seqs]
    first_rows, feat, pos = _distinct_regions(seqs, img_dim, empty)
    txt_lens = np.array([len(seq.input_ids) for seq in seqs], np.int32)
    img_lens = np.array([sum(len(image.feat) for image in seq.images) for seq in seqs], np.int32)
    seqlens = txt_lens + img_lens
    bounds = np.concatenate([[0], np.cumsum(seqlens)]).astype(np.int32)  # (B + 1,): cu_seqlens
    txt_types = [np.zeros(n) if seq.txt_type_ids is None else seq.txt_type_ids for seq, n in zip(seqs, txt_lens)]
    img_types = [
        np.repeat(seq.img_types or [IMG_TYPE] * len(seq.images), [len(image.feat) for image in seq.images])
        for seq in seqs
    ]
    img_rows = [_ranges([(first_rows[image.key], len(image.feat)) for image in seq.images]) for seq in seqs]
    img_masks = [np.zeros(n, bool) if seq.img_mask is None else seq.img_mask for seq, n in zip(seqs, img_lens)]
    return PackedBatch(
        task=task,
        ids=[example.id for example in examples],
        group=torch.from_numpy(np.repeat(np.arange(len(examples)), [len(e.seqs) for e in examples])),
        input_ids=_concat([seq.input_ids for seq in seqs], np.int64),
        position_ids=_concat([np.arange(n) for n in txt_lens], np.int64),
        txt_type_ids=_concat(txt_types, np.int64),
        img_feat=feat,
        img_pos_feat=pos,
        img_row=_concat(img_rows, np.int64),
        img_masks=None if all(seq.img_mask is None for seq in seqs) else _concat(img_masks, bool),
        img_type_ids=_concat(img_types, np.int64),
        txt_index=torch.from_numpy(_ranges(list(zip(bounds[:-1], txt_lens)))),
        img_index=torch.from_numpy(_ranges(list(zip(bounds[:-1] + txt_lens, img_lens)))),
        cu_seqlens=torch.from_numpy(bounds),
        seqlens=torch.from_numpy(seqlens),
        txt_lens=torch.from_numpy(txt_lens),
        max_seqlen=int(seqlens.max()),
        targets=_batch_targets(examples, seqs, bounds[:-1], first_rows),
    )


def _distinct_regions(
    seqs: Sequence[Seq], img_dim: int, empty: Callable[..., Tensor]
) -> tuple[dict[Hashable, int], Tensor, Tensor]:
    """Copy the regions of every distinct image once, into tensors that `empty` makes.

    Returns the row of each image's first region by image key, the features (U, D) and the positions (U, 7).
    """
    images = {image.key: image for seq in seqs for image in seq.images}
    sizes = [len(image.feat) for image in images.values()]
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    dtype = torch.from_numpy(np.empty(0, next(iter(images.values())).feat.dtype)).dtype if images else torch.float16
    feat = empty((int(bounds[-1]), img_dim), dtype=dtype)
    pos = empty((int(bounds[-1]), 7), dtype=torch.float32)
    feat_view, pos_view = feat.numpy(), pos.numpy()
    for image, (start, stop) in zip(images.values(), pairwise(bounds)):
        feat_view[start:stop], pos_view[start:stop] = image.feat, image.pos
    return dict(zip(images, bounds[:-1].tolist())), feat, pos


def _batch_targets(
    examples: Sequence[Example], seqs: Sequence[Seq], starts: np.ndarray, first_rows: dict[Hashable, int]
) -> dict[str, Tensor]:
    """Targets by name, of all sequences and examples; positions become those in the batch (see `Seq`).

    `starts` (B,): where sequences start in the stream. `first_rows`: where images start in `img_feat`, by key.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for name in seqs[0].targets:
        parts[name] = [seq.targets[name] for seq in seqs]
    for name in seqs[0].unit_targets:
        parts[name] = [seq.unit_targets[name] + start for seq, start in zip(seqs, starts)]
    for name in seqs[0].region_targets:
        assert all(len(seq.images) == 1 for seq in seqs), "region targets need sequences of one image"
        parts[name] = [seq.region_targets[name] + first_rows[seq.images[0].key] for seq in seqs]
    for name in examples[0].targets:
        parts[name] = [example.targets[name] for example in examples]
    return {name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in parts.items()}


def _concat(arrays: Sequence[np.ndarray], dtype: type) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(dtype, copy=False))


def _stream_index(lens: Tensor, sequences: Tensor) -> np.ndarray:
    """The positions of the tokens (or regions) of `sequences` among those of all, whose lengths are `lens` (B,)."""
    starts = lens.cumsum(0) - lens
    return _ranges(list(zip(starts[sequences].tolist(), lens[sequences].tolist())))


def _ranges(spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """All integers of the ranges given as (start, size), concatenated, int64."""
    return np.concatenate([np.arange(start, start + size) for start, size in spans] or [np.arange(0)]).astype(np.int64)
