"""Visual question answering, and visual entailment, which is the same head with three answers (paper A.2).

Legend: E examples (= sequences), A answers, H hidden size.
"""

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import full, init_weights, transform
from model.uniter import UniterConfig, UniterModel
from utils.formats import IMG_DIM

if TYPE_CHECKING:
    from data.batch import PackedBatch


class UniterForVisualQuestionAnswering(nn.Module):
    """UNITER and a classifier over the answers, on the pooled [CLS]."""

    def __init__(self, config: UniterConfig, num_answers: int, img_dim: int = IMG_DIM):
        super().__init__()
        self.uniter = UniterModel(config, img_dim)
        self.vqa_output = transform(config.hidden_size, config.hidden_size * 2, num_answers)
        self.vqa_output.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, batch: "PackedBatch") -> Tensor:
        """Scores (E, A)."""
        return self.vqa_output(self.uniter.pooler(self.uniter(batch), batch.cu_seqlens))

    def losses(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Scores (E, A) and binary cross-entropy against the soft scores (E, A)."""
        scores = self(batch)
        logits = full(scores)
        target = batch.targets["answer_scores"].to(logits.dtype)
        return scores, F.binary_cross_entropy_with_logits(logits, target, reduction="none")
