"""Packed attention against plain attention on each sequence alone."""

import pytest
import torch
import torch.nn.functional as F

from model.attention import Spans, attend
from tests.unpack import to_padded

RAGGED = [5, 40, 3, 38, 1, 17, 40, 2]


def plain(q, k, v, lens_q, lens_k):
    parts = zip(q.split(lens_q), k.split(lens_k), v.split(lens_k))
    outs = [F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in part)) for part in parts]
    return torch.cat([out[0].transpose(0, 1) for out in outs])


@pytest.mark.parametrize("lens_k", [RAGGED, [7, 1, 30, 12, 9, 2, 50, 4]])
def test_equals_attention_one_sequence_at_a_time(lens_k):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(sum(RAGGED), 3, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    k, v = (
        torch.randn(sum(lens_k), 3, 8, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    spans_q = Spans.of(torch.tensor(RAGGED), q.device)
    spans_k = Spans.of(torch.tensor(lens_k), q.device, like=spans_q)
    found, expected = attend(q, k, v, spans_q, spans_k), plain(q, k, v, RAGGED, lens_k)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(*(torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (found, expected))):
        torch.testing.assert_close(ours, theirs)


def test_groups_pad_little():
    spans = Spans.of(torch.tensor(RAGGED), torch.device("cpu"))
    assert sorted(int(i) for member in spans.members for i in member) == list(range(len(RAGGED)))
    assert sum(b * length for b, length in (group.shape for group in spans.groups)) < 1.15 * sum(RAGGED)
    equal = Spans.of(torch.tensor([9, 9, 9]), torch.device("cpu"))
    assert len(equal.groups) == 1 and equal.groups[0].mask is None


def test_dropout_draws_and_keeps_the_mean():
    torch.manual_seed(0)
    q, k = torch.zeros(40, 2, 4), torch.randn(40, 2, 4)
    v = torch.ones(40, 2, 4)
    spans = Spans.of(torch.tensor([30, 10]), q.device)
    outs = torch.stack([attend(q, k, v, spans, dropout=0.5) for _ in range(400)])
    assert outs.std() > 0.05 and outs.mean() == pytest.approx(1.0, abs=0.02)


def test_to_padded():
    padded, mask = to_padded(torch.arange(1, 7.0)[:, None], torch.tensor([2, 4]))
    assert padded[..., 0].tolist() == [[1, 2, 0, 0], [3, 4, 5, 6]]
    assert mask.tolist() == [[True, True, False, False], [True] * 4]
