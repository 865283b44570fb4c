"""Every task, end to end: official files, train, kill, resume, predict, score; and output folders of the release."""

import io
import json
import logging
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import inf_itm
import inf_nlvr2
import inf_re
import inf_vcr
import inf_ve
import inf_vqa
import train_itm
import train_nlvr2
import train_re
import train_vcr
import train_ve
import train_vqa
from data.text_image import TextImage
from data.vcr import VcrData
from scripts import ensemble, eval_vqa, evaluate, kill_test
from scripts.read_results import read_vcr
from tests.tiny_tasks import make_old, make_tasks, options
from tests.tiny_world import MODEL, TORCHRUN, run_script
from utils.config import parse
from utils.errors import InputError

OURS = (
    "batching",
    "accumulation",
    "precision",
    "resume",
    "blind",
    "data_root",
    "num_threads",
    "eval_only",
    "log_steps",
    "regions",
    "hard_negatives",
)


def stores(texts, train="img_db/tiny", val="img_db/tiny", test=None):
    made = {"train_txt_db": f"txt_db/{texts}.db", "train_img_db": train}
    made |= {"val_txt_db": f"txt_db/{texts}.db", "val_img_db": val}
    return made | ({"test_txt_db": f"txt_db/{test}.db", "test_img_db": train} if test else {})


TASKS = {
    "nlvr2": stores("nlvr2", test="nlvr2_test") | {"model": "paired-attn", "use_img_type": True},
    "ve": stores("ve", test="ve_test"),
    "re": stores("refcoco_val", "img_db/re_coco_gt", "img_db/re_coco_gt")
    | {"train_batch_size": 8, "val_batch_size": 16, "valid_steps": 0, "mlp": 2},
}
MORE = {  # which have files of tests of their own
    "vcr": {"train_txt_dbs": ["txt_db/vcr.db"], "train_img_dbs": ["img_db/vcr_gt;img_db/tiny"], "lr_mul": 1.0}
    | {"val_txt_db": "txt_db/vcr.db", "val_img_db": "img_db/vcr_gt;img_db/tiny", "val_batch_size": 10},
    "itm": {"train_txt_dbs": ["txt_db/itm.db"], "train_img_dbs": ["img_db/tiny"], "train_batch_size": 8}
    | {"val_txt_db": "txt_db/itm.db", "val_img_db": "img_db/tiny", "full_val": True},
}
VQA = {"train_txt_dbs": ["txt_db/vqa_raw.db"], "train_img_dbs": ["img_db/tiny"]}
VQA |= {"val_txt_db": "txt_db/vqa_raw.db", "val_img_db": "img_db/tiny"}
MORE |= {"vqa": VQA}

SCRIPTS = {"nlvr2": (train_nlvr2, inf_nlvr2), "ve": (train_ve, inf_ve), "re": (train_re, inf_re)}
SCRIPTS |= {"vcr": (train_vcr, inf_vcr), "itm": (train_itm, inf_itm), "vqa": (train_vqa, inf_vqa)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def runs(world):
    """A finished run of every task."""
    finished = {}
    for name, changes in (TASKS | MORE).items():
        finished[name] = world / f"run_{name}"
        SCRIPTS[name][0].main(["--config", str(options(world, finished[name], **changes))])
    return finished


def inference(name, world, run, output=None):
    """Its flags, and where it writes."""
    pictures = {"re": "img_db/re_coco_gt", "vcr": f"img_db/vcr_gt;{world / 'img_db/tiny'}"}.get(name, "img_db/tiny")
    flags = ["--img_db", f"{world}/{pictures}", "--n_workers", "0"]
    flags += ["--txt_db", world / "txt_db" / {"re": "refcoco_val.db", "vqa": "vqa_raw.db"}.get(name, f"{name}.db")]
    if name == "itm":
        output = output or run / "results"
        weights = ["--checkpoint", run / "ckpt" / "model_step_12.pt", "--train_config", run / "log" / "hps.json"]
        return [*map(str, [*flags, *weights]), "--output_dir", str(output)], output / "results.npz"
    if name == "nlvr2":
        output = output or run / "results"
        return [*map(str, flags), "--train_dir", str(run), "--output_dir", str(output)], output / "results.csv"
    store = "_refcoco_val_on_re_coco_gt" if name == "re" else ""
    return [*map(str, flags), "--output_dir", str(run)], run / "results_test" / f"results_best{store}_all.json"


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS | MORE)
def test_killed_and_resumed_is_never_killed(world, runs, tmp_path, name):
    killed = tmp_path / "killed"
    config = options(world, killed, **(TASKS | MORE)[name])
    assert kill_test.trial(f"train_{name}.py", config, killed, (0, 2), random.Random(name).uniform(0, 0.15))
    assert kill_test.compare(runs[name], killed) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_ranks_write_the_same_files(world, runs, name):
    flags, path = inference(name, world, runs[name])
    SCRIPTS[name][1].main([*flags, "--save_logits"])
    logits = path.with_name(path.stem.replace("results", "logits") + ".npz")
    one = path.read_bytes(), logits.read_bytes()
    path.unlink()
    logits.unlink()
    run_script(f"inf_{name}.py", *flags, "--save_logits", launcher=TORCHRUN)
    assert (path.read_bytes(), logits.read_bytes()) == one


