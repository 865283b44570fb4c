"""Head of referring expressions: which region does the phrase mean? (Paper sections 4.1 and A.2.)

Legend: E examples (= sequences), R regions of the stream, H hidden size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.attention import owners, segment_log_softmax, segment_max
from model.layers import full, init_weights, rows, transform
from model.uniter import UniterConfig, UniterModel
from utils.formats import IMG_DIM

if TYPE_CHECKING:
    from data.batch import PackedBatch


class UniterForReferringExpressionComprehension(nn.Module):
    """UNITER with a score for every region, from a linear layer or a two-layer MLP on its last state."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM, mlp: int = 1):
        """`img_dim`: the feature width. `mlp`: the number of layers in the head, 1 or 2."""
        super().__init__()
        assert mlp in (1, 2), mlp
        self.uniter = UniterModel(config, img_dim)
        width = config.hidden_size
        self.re_output: nn.Module = nn.Linear(width, 1) if mlp == 1 else transform(width, width, 1)
        self.re_output.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, batch: "PackedBatch") -> Tensor:
        """Scores (R,) of all regions, in the order of the stream."""
        return self.re_output(rows(self.uniter(batch), batch.img_index))[:, 0]

    def losses(
        self,
        batch: "PackedBatch",
        loss: str = "cls",
        *,
        margin: float = 0.2,
        hard_ratio: float = 0.3,
        uniform: Tensor | None = None,
        negatives: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scores (R,) and the loss of each example (E,).

        `loss` "cls" (paper A.2): cross-entropy of the true region over the regions of its sequence. "rank" (the
        release): max(margin + sigmoid(wrong) - sigmoid(true), 0) with one wrong region, 0 where there is none. The
        wrong regions are given as `negatives` (E,), positions within the sequence, or chosen by `uniform` (E, 2),
        random numbers in [0, 1): when the first is below `hard_ratio`, the wrong region with the highest score; else
        the second picks a wrong region, each with the same probability.
        """
        scores = self(batch)
        regions = RegionSpans.of(batch)
        true = regions.first + batch.targets["region_labels"]
        if loss == "cls":
            return scores, -rows(segment_log_softmax(scores, regions.owner, len(true)), true)
        assert loss == "rank", loss
        if negatives is not None:
            wrong = regions.first + negatives.to(true.device)
        else:
            assert uniform is not None, "the ranking loss draws its negatives: give `uniform` or `negatives`"
            wrong = choose_wrong(scores, regions, true, hard_ratio, uniform.to(true.device, non_blocking=True))
        probability = torch.sigmoid(full(scores))
        value = torch.clamp(margin + rows(probability, wrong) - rows(probability, true), min=0)
        return scores, torch.where(regions.count > 1, value, 0.0)


@dataclass
class RegionSpans:
    """The positions of each sequence's regions among all R regions, on the device."""

    count: Tensor  # (E,) int64: how many regions
    first: Tensor  # (E,) int64: the first one
    owner: Tensor  # (R,) int64: the sequence of each region

    @classmethod
    def of(cls, batch: "PackedBatch") -> "RegionSpans":
        """The spans of a batch, computed from the lengths on the host without waiting for the device."""
        device, count = batch.img_index.device, (batch.seqlens - batch.txt_lens).long()
        first = count.cumsum(0) - count
        return cls(
            count.to(device, non_blocking=True), first.to(device, non_blocking=True), owners(count.cpu(), device)
        )


@torch.no_grad()
def choose_wrong(scores: Tensor, regions: RegionSpans, true: Tensor, hard_ratio: float, uniform: Tensor) -> Tensor:
    """Choose one wrong region for each sequence: (E,) int64 positions in R; the true one where there is no other.

    `scores` (R,); `true` (E,) positions in R; for `hard_ratio` and `uniform` (E, 2) see `losses` above.
    """
    others = scores.index_fill(0, true, -torch.inf)
    best = rows(segment_max(others, regions.owner, len(true)), regions.owner)  # (R,)
    place = torch.arange(len(scores), device=scores.device)
    place = torch.where(others == best, place, len(scores) - 1)  # NaN equals nothing: then the position is arbitrary
    hard = place.new_full((len(true),), len(scores) - 1).scatter_reduce(0, regions.owner, place, "amin")
    easy = (uniform[:, 1] * (regions.count - 1)).long()
    # The minimum guards against a product that is rounded up to the count. The true region is skipped.
    easy = regions.first + torch.minimum(easy, regions.count - 2).clamp(min=0)
    easy = torch.where((easy >= true) & (regions.count > 1), easy + 1, easy)
    return torch.where(uniform[:, 0] < hard_ratio, hard, easy)
