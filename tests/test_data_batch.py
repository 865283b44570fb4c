"""Packing changes nothing: alone, among others, in any order; and all of it is there."""

import numpy as np
import pytest
import torch

from data.batch import Example, Image, PackedBatch, Seq, collate
from model.pretrain import UniterForPretraining, wra_loss
from tests.golden_data import CLS, IMG_DIM, IMG_LABEL_DIM, MASK, SEP, tiny_config
from tests.unpack import sequences

SIZES = [(7, 4), (3, 9), (12, 2), (1, 6), (9, 1), (5, 7), (30, 3), (2, 36)]  # words, regions


def make_examples(task: str) -> list[Example]:
    """Ragged examples with targets of `task`; examples 1 and 2 show one picture."""
    rng = np.random.default_rng(3)
    images = [
        Image(key=i, feat=rng.normal(size=(n, IMG_DIM)).astype(np.float16), pos=rng.random((n, 7), np.float32))
        for i, (_, n) in enumerate(SIZES)
    ]
    images[2] = images[1]
    examples = []
    for i, ((words, _), image) in enumerate(zip(SIZES, images)):
        input_ids = np.concatenate([[CLS], rng.integers(10, 200, words), [SEP]])
        seq = Seq(input_ids=input_ids, images=[image])
        if task == "mlm":
            seq.targets, seq.unit_targets = {"mlm_labels": input_ids[[1]].copy()}, {"mlm_index": np.array([1])}
            input_ids[1] = MASK
        elif task == "itm":
            seq.targets = {"itm_labels": np.array([i % 2])}
        else:
            mask = np.zeros(len(image.feat), bool)
            mask[[0, len(mask) // 2]] = True
            seq.img_mask, seq.unit_targets = mask, {"mrm_index": len(input_ids) + np.flatnonzero(mask)}
            if task == "mrfr":
                seq.region_targets["mrm_row"] = np.flatnonzero(mask)
            else:
                labels = rng.random((int(mask.sum()), IMG_LABEL_DIM)).astype(np.float32)
                seq.targets["soft_labels"] = labels / labels.sum(-1, keepdims=True)
        examples.append(Example(f"example {i}", [seq]))
    return examples


def losses(model, task, batch):
    """Loss of each example: the sum of its own elements', word-region alignment included."""
    if task == "itm":
        _, loss, distances = model.itm(batch, transport=True)
        return loss + 0.1 * torch.where(batch.targets["itm_labels"] == 1, distances, -distances)
    _, loss = getattr(model, task)(batch)
    loss = loss.sum(-1) if loss.ndim == 2 else loss
    index = batch.targets["mlm_index" if task == "mlm" else "mrm_index"]
    owner = torch.bucketize(index, batch.cu_seqlens[1:].long(), right=True)
    return torch.zeros(len(batch), dtype=loss.dtype).index_add(0, owner, loss)


def run(model, task, examples):
    """Per-example losses and the gradients of their sum."""
    model.zero_grad()
    found = losses(model, task, collate(task, examples, IMG_DIM))
    found.sum().backward()
    return found.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = UniterForPretraining(tiny_config(), IMG_DIM, IMG_LABEL_DIM).eval()
    for p in made.parameters():  # larger than at initialisation, so that attention is far from uniform
        p.data += 0.1 * torch.randn_like(p)
    return made


@pytest.mark.parametrize("task", ["mlm", "mrfr", "mrc", "mrckl", "itm"])
def test_alone_equals_in_a_batch_equals_permuted(model, task):
    examples = make_examples(task)
    together, gradients = run(model, task, examples)
    alone = [run(model, task, [example]) for example in examples]
    np.testing.assert_allclose(torch.cat([loss for loss, _ in alone]), together, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        parts = sum(own[name] for _, own in alone if name in own)
        np.testing.assert_allclose(parts, gradient, atol=1e-5 * max(1, gradient.abs().max()), err_msg=name)
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    permuted, permuted_gradients = run(model, task, [examples[i] for i in order])
    np.testing.assert_allclose(permuted, together[order], atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        tolerance = 1e-5 * max(1, gradient.abs().max())
        np.testing.assert_allclose(permuted_gradients[name], gradient, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("task", ["mlm", "mrfr", "mrc", "itm"])
def test_a_batch_holds_what_went_in(task):
    for examples in (make_examples(task), make_examples(task)[::-1]):
        batch = collate(task, examples, IMG_DIM)
        assert len(batch) == len(examples) and batch.units == sum(w + 2 + n for w, n in SIZES) - 2 + 9
        assert_holds(batch, examples)


def test_several_sequences_and_pictures_of_an_example():
    rng = np.random.default_rng(0)
    one, two, three = (
        Image(key=name, feat=rng.normal(size=(n, IMG_DIM)).astype(np.float16), pos=rng.random((n, 7), np.float32))
        for name, n in (("a", 3), ("b", 5), ("c", 2))
    )
    ids = lambda n: rng.integers(10, 200, n)  # noqa: E731
    pair = Seq(input_ids=ids(4), images=[one, two], txt_type_ids=np.array([0, 1, 1, 2]), img_types=[1, 2])
    examples = [
        Example("pair", [pair, Seq(input_ids=ids(6), images=[two])], {"y": np.ones((1, 3))}),
        Example("text alone", [Seq(input_ids=ids(2))], {"y": np.zeros((1, 3))}),
        Example("again", [Seq(input_ids=ids(3), images=[three, one])], {"y": np.full((1, 3), 2.0)}),
    ]
    batch = collate("", examples, IMG_DIM)
    assert len(batch.img_feat) == 10 and len(batch.img_row) == 8 + 5 + 5  # each distinct region once
    assert batch.group.tolist() == [0, 0, 1, 2]
    assert batch.position_ids.tolist() == [*range(4), *range(6), *range(2), *range(3)]
    assert_holds(batch, examples)
    assert "tensor" not in repr(batch) and "4 sequences" in repr(batch)


def assert_holds(batch: PackedBatch, examples: list[Example]) -> None:
    """Every sequence, target and id of the examples is in the batch, at its place."""
    seqs = [seq for example in examples for seq in example.seqs]
    assert batch.ids == [example.id for example in examples]
    for ours, theirs in zip(sequences(batch), seqs, strict=True):
        np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)
        types = np.zeros(len(theirs.input_ids)) if theirs.txt_type_ids is None else theirs.txt_type_ids
        np.testing.assert_array_equal(ours.txt_type_ids, types)
        n_regions = [len(image.feat) for image in theirs.images]
        assert ours.img_type_ids.tolist() == np.repeat(theirs.img_types or [1] * len(n_regions), n_regions).tolist()
        if theirs.images:
            np.testing.assert_array_equal(ours.feat, np.concatenate([image.feat for image in theirs.images]))
            np.testing.assert_array_equal(ours.pos, np.concatenate([image.pos for image in theirs.images]))
        if theirs.img_mask is not None:
            np.testing.assert_array_equal(ours.img_mask, theirs.img_mask)
    check_targets(batch, seqs, examples)


def check_targets(batch: PackedBatch, seqs: list[Seq], examples: list[Example]) -> None:
    """Targets in order; those that count units point to the same token or region, those that count regions too."""
    plain = {name: [seq.targets[name] for seq in seqs] for name in seqs[0].targets}
    plain |= {name: [example.targets[name] for example in examples] for name in examples[0].targets}
    for name, arrays in plain.items():
        np.testing.assert_array_equal(batch.targets[name], np.concatenate(arrays))
    starts = batch.cu_seqlens[:-1].tolist()
    for name in seqs[0].unit_targets:
        expected = [start + place for start, seq in zip(starts, seqs) for place in seq.unit_targets[name].tolist()]
        assert batch.targets[name].tolist() == expected
    for name in seqs[0].region_targets:
        feat = [seq.images[0].feat[row] for seq in seqs for row in seq.region_targets[name].tolist()]
        np.testing.assert_array_equal(batch.img_feat[batch.targets[name]], np.stack(feat))
    names = {*plain, *seqs[0].unit_targets, *seqs[0].region_targets}
    assert batch.targets.keys() == names


def test_wra_pulls_matches_and_pushes_the_rest():
    distances = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    loss = wra_loss(distances, torch.tensor([1, 0, 1]))
    assert loss.item() == pytest.approx((1 - 2 + 4) / 3)
    loss.backward()
    assert distances.grad.sign().tolist() == [1, -1, 1]
