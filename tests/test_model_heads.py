"""The heads of NLVR2 and visual entailment against the reference; names and decay groups of every head."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from data.batch import Example, Image, PackedBatch, Seq
from model.attention import owners, segment_softmax
from model.growth import grown_config
from model.nlvr2 import NLVR2_MODELS
from model.pretrain import UniterForPretraining
from model.referring import UniterForReferringExpressionComprehension
from model.retrieval import UniterForImageTextRetrieval
from model.uniter import UniterConfig, set_dropout
from model.vcr import UniterForVisualCommonsenseReasoning
from model.vqa import UniterForVisualQuestionAnswering
from optim.optimizer import parameter_groups
from tests.golden_data import (
    GOLDEN,
    IMG_DIM,
    arrays,
    check_backward,
    check_states,
    close,
    collate,
    examples,
    load,
    tiny_config,
    wrapped,
)


def nlvr2_batch(directory: str, kind: str, types: tuple[int, int]) -> PackedBatch:
    raw, made = arrays(f"{directory}/examples.npz"), []
    for i in range(5):
        ids = wrapped(raw[f"tokens.{i}"])
        pair = [Image(key=(i, n), feat=raw[f"img_feat.{i}.{n}"], pos=raw[f"img_pos_feat.{i}.{n}"]) for n in (0, 1)]
        if kind == "triplet":
            seqs = [Seq(input_ids=ids, images=pair, img_types=types)]
        else:
            seqs = [Seq(input_ids=ids, images=[image], img_types=[n]) for image, n in zip(pair, types)]
        made.append(Example(str(i), seqs, {"labels": raw[f"target.{i}"][None]}))
    return collate("nlvr2", made, IMG_DIM)


@pytest.mark.device
@pytest.mark.parametrize("suffix, types", [("", (1, 2)), ("_no_img_type", (1, 1))])
@pytest.mark.parametrize("kind", NLVR2_MODELS)
def test_nlvr2(kind, suffix, types):
    directory = f"nlvr2_{kind.replace('-', '_')}"
    model = load(NLVR2_MODELS[kind](tiny_config(), IMG_DIM), directory)
    golden, batch = arrays(f"{directory}/outputs{suffix}.npz"), nlvr2_batch(directory, kind, types)
    check_states(model, batch, golden)
    scores, loss = model.losses(batch)
    close(model(batch), golden["scores"])
    close(scores, golden["scores"])
    close(loss, golden["loss"])
    check_backward(model, loss.mean(), f"{directory}/grads{suffix}")


def test_segment_softmax():
    x = torch.tensor([1.0, 2.0, 500.0, 3.0, -4.0, 0.5], dtype=torch.float64, requires_grad=True)
    lens = torch.tensor([2, 1, 3])
    found = segment_softmax(x, owners(lens, x.device), 3)
    expected = torch.cat([part.softmax(0) for part in x.split(lens.tolist())])
    torch.testing.assert_close(found, expected)
    weight = torch.arange(6.0, dtype=torch.float64)
    for ours, theirs in zip(*(torch.autograd.grad((out * weight).sum(), x) for out in (found, expected))):
        torch.testing.assert_close(ours, theirs)
    half = segment_softmax(x.detach().half(), owners(lens, x.device), 3)
    assert half.dtype == torch.float32


@pytest.mark.device
def test_visual_entailment():
    golden, raw = arrays("ve/outputs.npz"), arrays("ve/examples.npz")
    model = load(UniterForVisualQuestionAnswering(tiny_config(), 3, IMG_DIM), "ve")
    made = examples("ve")
    for i, example in enumerate(made):
        example.targets = {"answer_scores": raw[f"target.{i}"][None]}
    batch = collate("ve", made, IMG_DIM)
    check_states(model, batch, golden)
    scores, loss = model.losses(batch)
    close(scores, golden["scores"])
    close(loss, golden["loss"])
    close(loss.mean() * 3, golden["train_loop_loss"])
    check_backward(model, loss.mean(), "ve/grads")


HEADS: dict[str, Any] = {
    "ve": lambda config, img_dim: UniterForVisualQuestionAnswering(config, 3, img_dim),
    **{f"nlvr2_{kind.replace('-', '_')}": made for kind, made in NLVR2_MODELS.items()},
    "vcr": UniterForVisualCommonsenseReasoning,
    "itm": UniterForImageTextRetrieval,
    "re_mlp1": lambda config, img_dim: UniterForReferringExpressionComprehension(config, img_dim, mlp=1),
    "re_mlp2": lambda config, img_dim: UniterForReferringExpressionComprehension(config, img_dim, mlp=2),
}
GROWN = {"vcr": (4, 81), **{f"nlvr2_{kind}": (3, 0) for kind in ("paired", "paired_attn", "triplet")}}


@pytest.mark.parametrize("size", ["base", "large"])
@pytest.mark.parametrize("head", HEADS)
def test_names_of_finetuned_checkpoints(head, size):
    """Our names, shapes and order are the release's: the body's from pre-training, grown, and the head's own."""
    config = UniterConfig(**json.loads((GOLDEN.parent.parent / f"config/uniter-{size}.json").read_text()))
    with torch.device("meta"):
        ours = [[name, list(value.shape)] for name, value in HEADS[head](config, 2048).state_dict().items()]
    types, words = GROWN.get(head, (2, 0))
    body = json.loads((GOLDEN / f"names/uniter_{size}_pretrained.json").read_text())
    body = [row[:2] for row in body if row[0].startswith("uniter.")]
    dict(map(tuple, body))["uniter.embeddings.token_type_embeddings.weight"][0] = types
    dict(map(tuple, body))["uniter.embeddings.word_embeddings.weight"][0] += words
    assert ours[: len(body)] == body
    expected = json.loads((GOLDEN / f"names/uniter_{size}_head_{head}.json").read_text())
    assert ours[len(body) :] == [row[:2] for row in expected]


