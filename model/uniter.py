"""The UNITER model without heads: text embedder, image embedder, Transformer encoder, pooler (paper section 3.1).

Legend: T tokens, R regions, N = T + R units, U distinct region rows, B sequences, H hidden size, D feature width.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from model.attention import Spans, attend
from model.layers import ACTIVATIONS, init_weights, layer_norm, rows
from utils.formats import IMG_DIM
from utils.options import option

if TYPE_CHECKING:
    from data.batch import PackedBatch


@dataclass(kw_only=True)
class UniterConfig:
    """The sizes of a model: the keys of its JSON (`config/uniter-base.json`), as in the release.

    `model.model_json` reads and checks the file.
    The paper's base model has 12 layers, hidden size 768 and 12 heads; large has 24, 1024 and 16 (footnote 11).
    """

    vocab_size: int = option(at_least=1)  # word pieces and special tokens
    hidden_size: int = option(at_least=1)  # H
    num_hidden_layers: int = option(at_least=1, at_most=1000)  # layers of the encoder
    num_attention_heads: int = option(at_least=1)  # must divide H
    intermediate_size: int = option(at_least=1)  # width of each layer's feed-forward part
    max_position_embeddings: int = option(512, at_least=1)  # the largest number of text tokens in a sequence
    type_vocab_size: int = option(2, at_least=2)  # token types: 0 text, 1 image regions
    hidden_act: Literal["gelu", "relu", "swish"] = "gelu"  # of the encoder and the masked-word head; gelu: erf-GELU
    # Scripts overwrite both dropouts with the option `dropout` (`set_dropout`).
    hidden_dropout_prob: float = option(0.1, at_least=0, below=1)
    attention_probs_dropout_prob: float = option(0.1, at_least=0, below=1)  # dropout of attention weights
    initializer_range: float = option(0.02, above=0)  # standard deviation of the initial weights
    img_dim: int | None = option(None, at_least=1)  # the feature width that image stores must have; None: any


class TextEmbeddings(nn.Module):
    """The text embedder (paper section 3.1): the sum of word, position and type embeddings, then LayerNorm, dropout."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        # padding_idx as in the release: [PAD], which no packed batch holds, gets no gradient
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = layer_norm(config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, position_ids: Tensor, type_ids: Tensor) -> Tensor:
        """Ids of word pieces, positions and types, each (T,) int64 -> embeddings (T, H)."""
        x = self.word_embeddings(input_ids) + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(x + self.token_type_embeddings(type_ids)))


class ImageEmbeddings(nn.Module):
    """The image embedder (paper section 3.1): the sum of the projected features, locations and type embeddings.

    Features and locations each go through a linear layer and LayerNorm; LayerNorm and dropout follow the sum.
    """

    def __init__(self, config: UniterConfig, img_dim: int):
        """`config`: the sizes of the model. `img_dim`: the feature width D."""
        super().__init__()
        self.img_linear = nn.Linear(img_dim, config.hidden_size)
        self.img_layer_norm = layer_norm(config.hidden_size)
        self.pos_layer_norm = layer_norm(config.hidden_size)
        self.pos_linear = nn.Linear(7, config.hidden_size)
        self.mask_embedding = nn.Embedding(2, img_dim, padding_idx=0)
        self.LayerNorm = layer_norm(config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        img_feat: Tensor,
        img_pos_feat: Tensor,
        img_row: Tensor,
        img_masks: Tensor | None,
        type_embeddings: Tensor,
    ) -> Tensor:
        """Features (U, D) and locations (U, 7) of the distinct regions -> embeddings (R, H) of the stream's regions.

        `img_row` (R,) int64: the distinct region behind each region of the stream. `img_masks` (R,) bool or None: True
        where masked. `type_embeddings` (R, H). A masked region has the learned mask embedding, row 1 of
        `mask_embedding`, as its feature; it is projected once per batch. Row 0 means "not masked" and is never used.
        """
        feature = rows(self.img_layer_norm(self.img_linear(img_feat.to(self.img_linear.weight.dtype))), img_row)
        if img_masks is not None:
            mask_feature = self.img_layer_norm(self.img_linear(self.mask_embedding.weight[1]))
            feature = torch.where(img_masks[:, None], mask_feature.to(feature.dtype), feature)
        location = rows(self.pos_layer_norm(self.pos_linear(img_pos_feat.to(self.pos_linear.weight.dtype))), img_row)
        return self.dropout(self.LayerNorm(feature + location + type_embeddings))


