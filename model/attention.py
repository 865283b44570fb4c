"""Attention inside the sequences of a packed stream, and functions over the units of each sequence.

Legend: N units in a stream, B sequences, h heads, d width of a head, b sequences in a group, L its longest sequence. A
segment is a run of units that belong together, such as a sequence or its regions.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.layers import full, rows

try:  # variable-length flash attention: torch 2.10 and later, used on CUDA only
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None  # type: ignore[assignment]

# A group of sequences is padded to the longest one. A shorter sequence joins the group if it has at least this share of
# that length. Below this share, a new group saves more arithmetic than its extra kernel launches cost.
GROUP_FILL = 0.75


@dataclass
class Group:
    """Sequences of similar length, to be computed as one padded block."""

    rows: Tensor  # (b * L,) int64: the unit at each position of the block; padding repeats unit 0
    shape: tuple[int, int]  # (b, L)
    mask: Tensor | None  # (b, 1, 1, L) bool, False on padding; None when nothing is padded


@dataclass(kw_only=True)
class Spans:
    """Positions of the sequences in a stream, on the device. Made once per batch, from lengths on the host."""

    cu_seqlens: Tensor  # (B + 1,) int32: where each sequence starts, and the end
    max_seqlen: int
    groups: list[Group]
    order: Tensor  # (N,) int64: the position of each unit in the concatenated blocks of all groups
    members: list[Tensor]  # the numbers of the sequences in each group, host tensors

    @classmethod
    def of(cls, lens: Tensor, device: torch.device, like: "Spans | None" = None) -> "Spans":
        """The spans of sequences of the lengths `lens` (B,), a host tensor, with similar lengths in one group.

        `like`: use the groups of these spans instead. The keys need it when their lengths differ from the queries',
        because both sides of a group must have the same sequences.
        """
        lens = lens.cpu().long()
        starts = lens.cumsum(0) - lens
        members = _group(lens) if like is None else like.members
        groups, order, offset = [], torch.empty(int(lens.sum()), dtype=torch.int64), 0
        for member in members:
            longest = int(lens[member].max())
            place = torch.arange(longest)
            mask = place[None] < lens[member][:, None]  # (b, L)
            unit_rows = torch.where(mask, starts[member][:, None] + place[None], 0)
            order[unit_rows[mask]] = offset + torch.arange(mask.numel()).view_as(mask)[mask]
            offset += mask.numel()
            attn_mask = None if bool(mask.all()) else mask[:, None, None].to(device, non_blocking=True)
            shape = (len(member), longest)
            groups.append(Group(unit_rows.flatten().to(device, non_blocking=True), shape, attn_mask))
        cu_seqlens = F.pad(lens.cumsum(0), (1, 0)).int().to(device, non_blocking=True)
        return cls(
            cu_seqlens=cu_seqlens,
            max_seqlen=int(lens.max()),
            groups=groups,
            order=order.to(device, non_blocking=True),
            members=members,
        )


def _group(lens: Tensor) -> list[Tensor]:
    """Numbers of sequences, longest first; a new group starts below `GROUP_FILL` of the longest in the last group."""
    order = torch.argsort(lens, descending=True, stable=True)
    cuts, longest = [0], None
    for place, length in enumerate(lens[order].tolist()):
        if longest is None or length < GROUP_FILL * longest:
            longest = length
            if place:
                cuts.append(place)
    return list(torch.tensor_split(order, cuts[1:]))


def attend(
    q: Tensor, k: Tensor, v: Tensor, spans_q: Spans, spans_k: Spans | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention inside each sequence of a packed stream. Scores are scaled by 1/sqrt(d).

    q (N_q, h, d), k and v (N_k, h, d) -> (N_q, h, d). `spans_k` defaults to `spans_q`; other spans (NLVR2's
    paired-attn) must be made with `like=spans_q`. `dropout`: the probability that an attention weight is dropped.
    Without dropout, half precision on CUDA uses variable-length flash attention; all else uses SDPA on padded groups.
    """
    spans_k = spans_k or spans_q
    if dropout == 0.0 and _has_flash(q):
        return varlen_attn(  # type: ignore[return-value]
            q, k, v, spans_q.cu_seqlens, spans_k.cu_seqlens, spans_q.max_seqlen, spans_k.max_seqlen
        )
    heads, width = q.shape[1:]
    blocks = []
    for group_q, group_k in zip(spans_q.groups, spans_k.groups, strict=True):
        block_q = q.index_select(0, group_q.rows).view(*group_q.shape, heads, width).transpose(1, 2)
        block_k = k.index_select(0, group_k.rows).view(*group_k.shape, heads, width).transpose(1, 2)
        block_v = v.index_select(0, group_k.rows).view(*group_k.shape, heads, width).transpose(1, 2)
        out = F.scaled_dot_product_attention(block_q, block_k, block_v, attn_mask=group_k.mask, dropout_p=dropout)
        blocks.append(out.transpose(1, 2).reshape(-1, heads, width))
    return torch.cat(blocks).index_select(0, spans_q.order)


def _has_flash(q: Tensor) -> bool:
    """Whether variable-length flash attention can run: recent torch, half precision, compute capability 8 or more."""
    return (
        varlen_attn is not None
        and q.is_cuda
        and q.dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(q.device) >= (8, 0)
    )


def owners(lens: Tensor, device: torch.device) -> Tensor:
    """The number of the segment of each unit, (sum of `lens`,) int64 on the device. `lens`: a host tensor."""
    return torch.repeat_interleave(torch.arange(len(lens)), lens.long()).to(device, non_blocking=True)


def segment_sum(x: Tensor, owner: Tensor, segments: int) -> Tensor:
    """The sum over each segment: (N, …) and the segment of each unit (N,) -> (segments, …).

    It adds in a fixed order: on a GPU, `index_add` would leave the order to the threads.
    """
    zeros = x.new_zeros(segments, *x.shape[1:])
    return zeros.index_put((owner,), x, accumulate=True) if x.is_cuda else zeros.index_add(0, owner, x)


def segment_max(x: Tensor, owner: Tensor, segments: int) -> Tensor:
    """The largest value in each segment, without a gradient: (N,) and segments (N,) -> (segments,)."""
    x = x.detach()
    return x.new_full((segments,), -torch.inf).scatter_reduce(0, owner, x, "amax")


def segment_log_softmax(x: Tensor, owner: Tensor, segments: int) -> Tensor:
    """Log-softmax inside each segment, in fp32 at least: (N,) and segments (N,) -> (N,)."""
    x = full(x)
    shifted = x - rows(segment_max(x, owner, segments), owner)
    return shifted - rows(segment_sum(shifted.exp(), owner, segments).log(), owner)


def segment_softmax(x: Tensor, owner: Tensor, segments: int) -> Tensor:
    """Softmax inside each segment, in fp32 at least: (N,) and segments (N,) -> (N,)."""
    return segment_log_softmax(x, owner, segments).exp()