@pytest.mark.parametrize("name", TASKS | MORE)
def test_scores_of_the_file_are_those_of_the_run(world, runs, tmp_path, name):
    """The last weights, scored by the training script and by a separate evaluator of the written file."""
    last = str(max(epochs(runs["re"]))) if name == "re" else "12"
    flags, path = inference(name, world, runs[name], tmp_path)
    which = {"nlvr2": ["--ckpt", last], "itm": []}.get(name, ["--checkpoint", last])
    said = spoken(lambda: SCRIPTS[name][1].main([*flags, *which]))
    path = path.with_name(path.name.replace("best", last))
    found, raw = tmp_path / "scores.json", world / "raw"
    told = [raw / f"{name}.json"] if name != "re" else [raw / "refs(unc).p", raw / "instances.json"]
    told += ["--split", "val"] if name == "itm" else []
    if name == "vqa":
        eval_vqa.main([str(path), *map(str, told), "--json", str(found)])
        scores = {"accuracy": json.loads(found.read_text())["overall"] / 100}
    else:
        evaluate.main([name, *map(str, [path, *told]), "--json", str(found)])
        scores = json.loads(found.read_text())
    records = kill_test.metrics(runs[name])
    step = int(last) if name != "re" else int(last) * min(r["step"] for r in records if "val/acc" in r)
    (record,) = (r for r in records if f"val/{SCORE[name]}" in r and r["step"] == step)
    same = {"vcr": ("acc_qa", "acc_qar", "acc"), "itm": ("img_r1", "img_r10", "txt_r1", "txt_r5")}.get(name, ())
    assert scores["accuracy" if not same else same[0]] == pytest.approx(record[f"val/{SCORE[name]}"], abs=1e-12)
    assert all(scores[key] == pytest.approx(record[f"val/{key}"], abs=1e-12) for key in same)
    for key in same or (SCORE[name],):  # and so says the inference script itself
        assert f"{key} {record[f'val/{key}']:.4f}" in said.replace(" = ", " ")
    if name == "nlvr2":
        assert scores["consistency"] == pytest.approx(record["val/consistency"], abs=1e-12)
        official = run_script("scripts/eval_nlvr2.py", path, *told).stdout
        assert f"accuracy={record['val/acc']}" in official


SCORE = {"vqa": "score", "nlvr2": "acc", "ve": "acc", "re": "acc", "vcr": "acc_qa", "itm": "img_r1"}


def spoken(run):
    """What `run` logs."""
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logger = logging.getLogger("uniter")
    logger.addHandler(handler)
    run()
    logger.removeHandler(handler)
    return heard.getvalue()


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_inference_with_weights_that_lack_the_head_or_of_other_depth(world, runs, tmp_path, name):
    (file,) = (runs[name] / "ckpt").glob("model_*_best.pt")
    state = torch.load(file, weights_only=True)
    body = {key: value for key, value in state.items() if key.startswith("uniter.")}
    deep = {key.replace("layer.1", "layer.2"): value for key, value in state.items() if "encoder.layer.1" in key}
    head = {"ve": "vqa_output", "itm": "itm_output"}.get(name, f"{name}_output")
    missing_head = rf"lacks weights of the model[\s\S]*without [\s\S]*{head if name != 'nlvr2' else 'attn1'}"
    for weights, words in ((body, missing_head), (state | deep, "its encoder: 3 layers")):
        torch.save(weights, tmp_path / "weights.pt")
        flags, path = inference(name, world, runs[name], tmp_path / "out" if name in ("itm", "nlvr2") else None)
        path = path.with_name(path.name.replace("best", "weights"))
        with pytest.raises(InputError, match=words):
            SCRIPTS[name][1].main([*flags, "--checkpoint", str(tmp_path / "weights.pt")])
        assert not path.exists()


