"""Whole runs: learning, killing and resuming, ranks, precision, the loop's guards."""

import json
import random
import re

import numpy as np
import pytest
import torch

import pretrain
import train_vqa
from scripts import kill_test
from tests.tiny_world import TORCHRUN, make_world, pretrain_options, run_script
from utils.errors import InputError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("tiny"))


@pytest.mark.slow
@pytest.mark.parametrize("k", range(3))
def test_killed_and_resumed_is_never_killed(world, tmp_path, k):
    steps = {"num_train_steps": 60, "valid_steps": 5, "log_steps": 3}
    whole = world / "never_killed"
    options = pretrain_options(world, whole, **steps)
    if not whole.exists():
        kill_test.finish("pretrain.py", options, whole, 0)
    rng = random.Random(k)
    killed = tmp_path / "killed"
    workers = [(0, 2), (2, 0), (2, 2)][k]
    assert kill_test.trial("pretrain.py", options, killed, workers, rng.uniform(0.0, 0.5))  # it was alive
    assert kill_test.compare(whole, killed) is None


def test_the_comparison_sees_a_difference(world):
    state = {"a": [torch.ones(2), 1.0]}
    assert kill_test.difference(state, {"a": [torch.ones(2), 1.0]}, "") is None
    assert kill_test.difference(state, {"a": [torch.tensor([1.0, 1 + 1e-7]), 1.0]}, "x") == "x/a[0]"
    assert kill_test.difference(state, {"a": [torch.ones(2), 2.0]}, "x").startswith("x/a[1]")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "tolerance", "mixed"), [("fp64", 1e-9, False), ("fp32", 1e-6, False), ("fp64", 1e-9, True)]
)
def test_ranks_and_micro_batches_are_one(world, tmp_path, precision, tolerance, mixed):
    """1 rank × 2 micro-batches and 2 ranks × 1, clipping active, dropout on: the same run.

    `mixed`: texts with and without images in one entry, so that a rank may lack gradients that the other has.
    """
    shared = {
        "precision": precision,
        "num_train_steps": 20,
        "valid_steps": 20,
        "log_steps": 1,
        "learning_rate": 5e-5,
        "grad_norm": 0.1,
        "dropout": 0.1,
    }
    if mixed:
        stores = {"db": ["txt_db/vqa.db", "txt_db/captions.db"], "img": [None, "img_db/tiny"]}
        shared |= {
            "train_datasets": [{"name": "mixed", "tasks": ["mlm"]} | stores],
            "train_batch_size": 24,
        }
    one, two = tmp_path / f"one_{precision}_{mixed}", tmp_path / f"two_{precision}_{mixed}"
    run_script("pretrain.py", "--config", pretrain_options(world, one, gradient_accumulation_steps=2, **shared))
    run_script("pretrain.py", "--config", pretrain_options(world, two, **shared), launcher=TORCHRUN)
    ours, theirs = kill_test.metrics(one), kill_test.metrics(two)
    assert [sorted(r) for r in ours] == [sorted(r) for r in theirs]  # the same task in every step
    clipped = [r["grad_norm"] > shared["grad_norm"] for r in ours if "grad_norm" in r]
    assert sum(clipped) > 10  # clipping was active
    for a, b in zip(ours, theirs):
        for key, value in a.items():
            exact = key.endswith(("/acc", "/acc_match", "/acc_mismatch")) or key in ("step", "units", "examples")
            assert value == b[key] if exact else value == pytest.approx(b[key], abs=tolerance, rel=tolerance), key
    ours = dict(kill_test.newest(one, "model_step"))
    for key, value in kill_test.newest(two, "model_step").items():
        if not key.endswith("key.bias"):
            assert (ours[key] - value).abs().max() <= tolerance, key


def test_an_objective_that_is_never_finite_stops_the_run(world, tmp_path, monkeypatch):
    """The other objective is finite all the time. The log and the records name the one that is not."""

    def loss(task, model, batch):
        return original(task, model, batch) * (float("nan") if batch.task == "mrfr" else 1.0)

    original = pretrain.Pretraining.loss
    monkeypatch.setattr(pretrain.Pretraining, "loss", loss)
    source = {"name": "tiny", "db": ["txt_db/captions.db"], "img": ["img_db/tiny"], "tasks": ["mlm", "mrfr"]}
    steps = {"num_train_steps": 300, "log_steps": 10, "valid_steps": 300}
    options = pretrain_options(world, tmp_path / "nan", train_datasets=[source], val_datasets=[source], **steps)
    with pytest.raises(InputError, match="of mrfr_tiny in a row was not finite"):
        pretrain.main(["--config", str(options)])
    records = kill_test.metrics(tmp_path / "nan")
    assert 20 <= records[-1]["skipped_steps/mrfr_tiny"] == records[-1]["skipped_steps"] < 30
    assert "skipped_steps/mlm_tiny" not in records[-1] and records[-1]["loss/mlm_tiny"] > 0
    assert records[-1]["step"] < 100
    log = (tmp_path / "nan" / "log" / "log.txt").read_text()
    assert re.search(r"WARNING step 20: skipped (\d+) of \1 steps of mrfr_tiny since the last record, \1 in all", log)


