"""Ranking with the retrieval model: scores fine enough to rank thousands, and learning from the hardest candidates.

Legend: B sequences, each a caption with a picture.
"""

from typing import Any

import torch
from torch import Tensor

from model.itm import UniterForImageTextRetrieval, hardest, triplet_loss
from model.layers import full


def rank_logits(model: UniterForImageTextRetrieval, batch: Any) -> Tensor:
    """Rank logits (B,), the head computed in fp32 at least: in half precision thousands of pairs share a score."""
    pooled = model.uniter.pooler(model.uniter(batch), batch.cu_seqlens)
    with torch.autocast(pooled.device.type, enabled=False):
        return model.rank_output(full(pooled))[:, 0]


def online_loss(model: UniterForImageTextRetrieval, batch: Any, size: int, margin: float) -> Tensor:
    """The mean loss of the `size` hardest candidates of each of the batch's two anchors, the two means added.

    Target `anchor` (B,) says whose a sequence is, 0 or 1, in order, the positive first. All are scored without
    gradient and dropout; the chosen ones are run again, to learn from.
    """
    anchor = batch.targets["anchor"]
    model.eval()
    with torch.no_grad():
        scores = rank_logits(model, batch)
    model.train()
    torch.clear_autocast_cache()  # half-precision copies of the weights, made without gradient, must not serve again
    kept = hardest(scores, anchor, size)
    group = anchor.cpu()[kept]
    loss = triplet_loss(model(batch.select(kept)), group.to(scores.device), margin, groups=2)
    first = int((group == 0).sum()) - 1  # negatives of anchor 0
    return loss[:first].mean() + loss[first:].mean()
