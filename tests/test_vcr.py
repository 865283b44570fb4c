"""VCR: its datasets against the reference, finetuning, the second stage of pre-training, inference."""

import csv
import json
import random
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import inf_vcr
import pretrain
import pretrain_vcr
import train_vcr
from data.batch import collate
from data.img_store import ImageStore
from data.rng import generator
from data.txt_store import TextStore
from data.txt_writer import TextWriter
from data.vcr import Vcr, region_folders
from data.vcr_pretrain import VcrPretraining
from evaluation.metrics import vcr_accuracies
from evaluation.submission import VCR_COLUMNS
from model.pretrain import UniterForPretraining
from model.uniter import UniterConfig
from optim.precision import Precision
from optim.predict import Predictor
from scripts import kill_test
from tests.golden_data import CLS, GOLDEN, MASK, SEP, arrays
from tests.tiny_tasks_vcr import LONG, OTHER_META, RIGHT, images, make_vcr_world, second_stage_options, vcr_options
from tests.tiny_world import META, MODEL, ROOT, TORCHRUN, VOCAB, run_script
from train_vcr import VcrConfig, VcrTask
from utils import checkpoint, distributed
from utils.config import parse
from utils.errors import InputError

SEQUENCES = {"answers": 4, "rationales": 4, "both": 8, "all": 20}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_vcr_world(tmp_path_factory.mktemp("vcr"))


@pytest.fixture(scope="module")
def trained(world):
    """A finished run from scratch, never killed."""
    output = world / "trained"
    scores = train_vcr.main(["--config", str(vcr_options(world, output))])
    return output, scores


def opened(world, split="val", lengths="id2len_qar.json"):
    texts = TextStore(world / "txt_db" / f"vcr_{split}.db", lengths=lengths)
    gt = ImageStore(world / "img_db" / "vcr_gt_tiny", conf_th=-1, num_bb=100)
    return texts, gt, ImageStore(world / "img_db" / "vcr_tiny", min_bb=2)


def made(data, rows=None):
    """The examples of a dataset as one batch."""
    pairs = data.pairs(np.random.default_rng(0).random((len(data), 3)))
    chosen = pairs[: len(data) if rows is None else rows]
    return pairs, collate(data.task, [data.example(pair, generator(*pair)) for pair in chosen.tolist()], data.img_dim)


# Datasets against the reference.


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The reference's stores, copied: opening one writes an index beside it."""
    folder = tmp_path_factory.mktemp("reference")
    shutil.copytree(GOLDEN / "data_formats" / "txt_db" / "vcr_like.db", folder / "vcr_like.db")
    shutil.copytree(GOLDEN / "data_formats" / "img_db" / "nlvr2_dev", folder / "nlvr2_dev")
    return folder


@pytest.mark.parametrize(
    ("choices", "name"), [("answers", "qa"), ("rationales", "qar"), ("both", "eval_val"), ("all", "eval_test")]
)
def test_sequences_are_the_references(reference, choices, name):
    golden = arrays(f"data_formats/expected/datasets/vcr_{name}.npz")
    store = ImageStore(reference / "nlvr2_dev")  # the reference reads both pictures of an example from one store
    texts = TextStore(
        reference / "vcr_like.db", lengths="id2len_qa.json" if choices == "answers" else "id2len_qar.json"
    )
    data = Vcr(texts, store, store, choices)
    pairs, batch = made(data, rows=3)
    assert len(batch.group) == 3 * SEQUENCES[choices] == len(golden["input_ids"])
    tokens, regions = batch.txt_lens.tolist(), (batch.seqlens - batch.txt_lens).tolist()
    assert [t + r for t, r in zip(tokens, regions)] == golden["attn_masks"].sum(1).tolist()
    for name, ours in (("input_ids", batch.input_ids), ("txt_type_ids", batch.txt_type_ids)):
        for mine, theirs in zip(ours.split(tokens), golden[name]):
            assert mine.tolist() == theirs[: len(mine)].tolist() and not theirs[len(mine) :].any()
    for name, ours in (("img_feat", batch.img_feat), ("img_pos_feat", batch.img_pos_feat)):
        for mine, theirs in zip(ours[batch.img_row].float().split(regions), golden[name]):
            np.testing.assert_allclose(mine, theirs[: len(mine)], rtol=1e-6)
    assert (batch.img_type_ids == 1).all()
    if choices in ("answers", "rationales"):
        assert batch.targets["labels"].tolist() == golden["targets"][:, 0].tolist()
        assert data.lens(pairs).tolist() == golden["lens"].tolist()
    else:
        assert batch.ids == golden["qids"].tolist()
        for target in ("qa_target", "qar_target"):
            assert batch.targets[target].tolist() == golden[f"{target}s"][:, 0].tolist()