@pytest.mark.parametrize("name", ["nlvr2", "ve", "re", "vcr", "vqa"])
def test_weights_that_are_not_finite_leave_no_file(world, runs, tmp_path, name):
    saves = "epoch" if name == "re" else "step"
    weights = torch.load(runs[name] / "ckpt" / f"model_{saves}_best.pt", weights_only=True)
    broken = max(key for key in weights if not key.startswith("uniter"))  # a bias of the head
    torch.save(weights | {broken: torch.full_like(weights[broken], torch.nan)}, tmp_path / "nan.pt")
    flags, path = inference(name, world, runs[name], tmp_path)
    before = set(path.parent.glob("*"))
    with pytest.raises(InputError, match="not finite"):
        SCRIPTS[name][1].main([*flags, "--save_logits", "--checkpoint", str(tmp_path / "nan.pt")])
    assert {file for file in path.parent.glob("*") if file != tmp_path / "nan.pt"} <= before | {tmp_path / "nan.pt"}


@pytest.mark.parametrize("name", TASKS | MORE)
def test_the_ensemble_of_a_run_with_itself_is_the_run(world, runs, tmp_path, name):
    flags, path = inference(name, world, runs[name], tmp_path)
    SCRIPTS[name][1].main([*flags, "--save_logits"])
    logits = path if name == "itm" else path.with_name(path.stem.replace("results", "logits") + ".npz")
    output = tmp_path / f"ensemble{path.suffix}"
    answers = ["--ans2label", str(runs[name] / "ckpt" / "ans2label.json")] if name == "vqa" else []
    ensemble.main(["--task", name, "--logits", str(logits), str(logits), "--output", str(output), *answers])
    if name in ("vcr", "itm"):  # probabilities are written: in each four, and in each row, the same is best
        read = (lambda file: np.load(file)["scores"]) if name == "itm" else (lambda file: list(read_vcr(file).values()))
        width = -1 if name == "itm" else 4
        ours, theirs = (np.array(read(file)) for file in (output, path))
        best = [scores.reshape(-1, scores.shape[1] if width < 0 else width).argmax(1) for scores in (ours, theirs)]
        assert (best[0] == best[1]).all()
    else:
        assert output.read_bytes() == path.read_bytes()


def epochs(run):
    return [int(p.stem.split("_")[-1]) for p in (run / "ckpt").glob("model_epoch_*.pt") if p.stem[-1].isdigit()]


def test_files_of_a_referring_run(runs):
    """Numbered by epochs, the last with its step, as the release leaves them."""
    names = {path.name for path in (runs["re"] / "ckpt").glob("model_*")}
    assert {"model_epoch_1.pt", "model_epoch_best.pt", "model_epoch_12_final.pt"} <= names
    assert not any(name.startswith("model_step") for name in names)


@pytest.mark.parametrize("name", ["vqa", "vcr"])
def test_an_unlabelled_test_split_is_left_out(world, tmp_path, monkeypatch, name):
    kind, read = (VcrData, VcrData.has_labels) if name == "vcr" else (TextImage, TextImage.has_labels)
    hidden = property(lambda data: not str(data.texts.path).endswith("hidden.db") and read.fget(data))
    monkeypatch.setattr(kind, "has_labels", hidden)
    made = MORE[name] | {"num_train_steps": 2, "valid_steps": 2}
    shutil.copytree(world / made["val_txt_db"], world / f"txt_db/{name}_hidden.db")
    made |= {"test_txt_db": f"txt_db/{name}_hidden.db", "test_img_db": made["val_img_db"]}
    scores = SCRIPTS[name][0].main(["--config", str(options(world, tmp_path / "run", **made))])
    assert scores and all(key.startswith("val/") for key in scores)
    if name == "vqa":
        flags = ["--txt_db", world / "txt_db/vqa_hidden.db", "--img_db", world / "img_db/tiny", "--n_workers", "0"]
        said = spoken(lambda: inf_vqa.main([*map(str, flags), "--output_dir", str(tmp_path / "run")]))
        assert "60 predictions" in said and "score" not in said


