"""The heads of referring expressions and the choice of negatives, against the reference."""

import numpy as np
import pytest
import torch

from data.batch import Image, PackedBatch
from model.referring import RegionSpans, UniterForReferringExpressionComprehension, choose_wrong
from tests.golden_data import (
    DEVICE,
    EXACT,
    IMG_DIM,
    arrays,
    check_backward,
    check_states,
    close,
    collate,
    examples,
    load,
    tiny_config,
)
from tests.unpack import to_padded


def re_batch(directory: str) -> PackedBatch:
    raw, made = arrays(f"{directory}/examples.npz"), examples(directory)
    for i, example in enumerate(made):
        example.targets = {"region_labels": raw[f"target.{i}"][None]}
    return collate("re", made, IMG_DIM)


def close_regions(scores: torch.Tensor, batch: PackedBatch, expected: np.ndarray) -> None:
    """The reference's padding scores -10,000."""
    padded, mask = to_padded(scores.float(), batch.seqlens - batch.txt_lens)
    close(padded.masked_fill(~mask, -1e4), expected)


@pytest.mark.device
@pytest.mark.parametrize("mlp", [1, 2])
def test_re_classification(mlp):
    directory = f"re_cls_mlp{mlp}"
    model = load(UniterForReferringExpressionComprehension(tiny_config(), IMG_DIM, mlp), directory)
    golden, batch = arrays(f"{directory}/outputs.npz"), re_batch(directory)
    check_states(model, batch, golden)
    scores, loss = model.losses(batch)
    close_regions(model(batch), batch, golden["scores"])
    close_regions(scores, batch, golden["scores"])
    close(loss, golden["loss"])
    check_backward(model, loss.mean(), f"{directory}/grads")


@pytest.mark.device
@pytest.mark.parametrize("kind", ["hard", "mixed", "easy"])
@pytest.mark.parametrize("mlp", [1, 2])
def test_re_ranking(mlp, kind):
    directory = f"re_rank_mlp{mlp}"
    model = load(UniterForReferringExpressionComprehension(tiny_config(), IMG_DIM, mlp), directory)
    golden, batch = arrays(f"{directory}/outputs_{kind}.npz"), re_batch(directory)
    negatives, margin = torch.from_numpy(golden["neg_ix"]).to(DEVICE), float(golden["margin"])
    scores, loss = model.losses(batch, "rank", margin=margin, negatives=negatives)
    close_regions(scores, batch, golden["scores"])
    close(loss, golden["loss"])
    check_backward(model, loss.mean(), f"{directory}/grads_{kind}")
    regions = RegionSpans.of(batch)
    true, ratio = regions.first + batch.targets["region_labels"], float(golden["hard_ratio"])
    if not EXACT:
        return
    if kind == "hard":  # nothing is left to chance
        chosen = choose_wrong(scores, regions, true, ratio, torch.rand(6, 2, device=DEVICE))
        assert (chosen - regions.first).tolist() == negatives.tolist()
    # Whatever was drawn, the uniform numbers that mean it give the reference's loss.
    labels, count = batch.targets["region_labels"], regions.count
    hard = choose_wrong(scores, regions, true, 1.0, torch.zeros(6, 2, device=DEVICE)) - regions.first
    drawn = torch.stack([torch.where(hard == negatives, 0.0, 0.999), torch.zeros(6, device=DEVICE)], dim=1)
    drawn[:, 1] = (negatives - (negatives > labels).long() + 0.5) / (count - 1)
    close(model.losses(batch, "rank", margin=margin, hard_ratio=0.3, uniform=drawn)[1], golden["loss"])


def test_re_easy_negatives_are_uniform_and_wrong():
    batch = re_batch("re_rank_mlp1")
    regions, scores = RegionSpans.of(batch), torch.zeros(len(batch.img_row))
    true = regions.first + batch.targets["region_labels"]
    generator, drawn = torch.Generator().manual_seed(0), torch.zeros(len(scores))
    for _ in range(4000):
        drawn[choose_wrong(scores, regions, true, 0.0, torch.rand(6, 2, generator=generator))] += 1
    assert (drawn[true] == 0).all()
    share = drawn / 4000 * (regions.count - 1)[regions.owner]
    share[true] = 1
    torch.testing.assert_close(share, torch.ones_like(share), atol=0.15, rtol=0)
    extremes = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # the ends of the range stay among the sequence's own regions
    for numbers in extremes:
        chosen = choose_wrong(scores, regions, true, 0.0, numbers.expand(6, 2))
        assert (regions.owner[chosen] == torch.arange(6)).all() and (chosen != true).all()


@pytest.mark.parametrize("numbers", [(0.0, 0.7), (0.9, 0.7)])
def test_re_a_lone_region_has_nothing_to_learn_from(numbers):
    made = examples("re_rank_mlp1")
    image = made[0].seqs[0].images[0]
    made[0].seqs[0].images = [Image(key="one", feat=image.feat[:1], pos=image.pos[:1])]
    for example in made:
        example.targets = {"region_labels": np.zeros(1, np.int64)}
    batch = collate("re", made, IMG_DIM)
    model = load(UniterForReferringExpressionComprehension(tiny_config(), IMG_DIM), "re_rank_mlp1")
    loss = model.losses(batch, "rank", hard_ratio=0.5, uniform=torch.tensor([numbers] * 6))[1]
    assert loss[0] == 0 and (loss > 0).any()
    loss.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.losses(batch)[1][0] == 0