class Regions:
    """Part of each of the reference's pictures, as a store: `gt` has its first region, else the others."""

    img_dim = 24

    def __init__(self, gt: bool):
        self.raw, self.folder = arrays("pretraining_vcr/examples.npz"), f"images_{gt}"
        self.part = slice(0, 1) if gt else slice(1, None)
        self.n_announced = np.array([len(self.raw[f"img_feat.{i}"][self.part]) for i in range(3)])

    def rows(self, names):
        return np.array([int(name[0:1]) for name in names], np.int32)

    def read(self, row, soft_labels=False):
        names = "img_feat", "img_pos_feat", "soft_label"
        feat, pos, labels = (self.raw[f"{name}.{row}"][self.part] for name in names)
        return SimpleNamespace(features=feat, pos=pos, soft_labels=labels if soft_labels else None)


@pytest.fixture(scope="module")
def second_stage_texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "vcr.db"
    with TextWriter(path, {"CLS": CLS, "SEP": SEP, "MASK": MASK, "v_range": [10, 200]}) as writer:
        for i, record in enumerate(json.loads((GOLDEN / "pretraining_vcr" / "examples.json").read_text())):
            writer.add(f"val-{i}", record | {"img_fname": [f"{i}g", f"{i}d"]})
    return path


@pytest.mark.parametrize("part", ["qa", "qar"])
@pytest.mark.parametrize("task", ["mlm", "mrfr", "mrc", "mrckl"])
def test_second_stage_is_the_references_given_its_masks(second_stage_texts, monkeypatch, task, part):
    golden = json.loads((GOLDEN / "pretraining_vcr" / "text_io.json").read_text())
    whole, raw = golden[f"nomask_{part}"], arrays("pretraining_vcr/examples.npz")
    texts = TextStore(second_stage_texts, lengths=f"id2len_{part}.json")
    data = VcrPretraining(texts, Regions(gt=True), Regions(gt=False), part=part, task=task)
    for i, expected in enumerate(golden[f"mlm_{part}"] if task == "mlm" else whole):
        labels = np.array(expected.get("txt_labels", []))
        ends = np.flatnonzero(np.array(whole[i]["input_ids"]) == SEP)
        spans = iter([slice(start + 1, stop) for start, stop in zip([0, *ends], ends)])

        def masks(tokens, *rest, spans=spans, expected=expected, labels=labels):
            span = next(spans)  # one part after the other
            return np.array(expected["input_ids"][span]), np.flatnonzero(labels[span] >= 0)

        monkeypatch.setattr("data.vcr_pretrain.mask_words", masks)
        monkeypatch.setattr("data.vcr_pretrain.mask_regions", lambda n, rng, p, i=i: raw[f"img_mask.{i}"])
        seq = data.example([i, i, i], generator(0)).seqs[0]
        assert seq.input_ids.tolist() == expected["input_ids"]
        assert seq.txt_type_ids.tolist() == expected["txt_type_ids"]
        np.testing.assert_array_equal(seq.images[0].feat, raw[f"img_feat.{i}"])
        if task == "mlm":
            assert seq.unit_targets["mlm_index"].tolist() == np.flatnonzero(labels >= 0).tolist()
            assert seq.targets["mlm_labels"].tolist() == labels[labels >= 0].tolist()
            continue
        masked = np.flatnonzero(raw[f"img_mask.{i}"])
        assert seq.unit_targets["mrm_index"].tolist() == (len(seq.input_ids) + masked).tolist()
        if task == "mrfr":
            assert seq.region_targets["mrm_row"].tolist() == masked.tolist()
        else:
            np.testing.assert_array_equal(seq.targets["soft_labels"], raw[f"soft_label.{i}"][masked])


