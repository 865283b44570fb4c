"""Head of visual commonsense reasoning: is this answer (this rationale) the right one? (Paper A.2.)

Legend: B sequences, one for each choice of a question, H hidden size.
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
    """UNITER with VCR's token types and words, and a two-class head on the pooled [CLS] of each choice."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM, *, special_tokens: int = VCR_TOKENS):
        """`config`: the sizes of the pre-trained model. `special_tokens`: words to add to its vocabulary."""
        super().__init__()
        config = grown_config(config, types=VCR_TYPES, words=special_tokens)
        self.growth = growth(config)
        self.uniter = UniterModel(config, img_dim)
        width = config.hidden_size
        # ReLU, as in the release, whose other heads have GELU.
        self.vcr_output = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), layer_norm(2 * width), nn.Linear(2 * width, 2)
        )
        self.vcr_output.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, batch: "PackedBatch") -> Tensor:
        """Scores (B, 2), where 1 means right."""
        return self.vcr_output(self.uniter.pooler(self.uniter(batch), batch.cu_seqlens))

    def losses(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Scores (B, 2) and their cross-entropy (B,) with the target `labels`; each choice is a separate decision."""
        scores = self(batch)
        return scores, F.cross_entropy(full(scores), batch.targets["labels"], reduction="none")


def choice_scores(scores: Tensor) -> Tensor:
    """The score of each choice, by which the choices of a question are compared: (B, 2) -> (B,).

    As in the release, it is the logit of "right", not the probability, which may rank choices differently.
    """
    return scores[:, 1]
