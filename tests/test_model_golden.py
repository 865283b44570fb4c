"""The model against the reference: states, pooled, scores, per-element losses, gradients."""

import json

import numpy as np
import pytest
import torch

from data.batch import Example, Seq
from model.pretrain import UniterForPretraining, wra_loss
from model.uniter import UniterModel
from model.vqa import UniterForVisualQuestionAnswering
from tests.golden_data import (
    GOLDEN,
    IMG_DIM,
    IMG_LABEL_DIM,
    arrays,
    check_backward,
    close,
    collate,
    examples,
    load,
    tiny_config,
)
from tests.unpack import seq_targets, to_padded


def pretraining_batch(task: str):
    """The reference's batch of a task, packed: its masks, labels and negatives, our layout."""
    name = {"mrckl": "mrc", "itm_ot": "itm_ot"}.get(task, task)
    batch = arrays(f"pretraining/batch_{name}.npz")
    made = []
    for i, example in enumerate(examples("pretraining")):
        (seq,) = example.seqs
        n_txt, n_img = len(seq.input_ids), len(seq.images[0].feat)
        image = seq.images[0]
        targets, mask = {}, None
        if task == "mlm":
            labels = batch["txt_labels"][i, :n_txt]
            targets = {"mlm_index": np.flatnonzero(labels >= 0), "mlm_labels": labels[labels >= 0]}
        elif task.startswith("itm"):
            targets = {"itm_labels": batch["targets"][i : i + 1]}
            # The reference's negatives carry another example's picture: find it by its features.
            image = next(
                other.seqs[0].images[0]
                for other in examples("pretraining")
                if np.array_equal(
                    other.seqs[0].images[0].feat, batch["img_feat"][i, : len(other.seqs[0].images[0].feat)]
                )
            )
        else:
            mask = batch["img_masks"][i, :n_img]
            targets = {"mrm_index": n_txt + np.flatnonzero(mask)}
            if task == "mrfr":
                targets["mrm_row"] = np.flatnonzero(mask)
            else:
                at = int(batch["img_masks"][:i].sum())
                targets["soft_labels"] = batch["label_targets"][at : at + int(mask.sum())]
        ids = batch["input_ids"][i, :n_txt]
        made.append(Example(str(i), [Seq(input_ids=ids, images=[image], img_mask=mask, **seq_targets(targets))]))
    return collate(task, made, IMG_DIM)


@pytest.mark.device
def test_body_states_of_every_layer():
    model = load(UniterModel(tiny_config(), IMG_DIM), "uniter_model")
    golden, batch = arrays("uniter_model/outputs.npz"), collate("", examples("uniter_model"), IMG_DIM)
    padding = arrays("uniter_model/batch.npz")["attn_masks"].astype(bool)
    text, regions = batch.txt_lens, batch.seqlens - batch.txt_lens
    stream = model.embed(batch)
    layers = model.all_layers(batch)
    for ours, reference in [(stream, "joint_emb"), (layers[0], "layer0_raw"), (layers[1], "layer1_raw")]:
        padded, mask = to_padded(ours, batch.seqlens)
        assert np.array_equal(mask.cpu().numpy(), padding)
        close(padded[mask], golden[reference][padding])
    txt, txt_mask = to_padded(stream[batch.txt_index], text)
    close(txt[txt_mask], golden["txt_emb"][txt_mask.cpu().numpy()])
    img, img_mask = to_padded(stream[batch.img_index], regions)
    close(img[img_mask], golden["img_emb"][img_mask.cpu().numpy()])
    close(model.pooler(layers[-1], batch.cu_seqlens), golden["pooled"])


@pytest.mark.device
@pytest.mark.parametrize("side", ["txt_only", "img_only"])
def test_body_on_one_modality_alone(side):
    model = load(UniterModel(tiny_config(), IMG_DIM), "uniter_model")
    made = examples("uniter_model")
    for example in made:
        if side == "txt_only":
            example.seqs[0].images = []
        else:
            example.seqs[0].input_ids = np.zeros(0, np.int64)
    batch = collate("", made, IMG_DIM)
    padded, mask = to_padded(model(batch), batch.seqlens)
    golden = arrays("uniter_model/outputs.npz")[f"{side}_last"]
    close(padded[mask], golden[:, : mask.shape[1]][mask.cpu().numpy()])


@pytest.mark.device
@pytest.mark.parametrize("task", ["mlm", "mrfr", "mrc", "mrckl", "itm", "itm_ot"])
def test_pretraining_objectives(task):
    model = load(UniterForPretraining(tiny_config(), IMG_DIM, IMG_LABEL_DIM), "pretraining")
    golden, batch = arrays(f"pretraining/outputs_{task}.npz"), pretraining_batch(task)
    padded, _ = to_padded(model.uniter(batch), batch.seqlens)
    close(padded, golden["last_hidden"])
    close(model.uniter.pooler(model.uniter(batch), batch.cu_seqlens), golden["pooled"])
    if task.startswith("itm"):
        scores, loss, distances = model.itm(batch, transport=task == "itm_ot")
        total = loss.mean()
        if task == "itm_ot":
            labels = batch.targets["itm_labels"]
            close(distances[labels == 1], golden["ot_pos_dist"])
            close(distances[labels == 0], golden["ot_neg_dist"])
            close(wra_loss(distances, labels), golden["ot_loss"])
            total = total + 0.1 * wra_loss(distances, labels)
    else:
        scores, loss = getattr(model, task)(batch)
        total = loss.mean()
    close(scores, golden["scores"])
    close(loss, golden["loss"])
    close(total, golden["total_loss"])
    check_backward(model, total, f"pretraining/grads_{task}")


@pytest.mark.device
def test_vqa():
    golden, raw = arrays("vqa/outputs.npz"), arrays("vqa/examples.npz")
    answers = golden["scores"].shape[1]
    model = load(UniterForVisualQuestionAnswering(tiny_config(), answers, IMG_DIM), "vqa")
    made = examples("vqa")
    for i, example in enumerate(made):
        target = np.zeros(answers, np.float32)
        target[raw[f"target_labels.{i}"]] = raw[f"target_scores.{i}"]
        example.targets = {"answer_scores": target[None]}
    batch = collate("vqa", made, IMG_DIM)
    scores, loss = model.losses(batch)
    close(scores, golden["scores"])
    close(loss, golden["loss"])
    close(loss.mean() * answers, golden["train_loop_loss"])
    check_backward(model, loss.mean(), "vqa/grads")


@pytest.mark.parametrize("size", ["base", "large"])
def test_names_of_the_public_checkpoints(size):
    from model.uniter import UniterConfig

    config = UniterConfig(**json.loads((GOLDEN.parent.parent / f"config/uniter-{size}.json").read_text()))
    with torch.device("meta"):
        pretrain, vqa = UniterForPretraining(config), UniterForVisualQuestionAnswering(config, 3129)
    expected = json.loads((GOLDEN / f"names/uniter_{size}_pretrained.json").read_text())
    assert [[k, list(v.shape)] for k, v in pretrain.state_dict().items()] == [row[:2] for row in expected]
    head = json.loads((GOLDEN / f"names/uniter_{size}_head_vqa.json").read_text())
    ours = [[k, list(v.shape)] for k, v in vqa.state_dict().items() if not k.startswith("uniter.")]
    assert ours == [row[:2] for row in head]