# Datasets on the tiny world.


@pytest.mark.parametrize("choices", list(SEQUENCES))
def test_release_counts_one_sequence_and_full_all(world, choices):
    lengths = "id2len_qa.json" if choices == "answers" else "id2len_qar.json"
    data = Vcr(*opened(world, lengths=lengths), choices)
    pairs, batch = made(data)
    marks = 3 if choices == "answers" else 4
    there = np.bincount(batch.group.numpy(), batch.seqlens.numpy())
    assert (data.units(pairs) >= there).all()
    gt, detected = data.image_stores
    regions = (
        gt.n_stored[pairs[:, 1]] + detected.n_announced[pairs[:, 2]]
    )  # of ground truth what is there, not the hundred
    assert (data.units(pairs) == SEQUENCES[choices] * (data.texts.lens + regions + marks)).all()
    assert (data.lens(pairs) == data.texts.lens + 100 + detected.n_announced[pairs[:, 2]]).all()
    assert (data.batch_unit == "units") == (choices in ("answers", "rationales"))
    held = {detected.name(row): len(detected.read(row).features) for row in range(len(detected))}
    assert held["vcr_1.npz"] == 2 and held["vcr_0.npz"] < 9  # more, and fewer, than announced
    assert {gt.name(row).removeprefix("vcr_gt_") for row in pairs[:, 1]} == {f"{i}.npz" for i in range(12)}


def test_pictures_are_those_that_the_text_names(world):
    data = Vcr(*opened(world), "both")
    for text, gt, detected in data.pairs(np.zeros((len(data), 3))).tolist():
        assert data.texts.read(text)["img_fname"] == [
            data.image_stores[0].name(gt),
            data.image_stores[1].name(detected),
        ]
    texts, gt, detected = opened(world)
    for column, stores in enumerate(((texts, gt, None), (texts, None, detected))):
        alone = Vcr(*stores, "both")
        pairs, batch = made(alone)
        assert (pairs[:, 2 - column] == -1).all() and (pairs[:, 1 + column] == data.pictures[:, column]).all()
        assert batch.img_feat.shape[1] == alone.img_dim == 2048
        sizes = np.bincount(batch.group.numpy(), (batch.seqlens - batch.txt_lens).numpy()) / 8
        assert sizes.tolist() == [len(alone.images(pair)[0].feat) for pair in pairs[:, 1:].tolist()]


def test_both_kinds_of_boxes_may_lie_in_one_folder(world, tmp_path):
    """Rows of two stores of one folder are not taken for each other."""
    for name in ("vcr_gt_tiny", "vcr_tiny"):
        shutil.copytree(world / "img_db" / name, tmp_path / "both", dirs_exist_ok=True)
    texts, *apart = opened(world)
    stores = ImageStore(tmp_path / "both", conf_th=-1, num_bb=100), ImageStore(tmp_path / "both", min_bb=2)
    expected, found = (made(Vcr(texts, *both, "both"))[1] for both in (apart, stores))
    assert torch.equal(found.seqlens, expected.seqlens)
    rows, others = (batch.img_feat[batch.img_row] for batch in (found, expected))
    assert torch.equal(rows, others)


@pytest.mark.parametrize("part", ["qa", "qar"])
def test_every_part_has_a_masked_word(world, part):
    data = VcrPretraining(*opened(world, lengths=f"id2len_{part}.json"), part=part, task="mlm")
    kinds = {"qa": (0, 2), "qar": (0, 2, 3)}[part]
    for i in range(len(data)):
        for seed in range(3):
            seq = data.example([i, *data.pictures[i]], generator(seed)).seqs[0]
            places, record = seq.unit_targets["mlm_index"], data.texts.read(i)
            assert {int(kind) for kind in seq.txt_type_ids[places]} == set(kinds)
            said = [record["input_ids"], record["input_ids_as"][record["qa_target"]]]
            said += [record["input_ids_rs"][record["qar_target"]]] if part == "qar" else []
            tokens = [META["CLS"]] + [token for words in said for token in [*words, META["SEP"]]]
            assert seq.targets["mlm_labels"].tolist() == [tokens[place] for place in places]
            replaced = seq.input_ids[places]
            known = (replaced == META["MASK"]) | (replaced == np.array(tokens)[places]) | (replaced < VOCAB)
            assert known.all() and (seq.input_ids[np.setdiff1d(np.arange(len(tokens)), places)] != META["MASK"]).all()