def test_unlabelled_test_stores_are_not_scored(runs):
    for name in ("nlvr2", "ve"):
        keys = {key for record in kill_test.metrics(runs[name]) for key in record}
        assert any(key.startswith("val/acc") for key in keys) and not any(key.startswith("test/") for key in keys)


@pytest.mark.parametrize("name", ["nlvr2", "ve"])
def test_a_store_without_labels_is_not_trained_on(world, tmp_path, name):
    made = TASKS[name] | {"train_txt_db": f"txt_db/{name}_test.db"}
    with pytest.raises(InputError, match=rf"{name}_test.db\n.*target"):
        SCRIPTS[name][0].main(["--config", str(options(world, tmp_path / "run", **made))])


def test_without_validation_the_newest_weights_are_the_best(world, tmp_path):
    made = TASKS["nlvr2"] | {f"{split}_{kind}_db": None for split in ("val", "test") for kind in ("txt", "img")}
    train_nlvr2.main(["--config", str(options(world, tmp_path / "run", **made))])
    first, last, best = (
        torch.load(tmp_path / "run" / "ckpt" / f"model_step_{k}.pt", weights_only=True) for k in (4, 12, "best")
    )
    assert all(torch.equal(best[key], last[key]) for key in best)
    assert any(not torch.equal(best[key], first[key]) for key in best)


@pytest.mark.parametrize("name", ["vqa", "vcr", "re"])
def test_a_labelled_test_split_is_scored_at_the_end(world, tmp_path, name):
    """Here it is the validation split, so its scores are that one's."""
    made = (TASKS | MORE)[name] | {"num_train_steps": 2, "valid_steps": 0 if name == "re" else 2}
    made |= {f"test_{kind}_db": made[f"val_{kind}_db"] for kind in ("txt", "img")}
    scores = SCRIPTS[name][0].main(["--config", str(options(world, tmp_path / "run", **made))])
    record = kill_test.metrics(tmp_path / "run")[-1]
    tested = {key: value for key, value in scores.items() if key.startswith("test/")}
    assert record["final"] and tested and all(record[key] == value for key, value in tested.items())
    assert all(value == scores[key.replace("test/", "val/")] for key, value in tested.items())


def test_a_run_resumed_with_validation_has_a_best(world, tmp_path):
    unseen = {f"{split}_{kind}_db": None for split in ("val", "test") for kind in ("txt", "img")}
    train_nlvr2.main(["--config", str(options(world, tmp_path / "run", **TASKS["nlvr2"] | unseen))])
    longer = options(world, tmp_path / "run", **TASKS["nlvr2"] | {"num_train_steps": 16})
    scores = train_nlvr2.main(["--config", str(longer), "--resume"])
    best = kill_test.newest(tmp_path / "run", "train_state")["best"]
    assert best == (scores["val/acc"], 16)


def test_ids_of_another_form_have_no_consistency(world):
    config, _ = parse(train_nlvr2.Nlvr2Config, ["--config", str(options(world, world / "ids", **TASKS["nlvr2"]))])
    task = train_nlvr2.Nlvr2Task(config)
    predictions = {"logits": np.eye(2, dtype=np.float32), "labels": np.array([0, 0])}
    for ids, known in ((["dev-0-0-0", "dev-0-1-0"], True), (["dev-0-0-0", "mine"], False)):
        scores = task.score(predictions | {"ids": np.array(ids)}, None)
        assert scores["acc"] == 0.5 and ("consistency" in scores) == known


