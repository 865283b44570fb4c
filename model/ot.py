"""Word-region alignment (WRA): optimal transport between the words and regions of a sequence (paper 3.2, A.6).

Legend: P pairs of a text and an image, n words and m regions of a pair, M and K the largest n and m, H hidden size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_cost(text: Tensor, image: Tensor, eps: float = 1e-5) -> Tensor:
    """The cost of equation 3: 1 - cosine of each word and region, (P, M, H) and (P, K, H) -> (P, M, K)."""
    text = F.normalize(text, p=2.0, dim=-1, eps=eps)
    image = F.normalize(image, p=2.0, dim=-1, eps=eps)
    return 1.0 - text @ image.transpose(1, 2)


@torch.no_grad()
def ipot(
    cost: Tensor,
    txt_mask: Tensor,
    img_mask: Tensor,
    *,
    beta: float = 0.5,
    iterations: int = 50,
    inner: int = 1,
) -> Tensor:
    """Transport plans by the inexact proximal point method IPOT (paper algorithm 1), with uniform marginals.

    `cost` (P, M, K), in fp32 at least; `txt_mask` (P, M) and `img_mask` (P, K) bool, False on padding. Returns plans
    (P, M, K), zero on padding, each with the sum 1. `inner`: the steps of the inner loop, 1 in the paper too. `beta`
    and `iterations`, which the paper does not give, have the release's defaults.
    """
    joint = txt_mask[:, :, None] & img_mask[:, None, :]
    n = txt_mask.sum(1).to(cost.dtype)[:, None]  # (P, 1)
    m = img_mask.sum(1).to(cost.dtype)[:, None]
    kernel = torch.exp(-cost / beta).masked_fill(~joint, 0.0)
    plan = joint.to(cost.dtype)
    sigma = txt_mask.to(cost.dtype) / n
    # 1e4 on padding keeps the reciprocals there finite; the masks then make them zero.
    far_txt, far_img = 1e4 * (~txt_mask).to(cost.dtype), 1e4 * (~img_mask).to(cost.dtype)
    for _ in range(iterations):
        step = kernel * plan
        for _ in range(inner):
            delta = 1.0 / (m * torch.einsum("pmk,pm->pk", step, sigma) + far_img)
            sigma = 1.0 / (n * torch.einsum("pmk,pk->pm", step, delta) + far_txt)
        plan = sigma[:, :, None] * step * delta[:, None, :]
    return plan.masked_fill(~joint, 0.0)


def transport(
    text: Tensor,
    image: Tensor,
    txt_mask: Tensor,
    img_mask: Tensor,
    *,
    beta: float = 0.5,
    iterations: int = 50,
    inner: int = 1,
) -> tuple[Tensor, Tensor]:
    """Transport distances (P,) and plans (P, M, K) of padded pairs (paper equation 3).

    `text` (P, M, H), `image` (P, K, H), masks and options as in `ipot`. Gradients flow through the cost only.
    """
    with torch.autocast(text.device.type, enabled=False):  # half precision is too coarse for 50 products in a row
        dtype = torch.promote_types(text.dtype, torch.float32)
        cost = cosine_cost(text.to(dtype), image.to(dtype))
        cost = cost.masked_fill(~(txt_mask[:, :, None] & img_mask[:, None, :]), 0.0)
        plan = ipot(cost.detach(), txt_mask, img_mask, beta=beta, iterations=iterations, inner=inner)
        return (cost * plan).sum((1, 2)), plan


def pair_distances(hidden: Tensor, seqlens: Tensor, txt_lens: Tensor) -> Tensor:
    """The transport distance (B,) between the words, [CLS] and [SEP] included, and the regions of each sequence.

    `hidden` (N, H) is packed; `seqlens` and `txt_lens` (B,) are host tensors; every sequence must have a region. All
    sequences are padded to the longest, because 50 small products cost kernel launches rather than arithmetic.
    """
    seqlens, txt_lens = seqlens.long(), txt_lens.long()
    starts = seqlens.cumsum(0) - seqlens
    txt_rows, txt_mask = _block(starts, txt_lens)
    img_rows, img_mask = _block(starts + txt_lens, seqlens - txt_lens)
    device = hidden.device
    text = hidden.index_select(0, txt_rows.flatten().to(device)).view(*txt_rows.shape, -1)
    image = hidden.index_select(0, img_rows.flatten().to(device)).view(*img_rows.shape, -1)
    return transport(text, image, txt_mask.to(device), img_mask.to(device))[0]


def _block(starts: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (B, L) of the stream from `starts` on, row 0 on padding, and the mask (B, L), False on padding."""
    place = torch.arange(int(lens.max()))
    mask = place[None] < lens[:, None]
    return torch.where(mask, starts[:, None] + place[None], 0), mask
