"""Heads of NLVR2: is the sentence true of the two images? Three models (paper section 4.3, table 6; A.2).

Legend: E examples, N units, H hidden size. Token types: 0 text, 1 first image, 2 second image; with `use_img_type`
false, both images have type 1.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import Spans, attend, owners, segment_softmax, segment_sum
from model.growth import grown_config, growth
from model.layers import full, init_weights, rows
from model.uniter import UniterConfig, UniterModel
from utils.formats import IMG_DIM

if TYPE_CHECKING:
    from data.batch import PackedBatch


class Nlvr2Model(nn.Module):
    """Base class of the three models: UNITER with a third token type, initially a copy of type 1, and the loss."""

    def __init__(self, config: UniterConfig, img_dim: int):
        """`config`: the sizes of the pre-trained model. `img_dim`: the feature width."""
        super().__init__()
        self.config = grown_config(config, types=3, source_type=1)
        self.growth = growth(self.config)
        self.uniter = UniterModel(self.config, img_dim)

    def losses(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Scores (E, 2), where 1 means true, and their cross-entropy (E,) with the target `labels`."""
        scores = self(batch)
        return scores, F.cross_entropy(full(scores), batch.targets["labels"], reduction="none")

    def _init(self, module: nn.Module) -> None:
        init_weights(module, self.config.initializer_range)


class UniterForNlvr2Triplet(Nlvr2Model):
    """The paper's Triplet: one sequence of the sentence and both images, a linear layer on its pooled [CLS]."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM):
        super().__init__(config, img_dim)
        self.nlvr2_output = nn.Linear(config.hidden_size, 2).apply(self._init)

    def forward(self, batch: "PackedBatch") -> Tensor:
        """Scores (E, 2)."""
        return self.nlvr2_output(self.uniter.pooler(self.uniter(batch), batch.cu_seqlens))


class UniterForNlvr2Paired(Nlvr2Model):
    """The paper's Pair: two sequences, of the sentence and one image each, a linear layer on both pooled [CLS].

    The sequences of example e are 2e and 2e + 1.
    """

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM):
        super().__init__(config, img_dim)
        self.nlvr2_output = nn.Linear(2 * config.hidden_size, 2).apply(self._init)

    def forward(self, batch: "PackedBatch") -> Tensor:
        """Scores (E, 2)."""
        pooled = self.uniter.pooler(self.uniter(batch), batch.cu_seqlens)  # (2E, H)
        return self.nlvr2_output(pooled.view(len(pooled) // 2, -1))


class CrossAttention(nn.Module):
    """Multi-head attention from the units of one stream to those of another, with torch's MultiheadAttention names."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * config.hidden_size, config.hidden_size))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * config.hidden_size))
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, other: Tensor, spans: Spans, spans_other: Spans) -> Tensor:
        """States (N_x, H) attend to `other` (N_other, H), sequence by sequence -> (N_x, H).

        `spans_other` must be made with `like=spans`.
        """
        width = x.shape[1]
        q = F.linear(x, self.in_proj_weight[:width], self.in_proj_bias[:width])
        k, v = F.linear(other, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, dim=-1)
        q, k, v = (part.unflatten(1, (self.heads, -1)) for part in (q, k, v))
        dropout = self.dropout.p if self.training else 0.0
        return self.out_proj(attend(q, k, v, spans, spans_k=spans_other, dropout=dropout).flatten(1))


class AttentionPool(nn.Module):
    """Attentional pooling (paper A.2): the mean of a sequence's units, weighted by a softmax over a learned score."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(config.hidden_size, 1), nn.ReLU())
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, lens: Tensor) -> Tensor:
        """States (N, H) and the lengths (E,) of their sequences, a host tensor -> (E, H)."""
        owner = owners(lens, x.device)
        weight = self.dropout(segment_softmax(self.fc(x)[:, 0], owner, len(lens)))
        return segment_sum(weight[:, None] * full(x), owner, len(lens))


class UniterForNlvr2PairedAttn(Nlvr2Model):
    """The paper's Pair-biattn: two sequences, as in Pair, that attend to each other before they are pooled."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM):
        super().__init__(config, img_dim)
        width = config.hidden_size
        self.attn1 = CrossAttention(config).apply(self._init)
        self.attn2 = CrossAttention(config).apply(self._init)
        self.fc = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(config.hidden_dropout_prob))
        self.attn_pool = AttentionPool(config).apply(self._init)
        self.nlvr2_output = nn.Linear(2 * width, 2).apply(self._init)
        self.fc.apply(self._init)

    def forward(self, batch: "PackedBatch") -> Tensor:
        """Scores (E, 2)."""
        hidden = self.uniter(batch)
        side = torch.repeat_interleave(torch.arange(len(batch.seqlens)) % 2, batch.seqlens.long())
        left, right = (
            rows(hidden, torch.where(side == index)[0].to(hidden.device, non_blocking=True)) for index in (0, 1)
        )
        left_lens, right_lens = batch.seqlens[0::2], batch.seqlens[1::2]
        left_spans = Spans.of(left_lens, hidden.device)
        right_spans = Spans.of(right_lens, hidden.device, like=left_spans)
        to_right = self.attn1(left, right, left_spans, right_spans)
        to_left = self.attn2(right, left, right_spans, left_spans)
        left = self.attn_pool(self.fc(torch.cat([to_right, left], dim=-1)), left_lens)
        right = self.attn_pool(self.fc(torch.cat([to_left, right], dim=-1)), right_lens)
        return self.nlvr2_output(torch.cat([left, right], dim=-1))


NLVR2_MODELS = {
    "triplet": UniterForNlvr2Triplet,
    "paired": UniterForNlvr2Paired,
    "paired-attn": UniterForNlvr2PairedAttn,
}