def test_what_boxes_are_may_be_said(world, tmp_path):
    """Stores whose names say nothing: the options do; training on detected boxes is refused."""
    for kind in ("gt", "det"):
        shutil.copytree(world / f"img_db/re_coco_{kind}", world / f"img_db/boxes_{kind}", dirs_exist_ok=True)
    made = TASKS["re"] | {"train_img_db": "img_db/boxes_gt", "val_img_db": "img_db/boxes_gt", "num_train_steps": 2}
    with pytest.raises(InputError, match="train_boxes"):
        train_re.main(["--config", str(options(world, tmp_path / "none", **made))])
    said = {"train_boxes": "gt", "val_boxes": "gt", "test_boxes": "detected"}
    tested = {"test_txt_db": made["val_txt_db"], "test_img_db": "img_db/boxes_det"}
    scores = train_re.main(["--config", str(options(world, tmp_path / "run", **made | said | tested))])
    assert scores["val/upper_bound"] == 1.0 > scores["test/upper_bound"]
    flags = [
        "--txt_db",
        str(world / "txt_db/refcoco_val.db"),
        "--output_dir",
        str(tmp_path / "run"),
        "--n_workers",
        "0",
    ]
    for kind, boxes, said in (("gt", "gt", "gt"), ("det", "detected", "det")):
        where = ["--img_db", world / f"img_db/boxes_{kind}", "--tmp_file", tmp_path / kind]
        inf_re.main([*map(str, [*flags, *where]), "--boxes", boxes])
        assert f"val-acc({said})" in (tmp_path / kind).read_text()


@pytest.mark.parametrize("name", TASKS | MORE)
def test_inference_needs_no_option_of_training(world, runs, tmp_path, name):
    """Whatever their values in log/hps.json are, the predictions are the same."""
    flags, path = inference(name, world, runs[name], tmp_path)
    SCRIPTS[name][1].main(flags)
    before = path.read_bytes()
    hps = json.loads((runs[name] / "log" / "hps.json").read_text())
    needed = {"conf_th", "max_bb", "min_bb", "num_bb", "blind", "val_batch_size"}
    needed |= {"model", "use_img_type", "mlp", "regions", "ans2label"}
    copy = tmp_path / "copy"
    for folder in ("log", "ckpt"):
        shutil.copytree(runs[name] / folder, copy / folder)
    wrong = {key: value if key in needed else {"wrong": key} for key, value in hps.items()}
    (copy / "log" / "hps.json").write_text(json.dumps(wrong))
    flags = [flag.replace(str(runs[name]), str(copy)) for flag in flags]
    path = Path(str(path).replace(str(runs[name]), str(copy)))
    path.unlink(missing_ok=True)
    text = spoken(lambda: SCRIPTS[name][1].main(flags))
    assert path.read_bytes() == before
    assert "hps.json: ignored, because inference does not need them: wrong values of" in text
    assert "optim {'wrong': 'optim'}" in text
    wrong["conf_th"] = "high"
    (copy / "log" / "hps.json").write_text(json.dumps(wrong))
    with pytest.raises(InputError, match=r"hps\.json[\s\S]*conf_th"):
        SCRIPTS[name][1].main(flags)


def test_options_that_a_folder_lacks_are_said(world, runs, tmp_path):
    shutil.copytree(runs["nlvr2"], tmp_path / "run")
    hps = json.loads((tmp_path / "run" / "log" / "hps.json").read_text())
    del hps["use_img_type"], hps["optim"], hps["num_bb"]  # training reads the second, conf_th -1 the third
    (tmp_path / "run" / "log" / "hps.json").write_text(json.dumps(hps))
    flags, _ = inference("nlvr2", world, tmp_path / "run", tmp_path / "out")
    text = spoken(lambda: inf_nlvr2.main(flags))
    assert "hps.json: options that it lacks have their defaults: use_img_type False\n" in text


def test_weights_of_a_run_by_a_part_of_their_name(world, runs, tmp_path):
    shutil.copytree(runs["re"] / "ckpt", tmp_path / "ckpt")
    shutil.copytree(runs["re"] / "log", tmp_path / "log")
    shutil.copy(tmp_path / "ckpt/model_epoch_best.pt", tmp_path / "ckpt/model_epoch_best.v2.pt")
    flags, path = inference("re", world, tmp_path)
    for name, file in (("12_final", "model_epoch_12_final.pt"), ("best.v2", "model_epoch_best.pt")):
        inf_re.main([*flags, "--checkpoint", name])
        by_name = path.with_name(path.name.replace("best", name)).read_bytes()
        inf_re.main([*flags, "--checkpoint", str(tmp_path / "ckpt" / file)])
        assert path.with_name(path.name.replace("best", Path(file).stem)).read_bytes() == by_name
    for name in ("last", "model_epoch_1.pt", "99", "x" * 300):
        with pytest.raises(InputError) as error:
            inf_re.main([*flags, "--checkpoint", name])
        for part in (str(tmp_path / "ckpt"), f"{name}; the run has 1, 2", "12_final, best, best.v2"):
            assert part in str(error.value)
    with pytest.raises(InputError, match=r"absent/w\.pt[\s\S]*the run has 1, 2"):
        inf_re.main([*flags, "--checkpoint", "absent/w.pt"])


