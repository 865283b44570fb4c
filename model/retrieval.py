"""Image-text retrieval: which picture belongs to which caption? Ranking, and learning from the hardest candidates.
(Paper section 4.2 and A.2.)

Legend: B sequences, each a caption with a picture, E groups: a matching pair, then pairs that do not match.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.layers import full, init_weights, rows
from model.uniter import UniterConfig, UniterModel
from utils.formats import IMG_DIM

if TYPE_CHECKING:
    from data.batch import PackedBatch

MARGIN = 0.2


class UniterForImageTextRetrieval(nn.Module):
    """UNITER, its matching head from pre-training, and a rank head that starts from it."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM):
        super().__init__()
        self.uniter = UniterModel(config, img_dim)
        self.itm_output = nn.Linear(config.hidden_size, 2)
        self.rank_output = nn.Linear(config.hidden_size, 1)
        for head in (self.itm_output, self.rank_output):
            init_weights(head, config.initializer_range)

    @torch.no_grad()
    def init_output(self) -> None:
        """Start the rank head from "match" of the pre-trained matching head.

        For a checkpoint without `rank_output` (`load_checkpoint` reports it missing); one that has it keeps its own.
        """
        self.rank_output.weight.copy_(self.itm_output.weight[1:])
        self.rank_output.bias.copy_(self.itm_output.bias[1:])

    def forward(self, batch: "PackedBatch") -> Tensor:
        """Rank logits (B,)."""
        return self.rank_output(self._pooled(batch))[:, 0]

    def losses(self, batch: "PackedBatch", margin: float = MARGIN) -> tuple[Tensor, Tensor]:
        """Rank logits (B,) and the triplet loss of every negative (B - E,)."""
        scores = self(batch)
        return scores, triplet_loss(scores, batch.group, margin, groups=len(batch))

    def _pooled(self, batch: "PackedBatch") -> Tensor:
        return self.uniter.pooler(self.uniter(batch), batch.cu_seqlens)


def triplet_loss(scores: Tensor, group: Tensor, margin: float = MARGIN, groups: int | None = None) -> Tensor:
    """max(margin + sigmoid(negative) - sigmoid(positive), 0) of every negative against its group's positive.

    Rank logits (B,) and the group of each sequence (B,), groups in order, the positive first -> (negatives,), in order.
    `groups`: their number, E, where the host knows it (`len(batch)`); without it the device is asked.
    """
    groups = int(group[-1]) + 1 if groups is None else groups
    first = torch.ones_like(group, dtype=torch.bool)
    first[1:] = group[1:] != group[:-1]
    # The positives (E,), then the negatives (B - E,), each in stream order: a sort, because a mask's size is unknown.
    order = torch.argsort((~first).int(), stable=True)
    probability = torch.sigmoid(full(scores))
    positive, negative = rows(probability, order[:groups]), rows(probability, order[groups:])
    return torch.clamp(margin + negative - rows(positive, rows(group, order[groups:])), min=0)


@torch.no_grad()
def select_hardest(scores: Tensor, group: Tensor, k: int) -> Tensor:
    """The sequences to learn from: of every group its positive and the `k` negatives with the highest scores.

    Rank logits (B,) and groups (B,) -> (b,) int64 on the host, for `PackedBatch.select`: per group the positive, then
    the negatives, highest first; a group with fewer negatives keeps all. What is chosen decides the shapes of the next
    pass, so the device is waited for here.
    """
    scores, group = scores.cpu(), group.cpu()
    selected = []
    for members in torch.arange(len(group)).split(torch.unique_consecutive(group, return_counts=True)[1].tolist()):
        negatives = members[1:]
        best = scores[negatives].topk(min(k, len(negatives))).indices
        selected += [members[:1], negatives[best]]
    return torch.cat(selected)


def rank_logits(model: UniterForImageTextRetrieval, batch: "PackedBatch") -> Tensor:
    """Rank logits (B,), the head computed in fp32 at least: in half precision thousands of pairs share a score."""
    pooled = model.uniter.pooler(model.uniter(batch), batch.cu_seqlens)
    with torch.autocast(pooled.device.type, enabled=False):
        return model.rank_output(full(pooled))[:, 0]


def online_loss(model: UniterForImageTextRetrieval, batch: "PackedBatch", size: int, margin: float) -> Tensor:
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
    selected = select_hardest(scores, anchor, size)
    group = anchor.cpu()[selected]
    loss = triplet_loss(model(batch.select(selected)), group.to(scores.device), margin, groups=2)
    first = int((group == 0).sum()) - 1  # negatives of anchor 0
    return loss[:first].mean() + loss[first:].mean()
