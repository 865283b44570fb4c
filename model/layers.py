"""Blocks shared by the encoder and the heads.

Legend: H hidden size, rows: any number of units.
"""

import torch
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-12  # BERT's, everywhere


def layer_norm(width: int) -> nn.LayerNorm:
    """LayerNorm as BERT has it."""
    return nn.LayerNorm(width, eps=LAYER_NORM_EPS)


def transform(width_in: int, width: int, width_out: int) -> nn.Sequential:
    """The two-layer head of the paper's classifiers (A.2): linear, erf-GELU, norm, linear."""
    return nn.Sequential(nn.Linear(width_in, width), nn.GELU(), layer_norm(width), nn.Linear(width, width_out))


def init_weights(module: nn.Module, std: float) -> None:
    """BERT's initialisation: weights N(0, std), biases 0, norms 1 and 0. Use with `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, std)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def rows(x: Tensor, index: Tensor) -> Tensor:
    """x[index] along the first axis; unlike indexing, its backward is the same on every run."""
    return x.index_select(0, index)


def full(x: Tensor) -> Tensor:
    """fp32 at least: softmax and losses are not taken in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