@pytest.mark.parametrize("size", ["base", "large"])
def test_names_of_the_second_stage_of_vcr(size):
    config = UniterConfig(**json.loads((GOLDEN.parent.parent / f"config/uniter-{size}.json").read_text()))
    with torch.device("meta"):
        model = UniterForPretraining(grown_config(config, types=4, words=81))
    expected = json.loads((GOLDEN / f"names/uniter_{size}_vcr_2nd_stage.json").read_text())
    assert [[name, list(value.shape)] for name, value in model.state_dict().items()] == [row[:2] for row in expected]


@pytest.mark.parametrize("head", HEADS)
def test_weight_decay_spares_biases_and_norms_alone(head):
    with torch.device("meta"):
        model = HEADS[head](tiny_config(), IMG_DIM)
    groups = parameter_groups(model, 0.01)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    spared = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    norms = {id(p) for module in model.modules() if isinstance(module, torch.nn.LayerNorm) for p in module.parameters()}
    biases = {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    assert spared == norms | biases


def any_batch(head: str) -> PackedBatch:
    """Six sequences with the targets of every task, gathered into examples as `head` wants them."""
    seqs = [example.seqs[0] for example in examples("ve")]
    size = 2 if "paired" in head else 3 if head == "itm" else 1
    targets = {"labels": np.ones(1, int), "region_labels": np.zeros(1, int), "answer_scores": np.eye(1, 3)}
    return collate("", [Example(str(i), seqs[i : i + size], targets) for i in range(0, 6, size)], IMG_DIM)


@pytest.mark.parametrize("head", HEADS)
def test_dropout_and_half_precision_reach_every_part(head):
    """Losses are fp32 under autocast; training without dropout is evaluation, and any one dropout shows."""
    torch.manual_seed(0)
    model, batch = HEADS[head](tiny_config(), IMG_DIM), any_batch(head)
    for p in model.parameters():  # far from the initial values, where little depends on anything
        p.data += 0.15 * torch.randn_like(p)
    runs = [lambda: model.losses(batch)[1]]
    if head.startswith("re"):
        runs.append(lambda: model.losses(batch, "rank", hard_ratio=1.0, uniform=torch.zeros(6, 2))[1])
    for run in runs:
        model.eval()
        expected = run()
        with torch.autocast("cpu", torch.bfloat16):
            half = run()
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, expected, atol=0.1, rtol=0.1)
        half.mean().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        model.train()
        set_dropout(model, 0.0)
        torch.testing.assert_close(run(), expected)
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
                assert (run() - expected).abs().max() > 1e-5, name
                module.p = 0.0


def test_the_option_dropout_reaches_the_cross_attention():
    """In the release it stays that of the model's JSON, 0.1."""
    model = NLVR2_MODELS["paired-attn"](tiny_config(), IMG_DIM)
    assert model.attn1.dropout.p == model.attn2.dropout.p == 0.1
    set_dropout(model, 0.3)
    assert model.attn1.dropout.p == model.attn2.dropout.p == model.attn_pool.dropout.p == 0.3
