"""VCR finetuning, evaluation and second-stage pre-training against the reference."""

import json

import numpy as np
import pytest
import torch

from data.batch import Example, Image, PackedBatch, Seq
from model.growth import grown_config
from model.pretrain import UniterForPretraining
from model.vcr import UniterForVisualCommonsenseReasoning, choice_scores
from tests.golden_data import (
    CLS,
    DEVICE,
    EXACT,
    GOLDEN,
    IMG_DIM,
    IMG_LABEL_DIM,
    SEP,
    arrays,
    check_backward,
    check_states,
    close,
    collate,
    load,
    tiny_config,
)
from tests.unpack import seq_targets, to_padded

VCR_WORDS = 5  # special tokens of the tiny VCR


def vcr_text(example: dict, answer: int, rationale: int | None) -> tuple[np.ndarray, np.ndarray]:
    """[CLS] question [SEP] answer [SEP] (rationale [SEP]) and types: in finetuning a [SEP] has the next part's type."""
    parts = [(example["input_ids"], 0), (example["input_ids_as"][answer], 2)]
    parts += [] if rationale is None else [(example["input_ids_rs"][rationale], 3)]
    ids, types = [CLS], [0]
    for n, (tokens, kind) in enumerate(parts):
        following = parts[n + 1][1] if n + 1 < len(parts) else kind
        ids += [*tokens, SEP]
        types += [kind] * len(tokens) + [following]
    return np.array(ids), np.array(types)


def vcr_sequences(example: dict, kind: str) -> list[tuple[int, int | None]]:
    """The (answer, rationale) of each sequence of an example."""
    answers: list[tuple[int, int | None]] = [(a, None) for a in range(4)]
    right: list[tuple[int, int | None]] = [(example["qa_target"], r) for r in range(4)]
    every: list[tuple[int, int | None]] = [(a, r) for a in range(4) for r in range(4)]
    kinds = {"qa": answers, "qar": right, "eval_val": answers + right, "eval_test": answers + every}
    return kinds[kind]


def vcr_batch(kind: str) -> PackedBatch:
    raw, made = arrays("vcr/examples.npz"), []
    for i, example in enumerate(json.loads((GOLDEN / "vcr/examples.json").read_text())):
        image, seqs = Image(key=i, feat=raw[f"img_feat.{i}"], pos=raw[f"img_pos_feat.{i}"]), []
        for answer, rationale in vcr_sequences(example, kind):
            ids, types = vcr_text(example, answer, rationale)
            right = rationale == example["qar_target"] if kind == "qar" else answer == example["qa_target"]
            seqs.append(
                Seq(input_ids=ids, images=[image], txt_type_ids=types, targets={"labels": np.array([int(right)])})
            )
        made.append(Example(str(i), seqs))
    return collate("vcr", made, IMG_DIM)


def vcr_model():
    return load(UniterForVisualCommonsenseReasoning(tiny_config(), IMG_DIM, special_tokens=VCR_WORDS), "vcr")


@pytest.mark.device
@pytest.mark.parametrize("kind", ["qa", "qar"])
def test_vcr_training(kind):
    model, golden, batch = vcr_model(), arrays(f"vcr/outputs_{kind}.npz"), vcr_batch(kind)
    reference = arrays(f"vcr/batch_{kind}.npz")
    types, mask = to_padded(batch.txt_type_ids, batch.txt_lens)
    types, mask = types.cpu(), mask.cpu()
    assert np.array_equal(types[mask], reference["txt_type_ids"][mask.numpy()])
    assert batch.targets["labels"].tolist() == reference["targets"][:, 0].tolist()
    check_states(model, batch, golden)
    scores, loss = model.losses(batch)
    close(choice_scores(scores), golden["scores"][:, 0])
    close(loss.mean(), golden["loss"])
    check_backward(model, loss.mean(), f"vcr/grads_{kind}")


@pytest.mark.device
@pytest.mark.parametrize("kind", ["eval_val", "eval_test"])
def test_vcr_evaluation(kind):
    golden, batch = arrays(f"vcr/outputs_{kind}.npz"), vcr_batch(kind)
    scores = choice_scores(vcr_model()(batch))
    close(scores, golden["scores"][:, 0])
    grouped = scores.view(3, -1)
    close(grouped, golden["scores_grouped"])
    targets = arrays(f"vcr/batch_{kind}.npz")
    answer, rationale = (torch.from_numpy(targets[f"{name}_targets"][:, 0]).to(DEVICE) for name in ("qa", "qar"))
    of_answer = grouped[:, 4:] if kind == "eval_val" else grouped[:, 4:].view(3, 4, 4)[torch.arange(3), answer]
    close(of_answer, golden["qar_scores"])
    right = grouped[:, :4].argmax(1) == answer, of_answer.argmax(1) == rationale
    entropy = torch.nn.functional.cross_entropy
    close(entropy(grouped[:, :4], answer, reduction="sum"), golden["qa_loss_sum"])
    close(entropy(of_answer, rationale, reduction="sum"), golden["qar_loss_sum"])
    counts = [int(right[0].sum()), int(right[1].sum()), int((right[0] & right[1]).sum())]
    if EXACT:
        assert counts == golden["n_correct_qa_qar_joint"].tolist()


def vcr_pretraining_batch(task: str, text: str) -> PackedBatch:
    raw, made = arrays("pretraining_vcr/examples.npz"), []
    lists = json.loads((GOLDEN / "pretraining_vcr/text_io.json").read_text())
    for i, example in enumerate(lists[f"{'mlm' if task == 'mlm' else 'nomask'}_{text}"]):
        image, mask = Image(key=i, feat=raw[f"img_feat.{i}"], pos=raw[f"img_pos_feat.{i}"]), None
        ids, types = np.array(example["input_ids"]), np.array(example["txt_type_ids"])
        if task == "mlm":
            labels = np.array(example["txt_labels"])
            targets = {"mlm_index": np.flatnonzero(labels >= 0), "mlm_labels": labels[labels >= 0]}
        else:
            mask = raw[f"img_mask.{i}"]
            targets = {"mrm_index": len(ids) + np.flatnonzero(mask), "mrm_row": np.flatnonzero(mask)}
            if task != "mrfr":
                targets["soft_labels"] = raw[f"soft_label.{i}"][mask]
        seq = Seq(input_ids=ids, images=[image], txt_type_ids=types, img_mask=mask, **seq_targets(targets))
        made.append(Example(str(i), [seq]))
    return collate(task, made, IMG_DIM)


@pytest.mark.device
@pytest.mark.parametrize("text", ["qa", "qar"])
@pytest.mark.parametrize("task", ["mlm", "mrfr", "mrc", "mrckl"])
def test_vcr_second_stage(task, text):
    config = grown_config(tiny_config(), types=4, words=VCR_WORDS)
    model = load(UniterForPretraining(config, IMG_DIM, IMG_LABEL_DIM), "pretraining_vcr")
    golden, batch = arrays(f"pretraining_vcr/outputs_{task}_{text}.npz"), vcr_pretraining_batch(task, text)
    check_states(model, batch, golden)
    scores, loss = getattr(model, task)(batch)
    close(scores, golden["scores"])
    close(loss, golden["loss"])
    check_backward(model, loss.mean(), f"pretraining_vcr/grads_{task}_{text}")
