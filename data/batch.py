"""The packed batch (DESIGN section 2): one flat stream of text tokens and image regions, no padding, one collate.

Legend: T tokens, R regions, N = T + R units, B sequences, E examples, U distinct region rows, D feature width.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

IMG_TYPE = 1  # the modality embedding of regions
HOST = ("seqlens", "txt_lens")  # fields that stay on the host


@dataclass
class Image:
    """The regions of one picture: `key` tells pictures apart, so that a batch holds each of them once."""

    key: Hashable
    feat: np.ndarray  # (n, D) float16, as stored
    pos: np.ndarray  # (n, 7) float32
    soft_labels: np.ndarray | None = None  # (n, C) float16; for the targets, not batched


@dataclass
class Seq:
    """One sequence: its tokens, [CLS] and [SEP] among them, then the regions of its pictures.

    A target whose name ends in `_index` counts units from the sequence's start, one that ends in `_row` counts regions
    from its first picture's first; collating moves both to the batch. All others are joined along their first axis.
    """

    input_ids: np.ndarray  # (t,) int64
    images: Sequence[Image] = ()
    txt_type_ids: np.ndarray | None = None  # (t,) int64, zeros when None
    img_types: Sequence[int] | None = None  # one a picture, `IMG_TYPE` when None
    img_mask: np.ndarray | None = None  # (r,) bool over the regions of all its pictures
    targets: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Example:
    """What a task's dataset makes of one text: one sequence or several, and targets of the example as a whole."""

    id: str
    seqs: list[Seq]
    targets: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class PackedBatch:
    """See the module; DESIGN section 2 lists every field. Lengths live on the host, so that no shape needs a sync."""

    task: str
    ids: list[str]
    group: Tensor  # (B,) int64: the example of each sequence
    input_ids: Tensor  # (T,) int64
    position_ids: Tensor  # (T,) int64
    txt_type_ids: Tensor  # (T,) int64
    img_feat: Tensor  # (U, D) float16
    img_pos_feat: Tensor  # (U, 7) float32
    img_row: Tensor  # (R,) int64
    img_masks: Tensor | None  # (R,) bool; None when the task masks no region
    img_type_ids: Tensor  # (R,) int64
    txt_index: Tensor  # (T,) int64
    img_index: Tensor  # (R,) int64
    cu_seqlens: Tensor  # (B + 1,) int32
    seqlens: Tensor  # (B,) int32, host
    txt_lens: Tensor  # (B,) int32, host
    max_seqlen: int
    targets: dict[str, Tensor]
    layout: dict[str, Any]  # host only: what `example` needs to undo the packing

    def __len__(self) -> int:
        """Examples."""
        return len(self.ids)

    @property
    def units(self) -> int:
        """Text tokens and image regions in the batch."""
        return int(self.seqlens.sum())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "PackedBatch":
        moved: dict[str, Any] = {
            f.name: function(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor) and f.name not in HOST
        }
        return replace(self, **moved, targets={name: function(value) for name, value in self.targets.items()})

    def tensors(self) -> list[Tensor]:
        """All tensors that move with the batch."""
        found: list[Tensor] = []
        self._map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found

    def to(self, device: torch.device, non_blocking: bool = True) -> "PackedBatch":
        """The batch on a device; lengths stay on the host."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PackedBatch":
        """The batch in page-locked memory (called by torch's DataLoader)."""
        return self._map(Tensor.pin_memory)

    def select(self, sequences: Tensor) -> "PackedBatch":
        """The batch of these sequences alone, (b,) int64 on any device, in their order, on the batch's own device.

        Pictures are shared: `img_feat` and `img_pos_feat` stay whole. Groups are numbered anew in order of appearance
        and `ids` are theirs. Targets are dropped. `sequences` and `group` are brought to the host: lengths live there.
        """
        kept = sequences.cpu()
        txt_lens, img_lens = self.txt_lens[kept].numpy(), (self.seqlens - self.txt_lens)[kept].numpy()
        ends = np.concatenate([[0], np.cumsum(txt_lens + img_lens)]).astype(np.int32)
        group = self.group.cpu()[kept].tolist()
        place = {old: new for new, old in enumerate(dict.fromkeys(group))}
        device = self.input_ids.device

        def move(rows: np.ndarray) -> Tensor:
            return torch.from_numpy(rows).to(device, non_blocking=True)

        tokens, regions = move(_units(self.txt_lens, kept)), move(_units(self.seqlens - self.txt_lens, kept))
        return replace(
            self,
            ids=[self.ids[old] for old in place],
            group=move(np.array([place[old] for old in group], np.int64)),
            input_ids=self.input_ids[tokens],
            position_ids=self.position_ids[tokens],
            txt_type_ids=self.txt_type_ids[tokens],
            img_row=self.img_row[regions],
            img_masks=None if self.img_masks is None else self.img_masks[regions],
            img_type_ids=self.img_type_ids[regions],
            txt_index=move(_ranges(list(zip(ends[:-1], txt_lens)))),
            img_index=move(_ranges(list(zip(ends[:-1] + txt_lens, img_lens)))),
            cu_seqlens=move(ends),
            seqlens=self.seqlens[kept],
            txt_lens=self.txt_lens[kept],
            max_seqlen=int(self.seqlens[kept].max()),
            targets={},
            layout={"seq_targets": {}, "example_targets": {}}
            | {name: [self.layout[name][b] for b in kept.tolist()] for name in ("masked", "images")},
        )

    def example(self, i: int) -> Example:
        """Example `i` as it went in (its pictures' soft labels live on in its targets only)."""
        seqs = [self._seq(b) for b in range(len(self.group)) if int(self.group[b]) == i]
        targets = {
            name: self.targets[name][lo:hi].cpu().numpy()
            for name, ends in self.layout["example_targets"].items()
            for lo, hi in [(ends[i], ends[i + 1])]
        }
        return Example(self.ids[i], seqs, targets)

    def _seq(self, b: int) -> Seq:
        start, tokens = int(self.seqlens[:b].sum()), int(self.txt_lens[b])
        lo = int(self.txt_lens[:b].sum())
        text = slice(lo, lo + tokens)
        first = start - lo  # regions before this sequence
        regions = slice(first, first + int(self.seqlens[b]) - tokens)
        images, types, at = [], [], first
        for key, size in self.layout["images"][b]:
            rows = self.img_row[at : at + size]
            images.append(Image(key, self.img_feat[rows].cpu().numpy(), self.img_pos_feat[rows].cpu().numpy()))
            types.append(int(self.img_type_ids[at]))
            at += size
        row0 = int(self.img_row[first]) if images else 0
        targets = {}
        for name, ends in self.layout["seq_targets"].items():
            value = self.targets[name][ends[b] : ends[b + 1]].cpu().numpy()
            targets[name] = value - (start if name.endswith("_index") else row0 if name.endswith("_row") else 0)
        masks = self.layout["masked"][b]
        return Seq(
            self.input_ids[text].cpu().numpy(),
            images,
            self.txt_type_ids[text].cpu().numpy(),
            types,
            self.img_masks[regions].cpu().numpy() if masks and self.img_masks is not None else None,
            targets,
        )

    def __repr__(self) -> str:
        targets = {name: tuple(value.shape) for name, value in self.targets.items()}
        return (
            f"PackedBatch({self.task}: {len(self)} examples, {len(self.group)} sequences, "
            f"{len(self.input_ids)} tokens, "
            f"{len(self.img_row)} regions ({len(self.img_feat)} distinct), targets {targets})"
        )


def collate(task: str, examples: Sequence[Example], img_dim: int) -> PackedBatch:
    """Pack examples into one stream: THE collate function. `img_dim` is the width D, known also of text alone."""
    seqs = [seq for example in examples for seq in example.seqs]
    first_row, feat, pos = _slab(seqs, img_dim)
    txt_lens = np.array([len(seq.input_ids) for seq in seqs], np.int32)
    img_lens = np.array([sum(len(image.feat) for image in seq.images) for seq in seqs], np.int32)
    seqlens = txt_lens + img_lens
    ends = np.concatenate([[0], np.cumsum(seqlens)]).astype(np.int32)
    types = [
        np.repeat(seq.img_types or [IMG_TYPE] * len(seq.images), [len(image.feat) for image in seq.images])
        for seq in seqs
    ]
    img_rows = [_ranges([(first_row[image.key], len(image.feat)) for image in seq.images]) for seq in seqs]
    masks = [np.zeros(n, bool) if seq.img_mask is None else seq.img_mask for seq, n in zip(seqs, img_lens)]
    masked = [seq.img_mask is not None for seq in seqs]
    targets, layout = _targets(examples, seqs, ends, first_row)
    layout |= {"masked": masked, "images": [[(i.key, len(i.feat)) for i in seq.images] for seq in seqs]}
    return PackedBatch(
        task=task,
        ids=[example.id for example in examples],
        group=torch.from_numpy(np.repeat(np.arange(len(examples)), [len(e.seqs) for e in examples])),
        input_ids=_joined([seq.input_ids for seq in seqs], np.int64),
        position_ids=_joined([np.arange(n) for n in txt_lens], np.int64),
        txt_type_ids=_joined(
            [np.zeros(n) if s.txt_type_ids is None else s.txt_type_ids for s, n in zip(seqs, txt_lens)], np.int64
        ),
        img_feat=feat,
        img_pos_feat=pos,
        img_row=_joined(img_rows, np.int64),
        img_masks=_joined(masks, bool) if any(masked) else None,
        img_type_ids=_joined(types, np.int64),
        txt_index=torch.from_numpy(_ranges(list(zip(ends[:-1], txt_lens)))),
        img_index=torch.from_numpy(_ranges(list(zip(ends[:-1] + txt_lens, img_lens)))),
        cu_seqlens=torch.from_numpy(ends),
        seqlens=torch.from_numpy(seqlens),
        txt_lens=torch.from_numpy(txt_lens),
        max_seqlen=int(seqlens.max()),
        targets=targets,
        layout=layout,
    )


def _slab(seqs: Sequence[Seq], img_dim: int) -> tuple[dict[Hashable, int], Tensor, Tensor]:
    """Every distinct picture's regions, copied once, into memory that leaves a worker without another copy."""
    distinct = {image.key: image for seq in seqs for image in seq.images}
    sizes = [len(image.feat) for image in distinct.values()]
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    dtype = torch.from_numpy(np.empty(0, next(iter(distinct.values())).feat.dtype)).dtype if distinct else torch.float16
    feat, pos = _empty((int(ends[-1]), img_dim), dtype), _empty((int(ends[-1]), 7), torch.float32)
    feat_view, pos_view = feat.numpy(), pos.numpy()
    for image, (lo, hi) in zip(distinct.values(), pairwise(ends)):
        feat_view[lo:hi], pos_view[lo:hi] = image.feat, image.pos
    return dict(zip(distinct, ends[:-1].tolist())), feat, pos


def _empty(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    size = shape[0] * shape[1] * dtype.itemsize
    return torch.empty(0, dtype=dtype).set_(torch.UntypedStorage._new_shared(size)).resize_(shape)


def _targets(
    examples: Sequence[Example], seqs: Sequence[Seq], ends: np.ndarray, first_row: dict[Hashable, int]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    joined: dict[str, Tensor] = {}
    layout: dict[str, Any] = {"seq_targets": {}, "example_targets": {}}
    for kind, owners in (("seq_targets", seqs), ("example_targets", examples)):
        for name in owners[0].targets:
            parts = [owner.targets[name] for owner in owners]
            layout[kind][name] = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).tolist()
            if name.endswith("_index"):
                parts = [part + start for part, start in zip(parts, ends)]
            elif name.endswith("_row"):
                parts = [part + first_row[seq.images[0].key] for part, seq in zip(parts, seqs)]
            joined[name] = torch.from_numpy(np.concatenate(parts))
    return joined, layout


def _joined(parts: Sequence[np.ndarray], dtype: Any) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(dtype, copy=False))


def _units(lens: Tensor, kept: Tensor) -> np.ndarray:
    """Where the units of the sequences `kept` sit among those of sequences of `lens` (B,), int64."""
    starts = lens.cumsum(0) - lens
    return _ranges(list(zip(starts[kept].tolist(), lens[kept].tolist())))


def _ranges(spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """(start, size) pairs → the integers they cover, end to end, int64."""
    return np.concatenate([np.arange(start, start + size) for start, size in spans] or [np.arange(0)]).astype(np.int64)