class SelfAttention(nn.Module):
    """Multi-head self-attention inside each sequence."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, spans: Spans) -> Tensor:
        """States (N, H) and the spans of their sequences -> (N, H)."""
        q, k, v = (linear(x).view(len(x), self.heads, -1) for linear in (self.query, self.key, self.value))
        return attend(q, k, v, spans, dropout=self.dropout.p if self.training else 0.0).flatten(1)


class Residual(nn.Module):
    """The end of both halves of a layer: linear layer, dropout, residual sum, LayerNorm."""

    def __init__(self, width_in: int, config: UniterConfig):
        super().__init__()
        self.dense = nn.Linear(width_in, config.hidden_size)
        self.LayerNorm = layer_norm(config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """`x` (N, width_in) and `residual` (N, H) -> (N, H)."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Layer(nn.Module):
    """One Transformer layer with LayerNorm after each residual sum, under BERT's parameter names."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": Residual(config.hidden_size, config)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = Residual(config.intermediate_size, config)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, spans: Spans) -> Tensor:
        """States (N, H) and the spans of their sequences -> (N, H)."""
        x = self.attention["output"](self.attention["self"](x, spans), x)
        return self.output(self.activation(self.intermediate["dense"](x)), x)


class Pooler(nn.Module):
    """The pooled [CLS]: tanh of a linear layer on the first unit of each sequence, as in BERT."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
        """States `hidden` (N, H) and `cu_seqlens` (B + 1,) -> (B, H)."""
        return torch.tanh(self.dense(rows(hidden, cu_seqlens[:-1].long())))


class UniterModel(nn.Module):
    """UNITER without heads: computes the contextual states of all units of a packed batch."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM):
        """`config`: the sizes of the model. `img_dim`: the feature width D."""
        super().__init__()
        self.config = config
        self.embeddings = TextEmbeddings(config)
        self.img_embeddings = ImageEmbeddings(config, img_dim)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))})
        self.pooler = Pooler(config)
        self.apply(lambda module: init_weights(module, config.initializer_range))

    def embed(self, batch: "PackedBatch") -> Tensor:
        """The embeddings (N, H) that the encoder reads: for each sequence its tokens, then its regions."""
        text = self.embeddings(batch.input_ids, batch.position_ids, batch.txt_type_ids)
        if len(batch.img_row) == 0:
            return text
        type_embeddings = self.embeddings.token_type_embeddings(batch.img_type_ids)
        image = self.img_embeddings(
            batch.img_feat, batch.img_pos_feat, batch.img_row, batch.img_masks, type_embeddings=type_embeddings
        )
        stream = text.new_zeros(len(text) + len(image), text.shape[1])
        return stream.index_copy(0, batch.txt_index, text).index_copy(0, batch.img_index, image.to(text.dtype))

    def forward(self, batch: "PackedBatch") -> Tensor:
        """The states of all units after the last layer, (N, H)."""
        return self.all_layers(batch)[-1]

    def all_layers(self, batch: "PackedBatch") -> list[Tensor]:
        """The states of all units after every layer, each (N, H)."""
        x = self.embed(batch)
        spans = Spans.of(batch.seqlens, x.device)
        states = []
        for layer in self.encoder["layer"]:  # type: ignore[attr-defined]
            x = layer(x, spans)
            states.append(x)
        return states


def set_dropout(model: nn.Module, p: float) -> None:
    """Set the probability of every dropout in `model`, that of attention weights included."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
