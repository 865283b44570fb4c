"""The retrieval heads, their loss and hard negatives, against the reference and worked by hand."""

import json

import numpy as np
import pytest
import torch

from data.batch import Example, Image, PackedBatch, Seq
from model.retrieval import UniterForImageTextRetrieval, select_hardest, triplet_loss
from tests.golden_data import (
    DEVICE,
    EXACT,
    GOLDEN,
    IMG_DIM,
    arrays,
    check_backward,
    check_states,
    close,
    collate,
    load,
    tiny_config,
    wrapped,
)
from tests.unpack import sequences


def retrieval_batch(texts: list[np.ndarray], images: list[Image], groups: list[list[tuple[int, int]]]) -> PackedBatch:
    made = [
        Example(f"group {g}", [Seq(input_ids=wrapped(texts[t]), images=[images[i]]) for t, i in pairs])
        for g, pairs in enumerate(groups)
    ]
    return collate("itm", made, IMG_DIM)


def raw_pairs(directory: str, text: str, n: int) -> tuple[list[np.ndarray], list[Image]]:
    raw = arrays(f"{directory}/examples.npz")
    images = [Image(key=i, feat=raw[f"img_feat.{i}"], pos=raw[f"img_pos_feat.{i}"]) for i in range(n)]
    return [raw[f"{text}.{i}"] for i in range(n)], images


@pytest.mark.device
def test_retrieval_ranking():
    model = load(UniterForImageTextRetrieval(tiny_config(), IMG_DIM), "itm_rank")
    golden = arrays("itm_rank/outputs.npz")
    batch = retrieval_batch(
        *raw_pairs("itm_rank", "tokens", 6), json.loads((GOLDEN / "itm_rank/groups.json").read_text())
    )
    check_states(model, batch, golden)
    scores, loss = model.losses(batch)
    close(scores, golden["scores"][:, 0])
    close(loss, golden["loss"].flatten())
    matching = model.itm_output(model.uniter.pooler(model.uniter(batch), batch.cu_seqlens))[:, 1]
    close(matching, golden["scores"][:, 0])  # this golden's rank head was just initialised
    check_backward(model, loss.mean(), "itm_rank/grads")


@pytest.mark.device
@pytest.mark.parametrize("side, reference", [("t", "t"), ("i", "i_fixed")])
def test_retrieval_hard_negatives(side, reference):
    model = load(UniterForImageTextRetrieval(tiny_config(), IMG_DIM), "itm_rank_hn")
    golden = arrays(f"itm_rank_hn/outputs_{reference}.npz")
    case = json.loads((GOLDEN / "itm_rank_hn/meta.json").read_text())[side]
    others = [int(name) for name in case["candidates"]]
    pairs = [(case["anchor"], other) if side == "t" else (other, case["anchor"]) for other in others]
    batch = retrieval_batch(*raw_pairs("itm_rank_hn", "txt", 8), [pairs])
    with torch.no_grad():
        scores = model(batch)
    close(scores, golden["scores"][:, 0])
    kept = select_hardest(scores, batch.group, case["hard_size"])
    if EXACT:
        assert kept[0] == 0 and sorted(kept[1:].tolist()) == golden["hard_indices_sorted"].tolist()
    kept = torch.tensor([0, *golden["hard_indices_sorted"].tolist()], device=DEVICE)
    _, loss = model.losses(batch.select(kept), case["margin"])
    # The reference keeps its negatives in the order of an unsorted topk: the same set, the same losses.
    order = [kept[1:].tolist().index(i) for i in golden["hard_indices"].tolist()]
    close(loss[order], golden["loss"][0])
    check_backward(model, loss.mean(), f"itm_rank_hn/grads_{reference}")


def test_triplet_loss_and_hardest_worked_by_hand():
    """Groups of different sizes; sigmoid(0) = 0.5, sigmoid(log 3) = 0.75, sigmoid(-log 3) = 0.25."""
    log3 = float(np.log(3))
    scores, group = torch.tensor([log3, 0.0, log3, -log3, 0.0, -log3]), torch.tensor([0, 0, 0, 0, 1, 1])
    expected = torch.tensor([0.0, 0.2, 0.0, 0.0])
    torch.testing.assert_close(triplet_loss(scores, group), expected)
    torch.testing.assert_close(triplet_loss(scores, group, groups=2), expected)
    torch.testing.assert_close(triplet_loss(scores, group, margin=0.5), torch.tensor([0.25, 0.5, 0.0, 0.25]))
    assert select_hardest(scores, group, 2).tolist() == [0, 2, 1, 4, 5]
    assert select_hardest(scores, group, 9).tolist() == [0, 2, 1, 3, 4, 5]


def test_selected_sequences_score_as_among_the_others():
    texts, images = raw_pairs("itm_rank", "tokens", 6)
    batch = retrieval_batch(texts, images, [[(0, 0), (0, 1)], [(2, 1), (1, 1), (2, 3)], [(4, 4), (5, 4)]])
    batch.img_masks = torch.arange(len(batch.img_row)) % 3 == 0
    batch.targets = {"itm_labels": torch.zeros(7)}
    model = load(UniterForImageTextRetrieval(tiny_config(), IMG_DIM), "itm_rank")
    scores, kept = model(batch), torch.tensor([5, 6, 2, 4])
    chosen = batch.select(kept)
    torch.testing.assert_close(model(chosen), scores[kept])
    assert chosen.img_feat is batch.img_feat and chosen.ids == ["group 2", "group 1"] and len(chosen) == 2
    assert chosen.group.tolist() == [0, 0, 1, 1] and chosen.targets == {}
    assert chosen.cu_seqlens.tolist()[-1] == chosen.units and chosen.max_seqlen == int(chosen.seqlens.max())
    assert chosen.cu_seqlens.dtype == batch.cu_seqlens.dtype and chosen.txt_index.dtype == torch.int64
    for new, old, places in ((0, 2, [0, 1]), (1, 1, [0, 2])):
        whole = [seq for seq, group in zip(sequences(batch), batch.group.tolist()) if group == old]
        part = [seq for seq, group in zip(sequences(chosen), chosen.group.tolist()) if group == new]
        for found, expected in zip(part, [whole[place] for place in places], strict=True):
            np.testing.assert_array_equal(found.input_ids, expected.input_ids)
            np.testing.assert_array_equal(found.feat, expected.feat)
            np.testing.assert_array_equal(found.pos, expected.pos)
            np.testing.assert_array_equal(found.img_mask, expected.img_mask)
    again = chosen.select(torch.tensor([3]))
    torch.testing.assert_close(model(again), scores[[4]])
