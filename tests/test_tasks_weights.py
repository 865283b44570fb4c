"""Weights and feature widths through the scripts: what a run starts from, what is scored, what is refused."""

import json
import shutil

import pytest
import torch

import inf_vqa
import pretrain
import train_vqa
from model.pretrain import UniterForPretraining
from model.uniter import UniterConfig
from tests.test_bad_input import STORE, edit_regions
from tests.tiny_tasks import options
from tests.tiny_world import MODEL, make_world, pretrain_options
from utils import checkpoint
from utils.errors import InputError

STORES = {"train_txt_dbs": ["txt_db/vqa.db"], "train_img_dbs": ["img_db/tiny"]}
STORES |= {"val_txt_db": "txt_db/vqa.db", "val_img_db": "img_db/tiny"}
SHORT = {"num_train_steps": 2, "valid_steps": 2}
WIDTH = 100


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The tiny world with a second image store, of narrower features, and weights of pre-training."""
    world = make_world(tmp_path_factory.mktemp("weights"), texts=24, pictures=12)
    shutil.copytree(world / "img_db" / "tiny", world / "img_db" / "narrow")
    edit_regions(world / "img_db/narrow" / STORE, lambda r: r | {"features": r["features"][:, :WIDTH].copy()})
    torch.save(UniterForPretraining(UniterConfig(**MODEL)).state_dict(), world / "pretrained.pt")
    return world


@pytest.fixture(scope="module")
def run(world):
    """A finished VQA run from weights of pre-training."""
    config = options(world, world / "run", **STORES, **SHORT, checkpoint=str(world / "pretrained.pt"))
    train_vqa.main(["--config", str(config)])
    return world / "run"


def inference(world, run, *more, images="tiny"):
    flags = ["--txt_db", world / "txt_db/vqa.db", "--img_db", world / "img_db" / images, "--output_dir", run]
    return [str(flag) for flag in (*flags, "--n_workers", "0", *more)]


def test_inference_refuses_weights_of_pretraining_and_writes_nothing(world, run):
    with pytest.raises(InputError) as error:
        inf_vqa.main(inference(world, run, "--checkpoint", world / "pretrained.pt"))
    assert "6 weights: vqa_output.0.weight" in str(error.value) and "pretrained.pt" in str(error.value)
    assert not (run / "results_test").exists()


def test_inference_refuses_a_weight_file_with_a_changed_byte(world, run, tmp_path):
    content = bytearray((run / "ckpt/model_step_2.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"flipped\.pt"):
        inf_vqa.main(inference(world, run, "--checkpoint", tmp_path / "flipped.pt"))


@pytest.mark.parametrize("change", [torch.Tensor.long, lambda weight: weight * float("nan")])
def test_a_run_is_not_resumed_from_weights_that_are_no_finite_floats(world, run, tmp_path, change):
    shutil.copytree(run, tmp_path / "run")
    state, key = checkpoint.load(run / "ckpt/model_step_2.pt"), "uniter.pooler.dense.weight"
    torch.save(state | {key: change(state[key])}, tmp_path / "run/ckpt/model_step_2.pt")
    train_state = checkpoint.load(run / "ckpt/train_state_2.pt")
    del train_state["weights_sum"]  # as before it was saved
    checkpoint.save(tmp_path / "run/ckpt/train_state_2.pt", train_state, old_format=False)
    config = options(world, run, **STORES, **SHORT | {"num_train_steps": 4}, checkpoint=str(world / "pretrained.pt"))
    with pytest.raises(InputError, match=rf"model_step_2\.pt[\s\S]*{key}"):
        train_vqa.main(["--config", str(config), "--output_dir", str(tmp_path / "run"), "--resume"])


def test_eval_only_scores_weights_that_are_given_and_whole(world, run, tmp_path):
    """Not random weights: without a checkpoint, with --resume, with weights of another task."""
    config = str(options(world, tmp_path / "new", **STORES))
    with pytest.raises(InputError, match=r"no checkpoint was given[\s\S]*--eval_only --checkpoint FILE"):
        train_vqa.main(["--config", config, "--eval_only"])
    best = run / "ckpt" / "model_step_best.pt"
    flags = ["--config", config, "--output_dir", str(run), "--eval_only"]
    with pytest.raises(InputError) as error:
        train_vqa.main([*flags, "--resume", "--checkpoint", str(best)])
    assert "--resume has no meaning" in str(error.value) and f"--checkpoint {best}" in str(error.value)
    with pytest.raises(InputError, match="vqa_output"):
        train_vqa.main([*flags, "--checkpoint", str(world / "pretrained.pt")])
    torch.save(checkpoint.load(best) | {"vqa_output.4.weight": torch.ones(2)}, tmp_path / "larger.pt")
    with pytest.raises(InputError, match=r"parts that the model does not have[\s\S]*vqa_output\.4\.weight"):
        train_vqa.main([*flags, "--checkpoint", str(tmp_path / "larger.pt")])
    assert train_vqa.main([*flags, "--checkpoint", str(best)])["val/score"] > 0
    assert not (tmp_path / "new").exists()


def test_an_encoder_of_other_depth_is_refused_in_training(world, tmp_path):
    weights = UniterForPretraining(UniterConfig(**MODEL | {"num_hidden_layers": 1})).state_dict()
    torch.save(weights, tmp_path / "shallow.pt")
    config = options(world, tmp_path / "run", **STORES, **SHORT, checkpoint=str(tmp_path / "shallow.pt"))
    with pytest.raises(InputError, match=r"its encoder: 1 layer \(0\)[\s\S]*2 layers \(0-1\)"):
        train_vqa.main(["--config", str(config)])
    assert not (tmp_path / "run" / "ckpt").exists()


def test_features_of_another_width_train_and_predict(world, tmp_path):
    """Pre-training (all objectives), finetuning from it, inference; the run remembers the width."""
    source = {"name": "tiny", "db": ["txt_db/captions.db"], "img": ["img_db/narrow"]}
    tasks = {"tasks": ["itm", "mlm", "mrfr", "mrckl", "mrc"]}
    datasets = {"train_datasets": [source | tasks], "val_datasets": [source | tasks]}
    scores = pretrain.main(["--config", str(pretrain_options(world, tmp_path / "pre", **datasets, **SHORT))])
    assert scores["mrfr_tiny/loss"] > 0
    weights = tmp_path / "pre/ckpt/model_step_2.pt"
    assert checkpoint.load(weights)["uniter.img_embeddings.img_linear.weight"].shape == (32, WIDTH)
    narrow = STORES | {"train_img_dbs": ["img_db/narrow"], "val_img_db": "img_db/narrow", "checkpoint": str(weights)}
    train_vqa.main(["--config", str(options(world, tmp_path / "vqa", **narrow, **SHORT))])
    assert "start from random numbers: vqa_output (6 weights)\n" in (tmp_path / "vqa/log/log.txt").read_text()
    model_json = tmp_path / "vqa" / "log" / "model.json"
    assert json.loads(model_json.read_text()) == MODEL | {"img_dim": WIDTH}
    answers = inf_vqa.main(inference(world, tmp_path / "vqa", images="narrow")).read_text()
    with pytest.raises(InputError, match=r"2048 numbers a region[\s\S]*100, as in .*model\.json"):
        inf_vqa.main(inference(world, tmp_path / "vqa"))
    model_json.write_text(json.dumps(MODEL))  # as the release writes it
    assert inf_vqa.main(inference(world, tmp_path / "vqa", images="narrow")).read_text() == answers
    with pytest.raises(InputError, match=r"image features of another width[\s\S]*\(32, 100\)[\s\S]*\(32, 2048\)"):
        inf_vqa.main(inference(world, tmp_path / "vqa"))


def test_a_checkpoint_of_another_width_is_refused(world, tmp_path):
    narrow = STORES | {"train_img_dbs": ["img_db/narrow"], "val_img_db": "img_db/narrow"}
    config = options(world, tmp_path / "run", **narrow, **SHORT, checkpoint=str(world / "pretrained.pt"))
    with pytest.raises(InputError) as error:
        train_vqa.main(["--config", str(config)])
    for part in ("pretrained.pt", "img_linear.weight", "(32, 2048)", "(32, 100)", "from the image stores"):
        assert part in str(error.value)


def test_model_json_of_the_usual_width_is_as_the_release_writes_it(run):
    assert json.loads((run / "log" / "model.json").read_text()) == MODEL
