"""The pre-training model: UNITER with the heads of all objectives (paper section 3.2).

Legend: N units, B sequences, M masked words or regions, H hidden size, V vocabulary, D feature width, C classes.
Every objective returns its scores and its unreduced loss, which `pretrain.py` reduces.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.growth import growth
from model.layers import ACTIVATIONS, full, init_weights, layer_norm, rows, transform
from model.ot import pair_distances
from model.uniter import UniterConfig, UniterModel
from utils.formats import IMG_DIM, IMG_LABEL_DIM

if TYPE_CHECKING:
    from data.batch import PackedBatch


class WordPrediction(nn.Module):
    """The head of masked language modelling, as in BERT. Its decoder shares the weight of the word embedding."""

    def __init__(self, config: UniterConfig, word_embedding: Tensor):
        """`word_embedding`: the weight (V, H) that the decoder shares."""
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
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """States of masked words (M, H) -> scores of the vocabulary (M, V)."""
        x = self.transform["LayerNorm"](self.activation(self.transform["dense"](x)))
        return F.linear(x, self.decoder.weight, self.bias)


class RegionRegression(nn.Module):
    """The head of masked region feature regression. Its projection is the transpose of the image embedder's."""

    def __init__(self, config: UniterConfig, img_dim: int, img_linear_weight: Tensor):
        """`img_dim`: D. `img_linear_weight`: the weight (H, D) of the image embedder, which the projection shares."""
        super().__init__()
        self.weight = img_linear_weight  # (H, D)
        self.bias = nn.Parameter(torch.zeros(img_dim))
        self.net = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.GELU(), layer_norm(config.hidden_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """States of masked regions (M, H) -> predicted features (M, D)."""
        return F.linear(self.net(x), self.weight.t(), self.bias)


class RegionClassification(nn.Module):
    """The head of masked region classification, for MRC and MRC-kl."""

    def __init__(self, config: UniterConfig, label_dim: int):
        """`label_dim`: C, the number of detector classes."""
        super().__init__()
        self.net = transform(config.hidden_size, config.hidden_size, label_dim)

    def forward(self, x: Tensor) -> Tensor:
        """States of masked regions (M, H) -> scores of the detector's classes (M, C)."""
        return self.net(x)


class UniterForPretraining(nn.Module):
    """UNITER with the heads of MLM, MRFR, MRC (which MRC-kl shares) and ITM (with word-region alignment)."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM, img_label_dim: int = IMG_LABEL_DIM):
        """`img_dim`: the feature width D. `img_label_dim`: the number of detector classes C, background included."""
        super().__init__()
        self.growth = growth(config)  # VCR's second stage has more types and words than its checkpoint
        self.uniter = UniterModel(config, img_dim)
        self.cls = nn.ModuleDict({"predictions": WordPrediction(config, self.uniter.embeddings.word_embeddings.weight)})
        self.feat_regress = RegionRegression(config, img_dim, self.uniter.img_embeddings.img_linear.weight)
        self.region_classifier = RegionClassification(config, img_label_dim)
        self.itm_output = nn.Linear(config.hidden_size, 2)
        for head in (self.cls, self.feat_regress, self.region_classifier, self.itm_output):
            head.apply(lambda module: init_weights(module, config.initializer_range))

    def mlm(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Masked language modelling (equation 1): scores (M, V) and cross-entropy (M,)."""
        scores = self.cls["predictions"](rows(self.uniter(batch), batch.targets["mlm_index"]))
        return scores, F.cross_entropy(full(scores), batch.targets["mlm_labels"], reduction="none")

    def mrfr(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Masked region feature regression (equation 4): predicted features (M, D) and squared errors (M, D)."""
        predicted = self.feat_regress(rows(self.uniter(batch), batch.targets["mrm_index"]))
        true = rows(batch.img_feat, batch.targets["mrm_row"])
        return predicted, F.mse_loss(full(predicted), true.to(full(predicted).dtype), reduction="none")

    def mrc(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """Masked region classification (equation 4): scores (M, C) and cross-entropy (M,).

        The label is the detector's most probable class other than background, which is class 0.
        """
        scores = self._region_scores(batch)
        labels = batch.targets["soft_labels"][:, 1:].argmax(dim=-1) + 1
        return scores, F.cross_entropy(full(scores), labels, reduction="none")

    def mrckl(self, batch: "PackedBatch") -> tuple[Tensor, Tensor]:
        """MRC-kl (equation 4): scores (M, C) and the terms (M, C) of the KL divergence from detector to model."""
        scores = self._region_scores(batch)
        log_p = F.log_softmax(full(scores), dim=-1)
        return scores, F.kl_div(log_p, batch.targets["soft_labels"].to(log_p.dtype), reduction="none")

    def itm(self, batch: "PackedBatch", transport: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Image-text matching (equation 2): scores (B, 2), where 1 means match, and cross-entropy (B,).

        The third value is None or, with `transport`, the distance (B,) between the last states of each sequence's words
        and regions (equation 3).
        """
        hidden = self.uniter(batch)
        scores = self.itm_output(self.uniter.pooler(hidden, batch.cu_seqlens))
        loss = F.cross_entropy(full(scores), batch.targets["itm_labels"], reduction="none")
        distances = pair_distances(hidden, batch.seqlens, batch.txt_lens) if transport else None
        return scores, loss, distances

    def _region_scores(self, batch: "PackedBatch") -> Tensor:
        return self.region_classifier(rows(self.uniter(batch), batch.targets["mrm_index"]))


def wra_loss(distances: Tensor, labels: Tensor) -> Tensor:
    """The loss of word-region alignment, a scalar: (sum of matching distances - sum of other distances) / B.

    `distances` (B,) are those of `itm`, `labels` (B,) 1 for a match. Negatives enter with a minus sign as in the
    release; equation 3 gives the loss of one pair.
    """
    return (distances * torch.where(labels == 1, 1.0, -1.0).to(distances.dtype)).sum() / len(distances)
