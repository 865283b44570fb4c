"""Optimal transport against the reference and against what defines a transport plan."""

import numpy as np
import pytest
import torch

from model.ot import ipot, pair_distances, transport
from tests.golden_data import DEVICE, GOLDEN, arrays, backward, close

CASES = sorted(path.stem for path in (GOLDEN / "ot").glob("*.npz"))


@pytest.mark.device
@pytest.mark.parametrize("case", CASES)
def test_reference(case):
    golden = arrays(f"ot/{case}.npz")
    text, image = (torch.from_numpy(golden[name]).to(DEVICE).requires_grad_() for name in ("txt_emb", "img_emb"))
    txt_mask, img_mask = (~torch.from_numpy(golden[name]).to(DEVICE) for name in ("txt_pad", "img_pad"))
    options = {"beta": float(golden["beta"]), "iterations": int(golden["iteration"]), "inner": int(golden["k"])}
    distance, plan = transport(text, image, txt_mask, img_mask, **options)
    close(distance, golden["dist"])
    close(plan.transpose(1, 2), golden["T"])  # the reference keeps plans transposed
    backward(distance.sum())
    for ours, reference in ((text, "grad_txt"), (image, "grad_img")):
        np.testing.assert_allclose(ours.grad.cpu().numpy(), golden[reference], atol=1e-5, rtol=1e-4)


def test_near_the_exact_distance():
    """IPOT approaches the exact optimum (solved as a linear programme) as it iterates."""
    import ot as pot  # the other tests run where it is not installed

    cost = torch.rand(1, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks = torch.ones(1, 5, dtype=torch.bool), torch.ones(1, 7, dtype=torch.bool)
    exact = pot.emd2(np.full(5, 1 / 5), np.full(7, 1 / 7), cost[0].numpy())
    errors = [float((cost * ipot(cost, *masks, iterations=n)).sum() - exact) for n in (10, 50, 2000)]
    assert errors[0] > errors[1] > errors[2]
    assert abs(errors[2]) < 1e-3 * exact


def test_packed_spans_equal_one_pair_at_a_time():
    generator = torch.Generator().manual_seed(1)
    seqlens, txt_lens = torch.tensor([9, 4, 12]), torch.tensor([3, 2, 5])
    hidden = torch.randn(int(seqlens.sum()), 16, generator=generator)
    together = pair_distances(hidden, seqlens, txt_lens)
    for i, part in enumerate(hidden.split(seqlens.tolist())):
        text, image = part[None, : txt_lens[i]], part[None, txt_lens[i] :]
        masks = torch.ones(text.shape[:2], dtype=torch.bool), torch.ones(image.shape[:2], dtype=torch.bool)
        torch.testing.assert_close(together[i : i + 1], transport(text, image, *masks)[0])
