"""Taking a packed batch apart again, and padded views of it: what tests compare by."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.batch import PackedBatch
from data.txt_store import TextStore


@dataclass(kw_only=True)
class Sequence:
    """One sequence of a batch, as it went in."""

    input_ids: np.ndarray  # (t,)
    txt_type_ids: np.ndarray  # (t,)
    feat: np.ndarray  # (r, D)
    pos: np.ndarray  # (r, 7)
    img_type_ids: np.ndarray  # (r,)
    img_mask: np.ndarray | None  # (r,)


def sequences(batch: PackedBatch) -> list[Sequence]:
    """All sequences of a batch, found by `seqlens`, `txt_lens` and `img_row` alone."""
    found, token, region = [], 0, 0
    for seqlen, txt_len in zip(batch.seqlens.tolist(), batch.txt_lens.tolist()):
        text, regions = slice(token, token + txt_len), slice(region, region + seqlen - txt_len)
        rows = batch.img_row[regions].cpu()
        found.append(
            Sequence(
                input_ids=batch.input_ids[text].cpu().numpy(),
                txt_type_ids=batch.txt_type_ids[text].cpu().numpy(),
                feat=batch.img_feat.cpu()[rows].numpy(),
                pos=batch.img_pos_feat.cpu()[rows].numpy(),
                img_type_ids=batch.img_type_ids[regions].cpu().numpy(),
                img_mask=None if batch.img_masks is None else batch.img_masks[regions].cpu().numpy(),
            )
        )
        token, region = text.stop, regions.stop
    return found


def to_padded(x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    """(N, …) -> (B, L, …) zero-padded and its (B, L) bool mask; `lens` is a host tensor."""
    mask = torch.arange(int(lens.max()))[None] < lens[:, None]
    padded = x.new_zeros(*mask.shape, *x.shape[1:])
    padded[mask.to(x.device)] = x
    return padded, mask.to(x.device)


def text_of(store: TextStore, id_: str) -> int:
    """The number of the text with this id."""
    return [store.id(i) for i in range(len(store))].index(id_)


def seq_targets(targets: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The targets of the masked objectives as the three dictionaries of `data.batch.Seq`."""
    unit = {name: targets[name] for name in ("mlm_index", "mrm_index") if name in targets}
    region = {name: targets[name] for name in ("mrm_row",) if name in targets}
    plain = {name: value for name, value in targets.items() if name not in unit and name not in region}
    return {"targets": plain, "unit_targets": unit, "region_targets": region}