@pytest.mark.parametrize("masking", ["conditional", "joint"])
def test_true_features_are_those_of_the_masked_regions(world, masking):
    data = VcrPretraining(*opened(world), part="qar", task="mrfr", masking=masking)
    _, batch = made(data)
    assert (batch.img_row[batch.img_masks] == batch.targets["mrm_row"]).all()
    assert (batch.img_index[batch.img_masks] == batch.targets["mrm_index"]).all()
    assert ((batch.input_ids == META["MASK"]).any()) == (masking == "joint")


def test_wrong_pictures_are_those_of_another_question(world):
    data = VcrPretraining(*opened(world), part="qar", task="mlm", wrong_picture=True)
    pairs = data.pairs(np.random.default_rng(0).random((len(data), 3)))
    assert (pairs[:, 1:] != data.pictures).all()
    names = [(data.image_stores[0].name(gt), data.image_stores[1].name(detected)) for _, gt, detected in pairs.tolist()]
    assert all(gt.removeprefix("vcr_gt_") == detected.removeprefix("vcr_") for gt, detected in names)
    assert len(set(names)) > 5


@pytest.mark.parametrize(
    ("entry", "regions", "expected"),
    [
        ("a/gt_x;a/x", None, ("a/gt_x", "a/x")),
        ("a/x;a/gt_x", None, ("a/gt_x", "a/x")),  # as in old commands, the name tells
        ("gt/a;gt/b", None, ("gt/a", "gt/b")),  # of the folder, not of the folders above it
        ("a/x;a/gt_x", "both", ("a/x", "a/gt_x")),  # said: the place tells
        ("a/gt_x;a/x", "gt", ("a/gt_x", None)),
        ("a/gt_x;a/x", "detected", (None, "a/x")),
        ("a/gt_x", None, ("a/gt_x", None)),
        ("gt/x", None, (None, "gt/x")),
        ("a/gt_x", "detected", (None, "a/gt_x")),
        ("a/x", "gt", ("a/x", None)),
    ],
)
def test_which_folder_holds_what(entry, regions, expected):
    assert region_folders(entry, regions) == expected


@pytest.mark.parametrize(("entry", "regions"), [("a;b;c", None), ("a/x", "both"), (None, None), ("a;", None)])
def test_no_folders_of_vcr(entry, regions):
    with pytest.raises(InputError, match="GT_DIR;DET_DIR"):
        region_folders(entry, regions)


