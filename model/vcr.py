"""Visual commonsense reasoning: is this answer (this rationale) the right one? (Paper A.2.)

Legend: B sequences, one for every choice of a question, H hidden size.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import full, init_weights, layer_norm
from model.uniter import IMG_DIM, UniterConfig, UniterModel, grown_config

VCR_TYPES = 4  # question, image, answer, rationale
VCR_TOKENS = 81  # persons and objects by number, appended to the vocabulary


class UniterForVisualCommonsenseReasoning(nn.Module):
    """UNITER with VCR's token types and words, and a two-class decision on the pooled [CLS] of each choice."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM, *, special_tokens: int = VCR_TOKENS):
        super().__init__()
        config = grown_config(config, types=VCR_TYPES, words=special_tokens)
        self.growth = config.growth()
        self.uniter = UniterModel(config, img_dim)
        width = config.hidden_size
        # ReLU, where the release's other heads have GELU.
        self.vcr_output = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), layer_norm(2 * width), nn.Linear(2 * width, 2)
        )
        self.vcr_output.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, batch: Any) -> Tensor:
        """Scores (B, 2), 1 = right."""
        return self.vcr_output(self.uniter.pooler(self.uniter(batch), batch.cu_seqlens))

    def losses(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Scores (B, 2) and cross-entropy (B,): every choice is its own decision."""
        scores = self(batch)
        return scores, F.cross_entropy(full(scores), batch.targets["labels"], reduction="none")


def choice_scores(scores: Tensor) -> Tensor:
    """(B, 2) -> (B,): what the choices of a question are compared by, as in the release.

    It is the logit of "right" alone, not the probability: choices may rank otherwise by logit[1] - logit[0].
    """
    return scores[:, 1]
