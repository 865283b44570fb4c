"""The pre-training model: UNITER under its four heads (paper section 3.2).

Legend: N units, B sequences, M masked words or regions, H hidden size, V vocabulary, D feature width, C classes.
Every objective returns its scores and its unreduced loss.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.growth import growth
from model.layers import full, init_weights, layer_norm, rows, transform
from model.ot import pair_distances
from model.uniter import UniterConfig, UniterModel
from utils.formats import IMG_DIM, IMG_LABEL_DIM

if TYPE_CHECKING:
    from data.batch import PackedBatch


class WordPrediction(nn.Module):
    """BERT's masked-word head; its decoder is the word embedding."""

    def __init__(self, config: UniterConfig, word_embedding: Tensor):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.transform = nn.ModuleDict(
            {
                "dense": nn.Linear(config.hidden_size, config.hidden_size),
                "LayerNorm": layer_norm(config.hidden_size),
            }
        )
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.decoder.weight = word_embedding

    def forward(self, x: Tensor) -> Tensor:
        """(M, H) -> (M, V)."""
        x = self.transform["LayerNorm"](F.gelu(self.transform["dense"](x)))
        return F.linear(x, self.decoder.weight, self.bias)


class RegionRegression(nn.Module):
    """Masked region feature regression; its projection is the transpose of the image embedder's."""

    def __init__(self, config: UniterConfig, img_dim: int, img_linear_weight: Tensor):
        super().__init__()
        self.weight = img_linear_weight  # (H, D)
        self.bias = nn.Parameter(torch.zeros(img_dim))
        self.net = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.GELU(), layer_norm(config.hidden_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(M, H) -> (M, D)."""
        return F.linear(self.net(x), self.weight.t(), self.bias)


class RegionClassification(nn.Module):
    """Classes of masked regions, for MRC and MRC-kl."""

    def __init__(self, config: UniterConfig, label_dim: int):
        super().__init__()
        self.net = transform(config.hidden_size, config.hidden_size, label_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(M, H) -> (M, C)."""
        return self.net(x)


class UniterForPretraining(nn.Module):
    """UNITER with the heads of MLM, MRFR, MRC (and MRC-kl) and ITM (with word-region alignment)."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM, img_label_dim: int = IMG_LABEL_DIM):
        super().__init__()
        self.growth = growth(config)  # VCR's second stage starts from fewer types and words
        self.uniter = UniterModel(config, img_dim)
        self.cls = nn.ModuleDict({"predictions": WordPrediction(config, self.uniter.embeddings.word_embeddings.weight)})
        self.feat_regress = RegionRegression(config, img_dim, self.uniter.img_embeddings.img_linear.weight)
        self.region_classifier = RegionClassification(config, img_label_dim)
        self.itm_output = nn.Linear(config.hidden_size, 2)
        for head in (self.cls, self.feat_regress, self.region_classifier, self.itm_output):
            head.apply(lambda module: init_weights(module, config.initializer_range))

    def mlm(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Masked language modelling (equation 1): scores (M, V), cross-entropy (M,)."""
        scores = self.cls["predictions"](rows(self.uniter(batch), batch.targets["mlm_index"]))
        return scores, F.cross_entropy(full(scores), batch.targets["mlm_labels"], reduction="none")

    def mrfr(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Masked region feature regression: predictions (M, D), squared error (M, D)."""
        predicted = self.feat_regress(rows(self.uniter(batch), batch.targets["mrm_index"]))
        true = rows(batch.img_feat, batch.targets["mrm_row"])
        return predicted, F.mse_loss(full(predicted), true.to(full(predicted).dtype), reduction="none")

    def mrc(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Masked region classification on the detector's best class, background aside: (M, C), (M,)."""
        scores = self._region_scores(batch)
        labels = batch.targets["soft_labels"][:, 1:].argmax(dim=-1) + 1
        return scores, F.cross_entropy(full(scores), labels, reduction="none")

    def mrckl(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Masked region classification against the detector's distribution by KL divergence: (M, C), (M, C)."""
        scores = self._region_scores(batch)
        log_p = F.log_softmax(full(scores), dim=-1)
        return scores, F.kl_div(log_p, batch.targets["soft_labels"].to(log_p.dtype), reduction="none")

    def itm(self, batch: "PackedBatch", transport: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Image-text matching (equation 2): scores (B, 2), cross-entropy (B,), transport distances (B,) or None.

        The distances (equation 3) are those between the last states of each sequence's words and regions.
        """
        hidden = self.uniter(batch)
        scores = self.itm_output(self.uniter.pooler(hidden, batch.cu_seqlens))
        loss = F.cross_entropy(full(scores), batch.targets["itm_labels"], reduction="none")
        distances = pair_distances(hidden, batch.seqlens, batch.txt_lens) if transport else None
        return scores, loss, distances

    def _region_scores(self, batch: "PackedBatch") -> Tensor:
        return self.region_classifier(rows(self.uniter(batch), batch.targets["mrm_index"]))


def wra_loss(distances: Tensor, labels: Tensor) -> Tensor:
    """Word-region alignment over (B,) sequences: matching pairs are drawn together, others pushed apart.

    (sum of the matching distances - sum of the others) / B, a scalar.
    """
    return (distances * torch.where(labels == 1, 1.0, -1.0).to(distances.dtype)).sum() / len(distances)