@pytest.mark.parametrize("model, theirs", [("paired", "nlvr2"), ("triplet", "nlvr2")])
def test_weights_are_not_scored_by_a_smaller_model(world, runs, tmp_path, model, theirs):
    shutil.copytree(runs[theirs], tmp_path / "run")
    hps = json.loads((tmp_path / "run" / "log" / "hps.json").read_text())
    (tmp_path / "run" / "log" / "hps.json").write_text(json.dumps(hps | {"model": model}))
    flags, path = inference("nlvr2", world, tmp_path / "run", tmp_path / "out")
    with pytest.raises(InputError, match=r"attn1|nlvr2_output"):
        inf_nlvr2.main(flags)
    assert not path.exists()


def test_retrieval_with_options_of_finetuning_says_that_it_is_zero_shot(world, runs, tmp_path):
    weights = torch.load(runs["itm"] / "ckpt" / "model_step_12.pt", weights_only=True)
    torch.save({key: weights[key] for key in weights if "rank" not in key}, tmp_path / "pretrained.pt")
    flags, _ = inference("itm", world, runs["itm"], tmp_path / "out")
    assert "zero-shot" not in spoken(lambda: inf_itm.main(flags))
    text = spoken(lambda: inf_itm.main([*flags, "--checkpoint", str(tmp_path / "pretrained.pt")]))
    assert "pretrained.pt has no rank head, so the scores are zero-shot" in text and "model_step_best.pt" in text


