"""Visual commonsense reasoning: is this answer (this rationale) the right one? (Paper A.2.)

Legend: B sequences, one for every choice of a question, H hidden size.
"""

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from model.growth import grown_config, growth
from model.layers import full, init_weights, layer_norm
from model.uniter import UniterConfig, UniterModel
from utils.formats import IMG_DIM, VCR_TOKENS

if TYPE_CHECKING:
    from data.batch import PackedBatch

VCR_TYPES = 4  # question, image, answer, rationale


class UniterForVisualCommonsenseReasoning(nn.Module):
    """UNITER with VCR's token types and words, and a two-class decision on the pooled [CLS] of each choice."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM, *, special_tokens: int = VCR_TOKENS):
        super().__init__()
        config = grown_config(config, types=VCR_TYPES, words=special_tokens)
        self.growth = growth(config)
        self.uniter = UniterModel(config, img_dim)
        width = config.hidden_size
        # ReLU, where the release's other heads have GELU.
        self.vcr_output = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), layer_norm(2 * width), nn.Linear(2 * width, 2)
        )
        self.vcr_output.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, batch: "PackedBatch") -> Tensor:
        """Scores (B, 2), 1 = right."""
        return self.vcr_output(self.uniter.pooler(self.uniter(batch), batch.cu_seqlens))

    def losses(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Scores (B, 2) and cross-entropy (B,): every choice is its own decision."""
        scores = self(batch)
        return scores, F.cross_entropy(full(scores), batch.targets["labels"], reduction="none")


def choice_scores(scores: Tensor) -> Tensor:
    """(B, 2) -> (B,): what the choices of a question are compared by, as in the release.

    It is the logit of "right" alone, not the probability: choices may rank otherwise by logit[1] - logit[0].
    """
    return scores[:, 1]
