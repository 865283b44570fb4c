"""Referring expressions: which region does the phrase mean? (Paper section 4.2 and A.2.)

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
    """UNITER and a score for every region: a linear layer (`mlp` 1) or the two-layer head (`mlp` 2)."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM, mlp: int = 1):
        super().__init__()
        assert mlp in (1, 2), mlp
        self.uniter = UniterModel(config, img_dim)
        width = config.hidden_size
        self.re_output: nn.Module = nn.Linear(width, 1) if mlp == 1 else transform(width, width, 1)
        self.re_output.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, batch: "PackedBatch") -> Tensor:
        """Scores (R,), in stream order."""
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
        """Scores (R,) and the loss of every example (E,).

        `cls`: cross-entropy of the true region over the sequence's regions. `rank`: max(margin + sigmoid(negative) -
        sigmoid(positive), 0) against one wrong region, 0 where there is none. It is chosen by `uniform` (E, 2), numbers
        in [0, 1): where the first is below `hard_ratio` the wrong region with the highest score, else the one that the
        second picks, all being equally likely; or given as `negatives` (E,), counted within the sequence.
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
    """Where the regions of each sequence lie among those of the stream, on the device."""

    count: Tensor  # (E,) int64
    first: Tensor  # (E,) int64
    owner: Tensor  # (R,) int64

    @classmethod
    def of(cls, batch: "PackedBatch") -> "RegionSpans":
        """Worked out on the host, which knows the lengths."""
        device, count = batch.img_index.device, (batch.seqlens - batch.txt_lens).long()
        first = count.cumsum(0) - count
        return cls(
            count.to(device, non_blocking=True), first.to(device, non_blocking=True), owners(count.cpu(), device)
        )


@torch.no_grad()
def choose_wrong(scores: Tensor, regions: RegionSpans, true: Tensor, hard_ratio: float, uniform: Tensor) -> Tensor:
    """One wrong region a sequence, (E,) int64 into R; the true one where a sequence has no other.

    scores (R,), the true regions (E,) into R, uniform numbers (E, 2): see `losses`.
    """
    others = scores.index_fill(0, true, -torch.inf)
    best = rows(segment_max(others, regions.owner, len(true)), regions.owner)  # (R,)
    place = torch.arange(len(scores), device=scores.device)
    place = torch.where(others == best, place, len(scores) - 1)  # of non-finite scores none is best: any place will do
    hard = place.new_full((len(true),), len(scores) - 1).scatter_reduce(0, regions.owner, place, "amin")
    easy = (uniform[:, 1] * (regions.count - 1)).long()
    # A product rounded up to the count itself stays within; the true region is stepped over.
    easy = regions.first + torch.minimum(easy, regions.count - 2).clamp(min=0)
    easy = torch.where((easy >= true) & (regions.count > 1), easy + 1, easy)
    return torch.where(uniform[:, 0] < hard_ratio, hard, easy)