def test_retrieval_finds_the_weights_of_the_run_of_its_options(world, runs, tmp_path):
    flags, path = inference("itm", world, runs["itm"], tmp_path / "out")
    inf_itm.main(flags)
    by_path = path.read_bytes()
    inf_itm.main([*flags, "--checkpoint", "12"])
    assert path.read_bytes() == by_path
    with pytest.raises(InputError, match=r"checkpoint[\s\S]*last; the run has 4, 8, 12, best"):
        inf_itm.main([*flags, "--checkpoint", "last", "--output_dir", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("flag", ["--ckpt", "--checkpoint"])
def test_an_empty_name_of_weights_is_refused(world, runs, tmp_path, flag):
    flags, path = inference("nlvr2", world, runs["nlvr2"], tmp_path)
    with pytest.raises(InputError, match=rf"empty text[\s\S]*key: +{flag[2:]}\n"):
        inf_nlvr2.main([*flags, flag, ""])
    assert not path.exists()


def test_both_names_of_the_flag_for_weights(world, runs, tmp_path):
    flags, _ = inference("nlvr2", world, runs["nlvr2"], tmp_path)
    logits = []
    for which in (["--ckpt", "4"], ["--checkpoint", "4"], ["--ckpt", "best"], []):
        inf_nlvr2.main([*flags, "--save_logits", *which])
        logits.append((tmp_path / "logits.npz").read_bytes())
    assert logits[0] == logits[1] and logits[2] == logits[3]
    inf_nlvr2.main([*flags, "--save_logits", "--checkpoint", "12"])
    assert (tmp_path / "logits.npz").read_bytes() != logits[0]
    with pytest.raises(InputError, match="ckpt, checkpoint"):
        inf_nlvr2.main([*flags, "--ckpt", "4", "--checkpoint", "best"])


OLD = {
    "re": {"re_coco_gt": "npz_gt"},
    "vcr": {"vcr_gt": "npz", "tiny": "npz"},
}  # image stores, and of which npz


def make_a_release_run(run, name, half):
    """Of a run of ours, its weights those of step 500 or the best epoch: what the release leaves, and no more."""
    hps = json.loads((run / "log" / "hps.json").read_text())
    ours = {key for key in hps if key.startswith(("mine_", "mined_")) or key.endswith("_boxes")}.union(OURS)
    kept = {key: value for key, value in hps.items() if key not in ours}
    kept |= {"rank": 0, "n_gpu": 4, "betas": ["0.9", "0.98"], "mask_dir": "x"}
    del kept["pin_mem"]
    (run / "log" / "hps.json").write_text(json.dumps(kept))
    shutil.rmtree(run / "results_test", ignore_errors=True)
    for extra in ("vocab.json", "metrics.jsonl", "git_info.json"):
        (run / "log" / extra).unlink(missing_ok=True)
    saves, number = ("epoch", "best") if name == "re" else ("step", "500")
    weights = torch.load(run / "ckpt" / f"model_{saves}_best.pt", weights_only=True)
    for file in run.glob("ckpt/*.pt"):
        file.unlink()
    cast = {key: value.half() if half else value for key, value in weights.items()}
    torch.save(cast, run / "ckpt" / f"model_{saves}_{number}.pt")


def predicted(name, path):
    """Ids and what was predicted for them, of a results file."""
    if name == "nlvr2":
        return dict(line.split(",") for line in path.read_text().splitlines())
    if name == "itm":
        found = np.load(path)
        return dict(zip(found["txt_ids"].tolist(), found["scores"].tolist()))
    found = json.loads(path.read_text())
    keys = {"re": ("sent_id", "pred_box"), "vqa": ("question_id", "answer")}.get(name, ("id", "label"))
    return found if name == "vcr" else {str(row[keys[0]]): row[keys[1]] for row in found}


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", TASKS | MORE)
def test_a_folder_of_the_release(tmp_path, name, half):
    """Its options alone, unknown keys; other special ids, texts longer than in training, compressed pictures by old
    numpy, in other numbers than counted: complete, in the store's order, and what the run itself predicts."""
    world = make_tasks(tmp_path / "world", ("[MASK]", "[unused9]", "[UNK]", "[SEP]", "[unused8]", "[PAD]", "[CLS]"))
    run, old = tmp_path / "run", world / "old"
    changes = (TASKS | MORE)[name] | {"num_train_steps": 2, "valid_steps": 0 if name == "re" else 2}
    changes["max_txt_len"] = 27 if name == "vcr" else 4
    SCRIPTS[name][0].main(["--config", str(options(world, run, **changes))])
    for store, npz in OLD.get(name, {"tiny": "npz"}).items():
        variant = ["--conf_th", "-1", "--num_bb", "100"] if store.endswith("_gt") else []
        make_old(world / npz, old / store, *variant)
    flags, path = inference(name, world, run)
    flags = [flag.replace(str(world / "img_db"), str(old)) for flag in flags] + ["--compressed_db"]
    which = "--ckpt" if name == "nlvr2" else "--checkpoint"
    folder = run / "ckpt" if name == "itm" else Path()  # elsewhere a step is enough
    names = [str(folder / ("model_step_{}.pt" if name == "itm" else "{}")).format(step) for step in ("best", "500")]
    found = []
    for weights in names[: 1 if name == "re" else 2]:
        if weights == names[-1]:
            make_a_release_run(run, name, half)
        SCRIPTS[name][1].main([*flags, which, weights])
        found.append(predicted(name, path.with_name(path.name.replace("best", Path(weights).stem))))
    if name == "re":
        make_a_release_run(run, name, half)
        SCRIPTS[name][1].main([*flags, which, "best"])
        found.append(predicted(name, path))
    own = {"re": "refcoco_val.db/id2len.json", "vcr": "vcr.db/id2len_qar.json", "vqa": "vqa_raw.db/id2len.json"}
    lengths = own.get(name, f"{name}.db/id2len.json")
    texts = list(json.loads((world / "txt_db" / lengths).read_text()))
    assert list(found[0]) == list(found[1]) == texts
    assert half or found[0] == found[1]
    same = [found[0][text] == found[1][text] for text in texts] if name in (*TASKS, "vqa") else []
    assert not same or np.mean(same) > 0.7  # half-precision weights: nearly all


def test_epochs_of_another_length_are_not_resumed(world, tmp_path):
    made = TASKS["re"] | {"num_train_steps": 4, "valid_steps": 2}
    train_re.main(["--config", str(options(world, tmp_path / "run", **made))])
    for steps in (3, 4, 8):  # weights of that number are there, or not
        longer = options(world, tmp_path / "run", **made | {"num_train_steps": 8, "valid_steps": steps})
        with pytest.raises(InputError, match=f"{steps} steps an epoch"):
            train_re.main(["--config", str(longer), "--resume"])


def test_another_task_s_run_is_not_resumed(world, runs, tmp_path):
    shutil.copytree(runs["ve"], tmp_path / "run")
    with pytest.raises(InputError, match=r"another model[\s\S]*without \d+ weights: attn1"):
        train_nlvr2.main(["--config", str(options(world, tmp_path / "run", **TASKS["nlvr2"])), "--resume"])
    kept = [(run / "log" / "hps.json").read_bytes() for run in (tmp_path / "run", runs["ve"])]
    assert kept[0] == kept[1]


def test_detected_boxes_and_several_splits(world, runs, tmp_path):
    said = tmp_path / "said.txt"
    both = f"{world / 'txt_db/refcoco_val.db'}:{world / 'txt_db/refcoco_val.db'}"
    flags = ["--txt_db", both, "--img_db", str(world / "img_db/re_coco_det"), "--output_dir", str(runs["re"])]
    paths = inf_re.main([*flags, "--n_workers", "0", "--tmp_file", str(said)])
    found = json.loads(paths[0].read_text())
    right = np.mean([iou(row["pred_box"], row["tgt_box"]) > 0.5 for row in found])
    assert said.read_text() == f"val-acc(det): {100 * right:.2f}% " * 2 + "\n"


def iou(a, b):
    """The convention of published numbers, written out once more."""
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[0] + a[2] - 1, b[0] + b[2] - 1), min(a[1] + a[3] - 1, b[1] + b[3] - 1)
    inter = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


@pytest.mark.parametrize("changes", [{"model": "triplet"}, {"model": "paired", "use_img_type": False}, {"blind": True}])
def test_nlvr2_options_run(world, tmp_path, changes):
    made = TASKS["nlvr2"] | {"num_train_steps": 2, "valid_steps": 2} | changes
    scores = train_nlvr2.main(["--config", str(options(world, tmp_path / "run", **made))])
    assert 0 <= scores["val/consistency"] <= scores["val/acc"] <= 1


@pytest.mark.parametrize("changes", [{"train_loss": "rank", "hard_ratio": 0.5}, {"blind": True}, {"mlp": 1}])
def test_re_options_run(world, tmp_path, changes):
    made = TASKS["re"] | {"num_train_steps": 4} | changes
    scores = train_re.main(["--config", str(options(world, tmp_path / "run", **made))])
    assert scores["val/upper_bound"] == 1.0 >= scores["val/acc"]


@pytest.mark.slow
def test_referring_expressions_are_shuffled_and_learned(world, tmp_path):
    """A region's class is its expression's word: learned well above chance, a blind model not."""
    made = TASKS["re"] | {"num_train_steps": 240, "valid_steps": 120, "learning_rate": 3e-3, "dropout": 0.0}
    seeing = train_re.main(["--config", str(options(world, tmp_path / "see", **made))])
    blind = train_re.main(["--config", str(options(world, tmp_path / "blind", **made, blind=True))])
    assert seeing["val/acc"] > 0.8 > 0.5 > blind["val/acc"]


def test_a_checkpoint_of_two_types_grows(world, tmp_path):
    """From weights with two token types: the third starts as a copy of the picture's."""
    from model.uniter import UniterConfig, UniterModel
    from train_nlvr2 import Nlvr2Config, Nlvr2Task

    body = {f"uniter.{key}": value for key, value in UniterModel(UniterConfig(**MODEL)).state_dict().items()}
    torch.save(body, tmp_path / "pretrained.pt")
    made = TASKS["nlvr2"] | {"checkpoint": str(tmp_path / "pretrained.pt")}
    config, _ = parse(Nlvr2Config, ["--config", str(options(world, tmp_path / "run", **made))])
    types = Nlvr2Task(config).build_model().uniter.embeddings.token_type_embeddings.weight
    assert types.shape[0] == 3 and torch.equal(types[2], types[1])
