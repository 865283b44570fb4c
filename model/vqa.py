"""Head of visual question answering and of visual entailment, which has three answers (paper A.2).

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
    """UNITER with a two-layer classifier of the answers on the pooled [CLS]."""

    def __init__(self, config: UniterConfig, num_answers: int, img_dim: int = IMG_DIM):
        """`config`: the sizes of the model. `num_answers`: A. `img_dim`: the feature width."""
        super().__init__()
        self.uniter = UniterModel(config, img_dim)
        self.vqa_output = transform(config.hidden_size, config.hidden_size * 2, num_answers)
        self.vqa_output.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, batch: "PackedBatch") -> Tensor:
        """Scores (E, A), logits of each answer."""
        return self.vqa_output(self.uniter.pooler(self.uniter(batch), batch.cu_seqlens))

    def losses(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Scores (E, A) and their binary cross-entropy (E, A) with the target `answer_scores`."""
        scores = self(batch)
        logits = full(scores)
        target = batch.targets["answer_scores"].to(logits.dtype)
        return scores, F.binary_cross_entropy_with_logits(logits, target, reduction="none")