def broken(world, tmp_path, **changes):
    """The val questions with their first one changed."""
    texts = TextStore(world / "txt_db" / "vcr_val.db")
    with TextWriter(tmp_path / "broken.db", META) as writer:
        writer.add("val-1", texts.read(0) | changes)
    return Vcr(TextStore(tmp_path / "broken.db"), *opened(world)[1:], "both")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qa_target": 4}, "qa_target"),
        ({"qar_target": -1}, "labelled split"),
        ({"input_ids_as": [[11], [11], [11]]}, "four lists"),
        ({"input_ids_rs": [[11], [11], [11], [VOCAB + 81]]}, "outside the vocabulary"),
        ({"img_fname": "vcr_0.npz"}, "2: ground-truth, detected"),
    ],
)
def test_records_that_are_none_of_vcr(world, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        broken(world, tmp_path, **changes).example([0, 0, 0], generator(0))


def test_a_test_split_cannot_be_trained_on(world):
    for choices in ("answers", "rationales", "both"):
        with pytest.raises(InputError, match="labelled split"):
            Vcr(*opened(world, "test"), choices).example([0, 0, 0], generator(0))


# Whole runs.


@pytest.mark.slow
def test_it_learns_and_a_killed_run_resumed_is_the_same(world, trained, tmp_path):
    output, scores = trained
    assert scores["val/acc_qa"] > 0.6 and scores["val/acc_qar"] > 0.6  # 0.25 by chance
    assert scores["val/acc"] <= min(scores["val/acc_qa"], scores["val/acc_qar"])
    killed, rng = tmp_path / "killed", random.Random(0)
    options = vcr_options(world, killed)
    process = subprocess.Popen(
        [sys.executable, "train_vcr.py", "--config", str(options)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert kill_test.kill(process, killed, rng.uniform(0.0, 0.3))  # it was alive
    train_vcr.main(["--config", str(options), "--resume"])
    assert kill_test.compare(output, killed) is None


def test_batches_of_the_release(world, tmp_path):
    """One of four sequences counts: batches hold more than the budget says; the options' own words stay known."""
    options = vcr_options(world, tmp_path / "run", batching="release", num_train_steps=2, train_batch_size=1000)
    train_vcr.main(["--config", str(options)])
    record = kill_test.metrics(tmp_path / "run")[0]
    assert record["examples"] == 2 * 8 and (record["step"], record["skipped_steps"]) == (2, 0)
    assert record["units"] > 2 * 8 * 4 * 12  # all four were made


def inference(world, output, split, checkpoint_name, *flags):
    stores = ["--txt_db", f"{world}/txt_db/vcr_{split}.db", "--img_db", images(world), "--split", split]
    return [*stores, "--output_dir", str(output), "--checkpoint", checkpoint_name, "--n_workers", "0", *flags]


def read_csv(path):
    with open(path) as stream:
        header, *rows = csv.reader(stream)
    return header, {row[0]: np.array(row[1:], float) for row in rows}


@pytest.mark.slow
def test_inference_writes_json_and_csv_whatever_the_ranks(world, trained):
    output, scores = trained
    path = inf_vcr.main(inference(world, output, "val", "60", "--save_logits"))
    assert path == output / "results_val" / "results_60_all.json"
    found, texts = json.loads(path.read_text()), TextStore(world / "txt_db" / "vcr_val.db")
    ids = [texts.id(i) for i in range(len(texts))]
    assert list(found) == ids and ids != sorted(ids) and all(len(row) == 20 for row in found.values())
    header, rows = read_csv(path.with_suffix(".csv"))
    assert header == ["annot_id", *VCR_COLUMNS]
    assert list(rows) == sorted(ids, key=lambda id_: int(id_.split("-")[1]))
    logits = np.load(output / "results_val" / "logits_60_all.npz")
    for id_ in ids:
        np.testing.assert_array_equal(rows[id_].astype(np.float32), np.array(found[id_], np.float32))
        np.testing.assert_array_equal(logits[id_], np.array(found[id_], np.float32))
    targets = {id_: texts.read(i) for i, id_ in enumerate(ids)}
    truth = [np.array([targets[id_][name] for id_ in ids]) for name in ("qa_target", "qar_target")]
    recomputed = vcr_accuracies(np.array([found[id_] for id_ in ids]), *truth)
    assert recomputed == {name: scores[f"val/{name}"] for name in ("acc_qa", "acc_qar", "acc")}
    written = path.read_bytes(), path.with_suffix(".csv").read_bytes()
    path.unlink()
    path.with_suffix(".csv").unlink()
    run_script("inf_vcr.py", *inference(world, output, "val", "60"), launcher=TORCHRUN)
    assert (path.read_bytes(), path.with_suffix(".csv").read_bytes()) == written


def test_8_scores_and_20_say_the_same(world, trained):
    """Q→AR given the right answer is Q→AR given the predicted one (paper A.2); so are both losses."""
    config, _ = parse(VcrConfig, ["--config", str(vcr_options(world, world / "trained"))])
    config.checkpoint = str(trained[0] / "ckpt" / "model_step_30.pt")  # not all right yet
    config.checkpoint_from = "vcr_pretrain"
    task, one = VcrTask(config), distributed.start()
    precision, options = Precision("fp32", False, one.device), {"n_workers": 0, "pin_mem": False}
    predictor = Predictor(task, task.build_model(), batch_size=10, world=one, precision=precision, **options)
    found = {}
    for choices in ("both", "all"):
        data = task.dataset(config.val_txt_db, config.val_img_db, choices=choices)
        predictions = predictor.predict(data)
        assert predictions["logits"].shape == (40, SEQUENCES[choices])
        found[choices] = task.score(predictions, data)
    assert found["both"] == pytest.approx(found["all"], rel=1e-5)
    assert 0 < found["both"]["acc"] < 1
    test = task.dataset(f"{world}/txt_db/vcr_test.db", config.val_img_db, choices="all")
    assert task.score(predictor.predict(test), test) == {}


def test_a_folder_of_the_release(tmp_path):
    """Keys nobody knows and none of ours, fp16 weights, other special ids, a text that training would leave out."""
    world, output = make_vcr_world(tmp_path / "other", OTHER_META), tmp_path / "run"
    train_vcr.main(["--config", str(vcr_options(world, output, num_train_steps=6))])
    inf_vcr.main(inference(world, output, "test", "6"))
    hps = json.loads((output / "log" / "hps.json").read_text())
    for key in ("batching", "accumulation", "precision", "resume", "blind", "regions", "data_root", "num_threads"):
        del hps[key]
    (output / "log" / "hps.json").write_text(json.dumps(hps | {"rank": 0, "n_gpu": 4, "betas": ["0.9", "0.98"]}))
    (output / "log" / "vocab.json").unlink()
    weights = {key: value.half() for key, value in checkpoint.load(output / "ckpt" / "model_step_6.pt").items()}
    torch.save(weights, output / "ckpt" / "model_step_7.pt")
    path = inf_vcr.main(inference(world, output, "test", "7"))
    ours, theirs = (json.loads((path.with_name(f"results_{step}_all.json")).read_text()) for step in (6, 7))
    assert list(ours) == list(theirs) and len(ours) == 40
    for id_, row in ours.items():
        np.testing.assert_allclose(row, theirs[id_], atol=0.05)
    texts = TextStore(world / "txt_db" / "vcr_test.db")
    assert len(texts.read(3)["input_ids"]) == LONG and texts.id(3) in ours
    assert OTHER_META["CLS"] != META["CLS"] and RIGHT not in (OTHER_META[name] for name in ("CLS", "SEP", "MASK"))


@pytest.mark.parametrize("regions", ["gt", "detected"])
def test_region_sources_train_and_are_kept_for_inference(world, tmp_path, regions):
    output = tmp_path / regions
    train_vcr.main(["--config", str(vcr_options(world, output, regions=regions, num_train_steps=2))])
    kept = json.loads(inf_vcr.main(inference(world, output, "test", "2")).read_text())
    both = json.loads(inf_vcr.main(inference(world, output, "test", "2", "--regions", "both")).read_text())
    folder = images(world).split(";")[regions == "detected"]
    flags = inference(world, output, "test", "2")
    flags[flags.index("--img_db") + 1] = folder
    assert json.loads(inf_vcr.main(flags).read_text()) == kept != both


# The second stage.


@pytest.fixture(scope="module")
def first_stage(world):
    """Weights as the first stage leaves them: 2 types, no word of VCR's."""
    torch.manual_seed(0)
    model = UniterForPretraining(UniterConfig(**MODEL))
    with torch.no_grad():
        for parameter in model.parameters():  # nothing as initialised
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = world / "first_stage.pt"
    torch.save(model.state_dict(), path)
    return path


def test_the_second_stage_starts_from_all_of_the_first(world, first_stage, tmp_path):
    options = second_stage_options(world, tmp_path / "second", checkpoint=str(first_stage))
    task = pretrain.Pretraining(parse(pretrain.PretrainConfig, ["--config", str(options)])[0])
    model, given = task.build_model().state_dict(), checkpoint.load(first_stage)
    assert set(model) == set(given)
    for key, value in given.items():
        assert torch.equal(model[key][: len(value)], value), key  # the masked-word head among them
    types = model["uniter.embeddings.token_type_embeddings.weight"]
    assert len(types) == 4 and torch.equal(types[2], types[0]) and torch.equal(types[3], types[0])
    assert len(model["uniter.embeddings.word_embeddings.weight"]) == VOCAB + 81 == len(model["cls.predictions.bias"])


def test_both_stages_then_finetuning(world, first_stage, tmp_path):
    second, run = tmp_path / "second", {}
    options = second_stage_options(world, second, checkpoint=str(first_stage))
    run["pretrain"] = pretrain.main(["--config", str(options)])
    names = {"mlm_vcr", "mrfr_vcr", "mrckl_vcr", "mrc_vcr"}
    assert {name.split("/")[0] for name in run["pretrain"]} == names
    assert all(np.isfinite(value) for value in run["pretrain"].values())
    options = second_stage_options(world, tmp_path / "thin", checkpoint=str(first_stage))
    run["pretrain_vcr"] = pretrain_vcr.main(["--config", str(options)])
    assert run["pretrain"] == run["pretrain_vcr"]
    assert json.loads((second / "log" / "model.json").read_text()) == MODEL  # as given: it grows wherever it is read
    weights = checkpoint.load(second / "ckpt" / "model_step_12.pt")
    assert len(weights["uniter.embeddings.token_type_embeddings.weight"]) == 4
    finetuning = {"num_train_steps": 2, "checkpoint": str(second / "ckpt" / "model_step_12.pt")}
    for stage, contradicts in (("vcr_pretrain", False), ("pretrain", True)):
        output = tmp_path / f"vcr_{stage}"
        train_vcr.main(["--config", str(vcr_options(world, output, checkpoint_from=stage, **finetuning))])
        log = (output / "log" / "log.txt").read_text()
        assert ("checkpoint_from is pretrain, but the shapes in" in log) == contradicts
        assert (output / "ckpt" / "model_step_2.pt").exists()
    start = {"checkpoint": str(first_stage), "num_train_steps": 2}
    train_vcr.main(["--config", str(vcr_options(world, tmp_path / "vcr", **start))])
    log = (tmp_path / "vcr" / "log" / "log.txt").read_text()
    assert "token_type_embeddings.weight: 2 rows became 4" in log and "but the shapes in" not in log


def test_texts_with_and_without_rationales(world, first_stage, tmp_path):
    options = second_stage_options(
        world, tmp_path / "both", checkpoint=str(first_stage), vcr_text="both", wrong_picture=True, num_train_steps=4
    )
    scores = pretrain.main(["--config", str(options)])
    sets = {name.split("/")[0] for name in scores}
    parts = {f"{task}_vcr_{part}" for task in ("mlm", "mrfr", "mrckl", "mrc") for part in ("qa", "qar")}
    assert sets == parts | {f"{part}@wrong_picture" for part in parts}


def test_no_matching_of_texts_and_pictures_in_vcr(world, tmp_path):
    options = json.loads(second_stage_options(world, tmp_path / "itm").read_text())
    options["train_datasets"][0] |= {"tasks": ["itm"], "mix_ratio": [1]}
    (tmp_path / "itm.json").write_text(json.dumps(options))
    with pytest.raises(InputError, match="mlm, mrfr, mrc, mrckl"):
        pretrain.main(["--config", str(tmp_path / "itm.json")])


@pytest.mark.parametrize("name", ["pretrain-vcr-base-4gpu", "pretrain-vcr-large-4gpu", "demo-pretrain-vcr"])
def test_configs_of_the_second_stage(name):
    for config_type in (pretrain.PretrainConfig, pretrain_vcr.VcrPretrainConfig):
        config, _ = parse(config_type, ["--config", str(ROOT / "config" / f"{name}.json"), "--data_root", "there"])
        (img,) = config.train_datasets[0].img
        gt, detected = region_folders(img, config.regions)
        assert f"{gt};{detected}" == img and "/there/img_db/" in gt and "/there/img_db/" in detected
        assert config.vcr_text == "qar"
        assert pretrain.Pretraining(config).has_vcr


@pytest.mark.parametrize("name", ["train-vcr-base-4gpu", "train-vcr-large-4gpu", "demo-vcr"])
def test_configs_of_finetuning(name):
    config, _ = parse(VcrConfig, ["--config", str(ROOT / "config" / f"{name}.json"), "--data_root", "there"])
    ((texts, img),) = config.db_pairs("val")
    assert texts.endswith("there/txt_db/vcr_val.db")
    gt, detected = region_folders(img, config.regions)
    assert f"{gt};{detected}" == img and "/there/img_db/" in gt and "/there/img_db/" in detected
    assert config.checkpoint_from == ("pretrain" if name == "demo-vcr" else "vcr_pretrain")
