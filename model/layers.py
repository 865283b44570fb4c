"""Small blocks and functions that the encoder and the heads share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-12  # as in BERT

# The values of `hidden_act` and what they compute, as in the release. gelu is the erf form, swish is also called SiLU.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}


def layer_norm(width: int) -> nn.LayerNorm:
    """A LayerNorm over the last axis, with BERT's epsilon."""
    return nn.LayerNorm(width, eps=LAYER_NORM_EPS)


def transform(width_in: int, width: int, width_out: int) -> nn.Sequential:
    """The two-layer MLP of the paper's heads (4.1, A.2): linear, erf-GELU, norm, linear."""
    return nn.Sequential(nn.Linear(width_in, width), nn.GELU(), layer_norm(width), nn.Linear(width, width_out))


def init_weights(module: nn.Module, std: float) -> None:
    """Initialise one module as BERT does: weights N(0, std), biases 0, norm weights 1. Use with `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, std)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def rows(x: Tensor, index: Tensor) -> Tensor:
    """x[index] along the first axis, with a backward pass that gives the same numbers in every run.

    Where a row is repeated, its gradients are added: in a fixed order by `index_select` on a CPU, and by indexing on a
    GPU; the other way round the order is left to the threads.
    """
    return x[index] if x.is_cuda else x.index_select(0, index)


def full(x: Tensor) -> Tensor:
    """x in fp32, or fp64 if it is that: softmax and losses are not computed in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
