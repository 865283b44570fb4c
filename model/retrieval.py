"""Head and losses of image-text retrieval: ranking of pairs, and hard negatives (paper sections 4.1 and A.2).

Legend: B sequences, each a caption with an image, E groups. In a group the first sequence is the matching pair, the
positive; the others are negatives.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from model.layers import full, init_weights, rows
from model.uniter import UniterConfig, UniterModel
from utils.formats import IMG_DIM

if TYPE_CHECKING:
    from data.batch import PackedBatch

MARGIN = 0.2  # of the triplet loss, as in the release


class UniterForImageTextRetrieval(nn.Module):
    """UNITER with the matching head of pre-training, and a rank head that starts from it."""

    head_sources: ClassVar = {"rank_output": "itm_output"}  # `model.weights` counts such a head as not missing

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM):
        """`config`: the sizes of the model. `img_dim`: the feature width."""
        super().__init__()
        self.uniter = UniterModel(config, img_dim)
        self.itm_output = nn.Linear(config.hidden_size, 2)
        self.rank_output = nn.Linear(config.hidden_size, 1)
        for head in (self.itm_output, self.rank_output):
            init_weights(head, config.initializer_range)

    @torch.no_grad()
    def init_output(self) -> None:
        """Copy the row "match" of the pre-trained matching head to the rank head.

        Call it after loading a checkpoint without `rank_output`, which `load_checkpoint` then reports as missing.
        """
        self.rank_output.weight.copy_(self.itm_output.weight[1:])
        self.rank_output.bias.copy_(self.itm_output.bias[1:])

    def forward(self, batch: "PackedBatch") -> Tensor:
        """Rank logits (B,), the scores of all pairs."""
        return self.rank_output(self.pooled(batch))[:, 0]

    def losses(self, batch: "PackedBatch", margin: float = MARGIN) -> tuple[Tensor, Tensor]:
        """Rank logits (B,) and the triplet loss of each negative (B - E,)."""
        scores = self(batch)
        return scores, triplet_loss(scores, batch.group, margin, groups=len(batch))

    def pooled(self, batch: "PackedBatch") -> Tensor:
        """Pooled states (B, H)."""
        return self.uniter.pooler(self.uniter(batch), batch.cu_seqlens)


def triplet_loss(scores: Tensor, group: Tensor, margin: float = MARGIN, groups: int | None = None) -> Tensor:
    """The triplet loss (B - E,) of all negatives, in order (paper section 4.1).

    It is max(margin + sigmoid(negative) - sigmoid(positive), 0) with the positive of the negative's group. `scores`
    (B,): rank logits. `group` (B,): the group of each sequence, in order, the positive first. `groups`: E, when the
    host knows it (`len(batch)`); None reads it from the device, and waits for it.
    """
    groups = int(group[-1]) + 1 if groups is None else groups
    first = torch.ones_like(group, dtype=torch.bool)
    first[1:] = group[1:] != group[:-1]
    # The positives (E,), then the negatives (B - E,), each in stream order. A sort needs no wait, but a mask does: the
    # host would have to know how many elements it selects.
    order = torch.argsort((~first).int(), stable=True)
    probability = torch.sigmoid(full(scores))
    positive, negative = rows(probability, order[:groups]), rows(probability, order[groups:])
    return torch.clamp(margin + negative - rows(positive, rows(group, order[groups:])), min=0)


@torch.no_grad()
def select_hardest(scores: Tensor, group: Tensor, k: int) -> Tensor:
    """Select the sequences to train on: the positive of each group and its `k` negatives with the highest scores.

    `scores` (B,): rank logits. `group` (B,). Returns (b,) int64 on the host, for `PackedBatch.select`: for each group
    the positive, then the negatives, highest score first; all of them where there are fewer than `k`. It waits for the
    device, because the selection decides the shapes of the next pass.
    """
    scores, group = scores.cpu(), group.cpu()
    selected = []
    for members in torch.arange(len(group)).split(torch.unique_consecutive(group, return_counts=True)[1].tolist()):
        negatives = members[1:]
        best = scores[negatives].topk(min(k, len(negatives))).indices
        selected += [members[:1], negatives[best]]
    return torch.cat(selected)


def rank_logits(model: UniterForImageTextRetrieval, batch: "PackedBatch") -> Tensor:
    """Rank logits (B,) with the head in fp32 at least: in half precision thousands of pairs would have equal scores."""
    pooled = model.pooled(batch)
    with torch.autocast(pooled.device.type, enabled=False):
        return model.rank_output(full(pooled))[:, 0]


def online_loss(model: UniterForImageTextRetrieval, batch: "PackedBatch", size: int, margin: float) -> Tensor:
    """The loss of online hard negatives, a scalar: the sum over two anchors of the mean triplet loss.

    The target `anchor` (B,) gives the anchor of each sequence, 0 (text) or 1 (image), in order, the positive first. All
    sequences are scored without gradient and dropout. Then the positive and the `size` highest-scored negatives of each
    anchor are computed again, with gradient.
    """
    anchor = batch.targets["anchor"]
    model.eval()
    with torch.no_grad():
        scores = rank_logits(model, batch)
    model.train()
    torch.clear_autocast_cache()  # its half-precision copies of the weights have no gradient: do not use them again
    selected = select_hardest(scores, anchor, size)
    group = anchor.cpu()[selected]
    loss = triplet_loss(model(batch.select(selected)), group.to(scores.device), margin, groups=2)
    first = int((group == 0).sum()) - 1  # negatives of anchor 0
    return loss[:first].mean() + loss[first:].mean()