@pytest.mark.slow
def test_pretraining_learns_and_vqa_runs_on_it(tmp_path):
    """All objectives fall; finetuning starts from the checkpoint; the best checkpoint and its files are there."""
    world, output = make_world(tmp_path / "world", texts=600, pictures=200), tmp_path / "learned"
    steps = {"num_train_steps": 700, "valid_steps": 350, "log_steps": 50, "train_batch_size": 320}
    options = pretrain_options(world, output, wrong_picture=True, dropout=0.0, learning_rate=3e-3, **steps)
    pretrain.main(["--config", str(options)])
    records = kill_test.metrics(output)
    for task in ("itm", "mlm", "mrfr", "mrckl", "mrc"):
        curve = [r[f"loss/{task}_tiny"] for r in records if f"loss/{task}_tiny" in r]
        assert curve[-1] < curve[0], (task, curve)
    scores = records[-1]
    assert scores["mlm_tiny/acc"] > scores["mlm_tiny@wrong_picture/acc"] + 0.1
    assert 0 < scores["mrc_tiny/acc_se"] < 0.1 and scores["itm_tiny@wrong_picture/acc"] >= 0
    finetuned = tmp_path / "vqa"
    flags = {
        "--data_root": world,
        "--output_dir": finetuned,
        "--model_config": world / "model.json",
        "--checkpoint": output / "ckpt" / "model_step_best.pt",
        "--val_txt_db": "txt_db/vqa.db",
        "--val_img_db": "img_db/tiny",
        "--train_txt_dbs": "txt_db/vqa.db",
        "--train_img_dbs": "img_db/tiny",
        "--min_bb": 2,
        "--train_batch_size": 160,
        "--batching": "full",
        "--gradient_accumulation_steps": 1,
        "--learning_rate": 1e-3,
        "--warmup_steps": 4,
        "--num_train_steps": 40,
        "--valid_steps": 20,
        "--n_workers": 0,
    }
    scores = train_vqa.main([str(part) for pair in flags.items() for part in pair])
    assert scores["val/score"] > 0.6
    assert json.loads((finetuned / "ckpt" / "ans2label.json").read_text()) == {"no": 0, "yes": 1}
    for name in ("log/hps.json", "log/model.json", "log/git_info.json", "log/log.txt", "ckpt/model_step_best.pt"):
        assert (finetuned / name).exists()
    flags = ["--txt_db", world / "txt_db/vqa.db", "--img_db", world / "img_db/tiny", "--output_dir", finetuned]
    run_script("inf_vqa.py", *flags, "--checkpoint", "40", "--save_logits", "--n_workers", "0")
    answers = json.loads((finetuned / "results_test" / "results_40_all.json").read_text())
    assert sorted(a["question_id"] for a in answers) == list(range(1000, 1600))
    logits = np.load(finetuned / "results_test" / "logits_40_all.npz")
    for answer in answers:
        chosen = ["no", "yes"][int(logits[str(answer["question_id"])].argmax())]
        assert chosen == answer["answer"]
    # What the release leaves: keys nobody knows, none of ours, fp16 weights. The same answers.
    hps = json.loads((finetuned / "log" / "hps.json").read_text())
    for key in ("batching", "accumulation", "precision", "resume", "blind", "ans2label", "data_root", "num_threads"):
        del hps[key]
    (finetuned / "log" / "hps.json").write_text(json.dumps(hps | {"rank": 0, "n_gpu": 4, "betas": ["0.9", "0.98"]}))
    weights = torch.load(finetuned / "ckpt" / "model_step_40.pt", weights_only=True)
    torch.save({key: value.half() for key, value in weights.items()}, finetuned / "ckpt" / "model_step_41.pt")
    (finetuned / "log" / "vocab.json").unlink()
    run_script("inf_vqa.py", *flags, "--checkpoint", "41", "--n_workers", "0")
    old = json.loads((finetuned / "results_test" / "results_41_all.json").read_text())
    assert np.mean([a == b for a, b in zip(old, answers)]) > 0.9
    run_script("inf_vqa.py", *flags, "--checkpoint", "best", "--n_workers", "2")
    one = (finetuned / "results_test" / "results_best_all.json").read_bytes()
    run_script("inf_vqa.py", *flags, "--checkpoint", "best", "--n_workers", "0", launcher=TORCHRUN)
    assert (finetuned / "results_test" / "results_best_all.json").read_bytes() == one


@pytest.mark.slow
def test_workers_change_no_number(world, tmp_path):
    runs = []
    for n_workers in (0, 2):
        output = tmp_path / f"workers{n_workers}"
        runs.append(output)
        run_script("pretrain.py", "--config", pretrain_options(world, output, n_workers=n_workers))
    assert kill_test.compare(*runs) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"masking": "joint"},
        {"itm_negative": "both"},
        {"mrckl_reduction": "sum"},
        {"blind": True},
        {"precision": "bf16"},
        {"optim": "adam"},
        {"optim": "adamax"},
    ],
)
def test_options_run(world, tmp_path, changes):
    output = tmp_path / "run"
    scores = pretrain.main(["--config", str(pretrain_options(world, output, num_train_steps=6, **changes))])
    assert all(np.isfinite(value) for value in scores.values())
    plain = kill_test.metrics(world / "never_killed")[0] if (world / "never_killed").exists() else None
    assert plain is None or kill_test.metrics(output)[0] != plain


def test_text_alone(world, tmp_path):
    """An image entry `null`: MLM without regions (paper table 3, line 2)."""
    source = {"name": "text", "db": ["txt_db/captions.db"], "img": [None], "tasks": ["mlm"]}
    options = pretrain_options(
        world, tmp_path / "text", train_datasets=[source], val_datasets=[source], wrong_picture=True
    )
    scores = pretrain.main(["--config", str(options)])
    assert set(scores) == {"mlm_text/loss", "mlm_text/acc", "mlm_text/acc_se"}


def test_eval_only_gives_the_scores_of_the_run(world, tmp_path):
    output = tmp_path / "run"
    options = pretrain_options(world, output)
    scores = pretrain.main(["--config", str(options)])
    weights = output / "ckpt" / "model_step_24.pt"
    again = pretrain.main(["--config", str(options), "--eval_only", "--checkpoint", str(weights)])
    assert again == pytest.approx(scores, rel=1e-9)
