"""Image-text retrieval: its datasets against the reference's, whole runs, killed runs, the saved matrix."""

import json
import shutil

import numpy as np
import pytest
import torch

import inf_itm
import train_itm
import train_itm_hard_negatives
from data.batch import Example, collate
from data.img_store import ImageStore
from data.retrieval import Retrieval
from data.retrieval_eval import RetrievalCandidates, RetrievalMatrix, validation_candidates
from data.retrieval_mining import draw_candidates, mine_hardest
from data.rng import generator
from data.sampler import eval_plans
from data.txt_store import TextStore
from model.retrieval import UniterForImageTextRetrieval, online_loss, rank_logits
from model.uniter import UniterConfig, set_dropout
from scripts import kill_test
from tests.golden_data import GOLDEN, IMG_DIM, arrays, close, load, tiny_config
from tests.test_model_retrieval import raw_pairs, retrieval_batch
from tests.tiny_tasks_itm import inference_flags, itm_options
from tests.tiny_world import ROOT, TORCHRUN, make_world, run_script
from tests.unpack import to_padded
from utils import checkpoint
from utils.config import load_hps, parse
from utils.errors import InputError

FORMATS = GOLDEN / "data_formats"
DATASETS = FORMATS / "expected" / "datasets"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("itm"))


@pytest.fixture
def reference(tmp_path, monkeypatch):
    """The reference's captions and pictures: 20 texts, 8 pictures."""
    monkeypatch.setenv("UNITER_CACHE", str(tmp_path / "cache"))
    for part in ("img_db/nlvr2_dev", "txt_db/vqa_like.db"):
        shutil.copytree(FORMATS / part, tmp_path / part, ignore=shutil.ignore_patterns(".index"))
    return Retrieval(TextStore(tmp_path / "txt_db/vqa_like.db"), ImageStore(tmp_path / "img_db/nlvr2_dev"))


def tiny(world, hard_negatives="none", **options):
    images = ImageStore(world / "img_db/tiny", min_bb=2)
    return Retrieval(TextStore(world / "txt_db/captions.db"), images, hard_negatives=hard_negatives, **options)


def names(data, columns):
    return [data.images.name(row) for row in data.columns[columns].tolist()]


def check_sequences(data, text, columns, golden):
    """A text with pictures, unit by unit, as the reference's batch."""
    pictures = data.columns[columns]
    seqs = data.sequences(np.full(len(columns), text), pictures, {p: data.images_of(p)[0] for p in pictures.tolist()})
    batch = collate("itm_rank", [Example("0", seqs)], IMG_DIM)
    tokens, _ = to_padded(batch.input_ids, batch.txt_lens)
    np.testing.assert_array_equal(tokens.numpy(), golden["input_ids"])
    counts = batch.seqlens - batch.txt_lens
    for key, ours in (("img_feat", batch.img_feat), ("img_pos_feat", batch.img_pos_feat)):
        padded, there = to_padded(ours[batch.img_row].float(), counts)
        np.testing.assert_array_equal(padded.numpy(), golden[key] * there.numpy()[..., None])
    np.testing.assert_array_equal(batch.seqlens, golden["attn_masks"].sum(1))


def test_validation_is_the_reference(reference):
    data = validation_candidates(reference, budget=2000, minibatch=5)
    for text, golden in enumerate(json.loads((DATASETS / "itm_val_ids.json").read_text())):
        assert reference.id(text) == golden["txt"]
        assert names(reference, data.columns[text]) == [golden["gt"], *golden["negs"]]
    check_sequences(reference, 6, data.columns[6], arrays("data_formats/expected/datasets/itm_val_txt6.npz"))


def test_full_evaluation_is_the_reference(reference):
    golden = json.loads((DATASETS / "itm_eval_order.json").read_text())
    data = RetrievalMatrix(reference, budget=5000, minibatch=golden["mini_batch"])
    assert names(reference, np.concatenate(data.blocks)) == golden["all_img_ids"]
    assert len(data.blocks) == golden["n_mini"]
    for number, block in enumerate(data.blocks):
        check_sequences(reference, 3, block, arrays(f"data_formats/expected/datasets/itm_eval_txt3_mb{number}.npz"))


@pytest.mark.parametrize("budget", [162, 400, 5000])
def test_tiles_are_batches_of_all_pairs(world, budget):
    """Every pair once, within the budget, in batches of one tile, whose scores come back to their places."""
    captions = tiny(world)
    drawn = draw_candidates(captions, 7, generator(0))
    texts, pictures = len(captions), len(captions.columns)
    sets = [
        RetrievalMatrix(captions, budget, 6),
        validation_candidates(captions, budget, 5),
        RetrievalCandidates(captions, drawn, budget),
    ]
    for data in sets:
        works = eval_plans(data, budget)
        assert [work.indices.tolist() for work in works] == [[i] for i in range(len(data))]
        found = [data.tile(i) for i in range(len(data))]
        for i, (rows, columns) in enumerate(found):
            batch = collate(data.task, [data.example(works[i].pairs[0], generator(0))], data.img_dim)
            assert batch.units <= budget and len(batch.group) == len(rows)
            assert len(batch.img_feat) == captions.images.n_announced[captions.columns[np.unique(columns)]].sum()
        marks = np.concatenate([rows * 1000 + columns for rows, columns in found])
        expected = np.arange(texts)[:, None] * 1000 + (
            np.arange(pictures) if isinstance(data, RetrievalMatrix) else data.columns
        )
        ids = np.array([data.id(i) for i in range(len(data))])
        np.testing.assert_array_equal(data.table({"ids": ids, "scores": marks.astype(np.float32)}), expected)
    part = RetrievalMatrix(captions, budget, 6, range(20, 33))
    assert {t for i in range(len(part)) for t in part.tile(i)[0]} == set(range(20, 33))


@pytest.mark.parametrize("kind", [lambda c: RetrievalMatrix(c, 400, 6), lambda c: validation_candidates(c, 400, 5)])
def test_a_picture_is_read_once(world, monkeypatch, kind):
    captions = tiny(world)
    data, read = kind(captions), []
    original = captions.images.read
    monkeypatch.setattr(captions.images, "read", lambda row, *labels: read.append(row) or original(row, *labels))
    for i in range(len(data)):
        data.example([i], generator(0))
    assert len(data) > 10 and sorted(read) == sorted(captions.columns.tolist())


def test_a_pair_larger_than_a_batch_is_refused(world):
    with pytest.raises(InputError, match="larger than a batch"):
        RetrievalMatrix(tiny(world), 12, 4)


def pictured(seq, data):
    (image,) = seq.images
    return int(np.flatnonzero(data.columns == image.key[1])[0])


def texts_of(data):
    """Token ids → the texts that they may be."""
    found: dict[tuple, set] = {}
    for text in range(len(data)):
        found.setdefault(tuple(data.add_special_tokens(data.tokens(data.texts.read(text)))), set()).add(text)
    return found


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_random_negatives(world, size):
    """One positive, then others' pictures for the text, then others' texts for the picture: never twice, never own."""
    data, whose = tiny(world, negative_size=size), texts_of(tiny(world))
    for text in (0, 7, 59):
        other_texts = [t for t in range(len(data)) if data.own_columns[t] != data.own_columns[text]]
        n, m = min(size, len(data.columns) - 1), min(size, len(other_texts))
        seqs = data.example([text, data.pictures[text]], generator(text)).seqs
        assert len(seqs) == 1 + n + m and pictured(seqs[0], data) == data.own_columns[text]
        assert all(text in whose[tuple(seq.input_ids)] for seq in seqs[: 1 + n])
        columns = [pictured(seq, data) for seq in seqs[1 : 1 + n]]
        assert len(set(columns)) == n and data.own_columns[text] not in columns
        assert all(pictured(seq, data) == data.own_columns[text] for seq in seqs[1 + n :])
        drawn = [whose[tuple(seq.input_ids)] for seq in seqs[1 + n :]]
        assert all(found & set(other_texts) for found in drawn)
    if size == 1:
        drawn = [data.other_texts(7, 1, generator(k))[0] for k in range(3000)]
        values, counts = np.unique(drawn, return_counts=True)
        assert sorted(values) == [t for t in range(60) if data.own_columns[t] != data.own_columns[7]]
        assert counts.min() / counts.mean() > 0.4


def test_online_candidates(world):
    """A text with pictures; another text's picture, drawn for itself, with texts. Where there are fewer, all."""
    data = tiny(world, "online", negative_size=1000)
    others = set()
    for text in range(20):
        example = data.example([text, 0], generator(text))
        anchor = collate(data.task, [example], data.img_dim).targets["anchor"]
        assert anchor.tolist() == sorted(anchor.tolist()) and int((anchor == 0).sum()) == len(data.columns)
        shown = [pictured(seq, data) for seq in example.seqs]
        first, second = shown[: len(data.columns)], shown[len(data.columns) :]
        assert first[0] == data.own_columns[text] and sorted(first) == list(range(len(data.columns)))
        assert len(set(second)) == 1
        assert len(second) == 1 + int(
            (data.own_columns != second[0]).sum()
        )  # one right text, all texts of other pictures
        others.add(second[0])
    assert len(others) > 5


def test_hardest_worked_by_hand():
    """3 texts, 4 pictures; each text is scored with two others' pictures."""
    columns = np.array([[1, 2], [2, 0], [1, 3]], np.int32)
    scores = np.array([[0.1, 0.7], [0.9, 0.2], [0.8, 0.3]], np.float32)
    for_texts, for_pictures = mine_hardest(scores, columns, pictures=4, size=2)
    assert for_texts.tolist() == [[2, 1], [2, 0], [1, 3]]
    assert for_pictures.tolist() == [[1, -1], [2, 0], [1, 0], [2, -1]]
    assert for_texts.dtype == for_pictures.dtype == np.int32
    for_texts, for_pictures = mine_hardest(scores, columns, pictures=4, size=1)
    assert for_texts.tolist() == [[2], [2], [1]] and for_pictures.tolist() == [[1], [2], [1], [2]]
    assert mine_hardest(scores, columns, 4, size=3)[0].tolist() == [[2, 1, -1], [2, 0, -1], [1, 3, -1]]


class Fake:
    """A run whose model scores a pair by hand: `score(text, column)`."""

    def __init__(self, score):
        self.score = score

    def __call__(self, data):
        found = [self.score(text, column) for i in range(len(data)) for text, column in zip(*data.tile(i))]
        return {"ids": np.array([data.id(i) for i in range(len(data))]), "scores": np.array(found, np.float32)}


def test_mined_negatives_reach_the_examples(world, tmp_path):
    """The model likes pictures of high columns, and texts of high numbers: so these are mined, and used."""
    path = itm_options(world, tmp_path / "mined", hard_negatives="mined", mine_images=1000, mine_keep=2)
    config, _ = parse(train_itm.ItmConfig, ["--config", str(path)])
    task = train_itm.ItmTask(config)
    (entry,) = task.train_data()
    data, whose = entry.dataset, texts_of(entry.dataset)
    assert len(data.example([0, 0], generator(0)).seqs) == 3  # nothing mined yet
    made = task.refresh(None, 0, Fake(lambda text, column: column + text / 100))
    pictures, last = len(data.columns), len(data) - 1
    for text in range(len(data)):
        expected = [c for c in range(pictures - 1, -1, -1) if c != data.own_columns[text]][:2]
        assert made["pictures_0"][text].tolist() == expected
    for column in range(pictures):
        expected = [t for t in range(last, -1, -1) if data.own_columns[t] != column][:2]
        assert made["texts_0"][column].tolist() == expected
    task.apply_refresh(made)
    for text in (0, 30):
        seqs = data.example([text, 0], generator(text)).seqs
        assert len(seqs) == 5  # A.2: two random, two hard
        assert pictured(seqs[2], data) in made["pictures_0"][text]
        assert whose[tuple(seqs[4].input_ids)] & set(made["texts_0"][data.own_columns[text]].tolist())
    data.negative_size = 3  # of 24 pictures: often one of the mined, if nothing were done
    for text in range(len(data)):
        seqs = data.example([text, 0], generator(text)).seqs  # its own, 3 random and 1 hard picture, 3 and 1 texts
        assert len(seqs) == 9 and len({pictured(seq, data) for seq in seqs[:5]}) == 5
        own = data.own_columns[text]
        hard = data.mined[1][own]
        chosen = [whose[tuple(seq.input_ids)] for seq in seqs[5:]]
        assert len({min(t) for t in chosen}) == 4 and chosen[3] & set(hard.tolist())
    again = task.refresh(None, 4000, Fake(lambda text, column: 0.0))
    assert not np.array_equal(again["pictures_0"], made["pictures_0"])


def test_mining_is_drawn_by_seed_and_step(world):
    data = tiny(world)
    drawn = [draw_candidates(data, 5, generator(42, "mined", step, 0)) for step in (0, 0, 7)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    assert all(len(set(row)) == 5 and data.own_columns[text] not in row for text, row in enumerate(drawn[0].tolist()))


def golden_anchors():
    """The reference's two cases, of a text and of a picture, as one micro-batch."""
    cases = json.loads((GOLDEN / "itm_rank_hn/meta.json").read_text())
    pairs = [(cases["t"]["anchor"], int(other)) for other in cases["t"]["candidates"]]
    pairs += [(int(other), cases["i"]["anchor"]) for other in cases["i"]["candidates"]]
    batch = retrieval_batch(*raw_pairs("itm_rank_hn", "txt", 8), [pairs])
    batch.targets["anchor"] = torch.arange(16) // 8
    return batch, cases["t"]["hard_size"], cases["t"]["margin"]


def test_online_loss_is_the_reference():
    """Both anchors' means added: loss, and the gradients' projections, which add up too."""
    model = load(UniterForImageTextRetrieval(tiny_config(), IMG_DIM), "itm_rank_hn")
    set_dropout(model, 0.0)
    batch, size, margin = golden_anchors()
    loss = online_loss(model, batch, size, margin)
    assert model.training
    golden = [arrays(f"itm_rank_hn/outputs_{side}.npz")["loss"].mean() for side in ("t", "i_fixed")]
    close(loss, np.float32(sum(golden)))
    loss.backward()
    parts = [json.loads((GOLDEN / f"itm_rank_hn/grads_{side}.json").read_text()) for side in ("t", "i_fixed")]
    for name, parameter in model.named_parameters():
        expected = [part[name] for part in parts]
        if expected == [None, None]:
            assert parameter.grad is None
            continue
        flat = parameter.grad.double().flatten()
        proj = (flat * torch.arange(len(flat)).double().cos()).sum().item()
        scale = sum(part["l2"] for part in expected)
        assert proj == pytest.approx(sum(part["proj"] for part in expected), abs=1e-6 + 1e-4 * scale), name


def test_half_precision_has_gradients_and_fine_scores():
    """The scoring pass leaves no gradient-less copies behind; the head's scores are not rounded to half precision."""
    model = load(UniterForImageTextRetrieval(tiny_config(), IMG_DIM), "itm_rank_hn")
    batch, size, margin = golden_anchors()
    with torch.autocast("cpu", torch.bfloat16):
        online_loss(model, batch, size, margin).backward()
        assert all(p.grad is not None for n, p in model.named_parameters() if n.endswith("query.weight"))
        scores = rank_logits(model.eval(), batch)
    assert scores.dtype == torch.float32 and not torch.equal(scores, scores.bfloat16().float())


KINDS = {
    "none": {"negative_size": 2},
    "online": {"hard_negatives": "online", "negative_size": 6, "hard_neg_size": 2, "train_batch_size": 2},
    "mined": {"hard_negatives": "mined", "mine_steps": 5, "mine_images": 4, "mine_keep": 2, "negative_size": 1},
}


@pytest.fixture(scope="module")
def runs(world):
    """A finished run of each kind of negatives."""
    finished = {kind: world / f"run_{kind}" for kind in KINDS}
    for kind, output in finished.items():
        train_itm.main(["--config", str(itm_options(world, output, **KINDS[kind]))])
    return finished


@pytest.mark.slow
def test_killed_and_resumed_is_never_killed(world, runs, tmp_path):
    """The mined negatives are part of the state that is resumed from."""
    options = itm_options(world, runs["mined"], **KINDS["mined"])
    assert kill_test.trial("train_itm.py", options, tmp_path / "killed", (0, 2), 0.1)  # it was alive
    assert kill_test.compare(runs["mined"], tmp_path / "killed") is None
    mined = kill_test.newest(runs["mined"], "train_state")["refreshed"]
    assert {key: value.shape for key, value in mined.items()} == {"pictures_0": (60, 2), "texts_0": (24, 2)}


def test_a_run_leaves_its_scores(runs):
    records = kill_test.metrics(runs["mined"])
    last = records[-1]
    assert last["final"] and {key.split("/")[0] for key in last} == {"step", "final", "val", "val_full", "test"}
    assert {k for k in last if k.startswith("test/")} == {
        f"test/{side}_{k}" for side in ("img", "txt") for k in ("r1", "r5", "r10", "r_mean")
    } | {"test/r_mean"}
    assert last["val_full/img_r5"] == last["test/img_r5"] and "val/txt_r1" not in last
    assert last["val/img_r10"] == 1.0 and last["val/img_r1"] >= last["test/img_r1"]  # among 6, among 24


def test_a_finished_run_started_again_says_nothing_twice(world, runs):
    metrics = runs["none"] / "log/metrics.jsonl"
    before = metrics.read_text()
    train_itm.main(["--config", str(itm_options(world, runs["none"], **KINDS["none"])), "--resume"])
    assert metrics.read_text() == before and before.count('"final"') == 1


def test_online_steps_are_of_single_examples(world, tmp_path):
    """`train_batch_size` of them, `gradient_accumulation_steps` is not read; what is saved is what was given."""
    made = KINDS["online"] | {"train_batch_size": 1, "gradient_accumulation_steps": 3, "num_train_steps": 1}
    train_itm.main(["--config", str(itm_options(world, tmp_path / "run", **made))])
    hps = json.loads((tmp_path / "run/log/hps.json").read_text())
    assert (hps["train_batch_size"], hps["gradient_accumulation_steps"]) == (1, 3)
    assert kill_test.metrics(tmp_path / "run")[0]["examples"] == 1
    for saved in (hps | {"train_batch_size": 5}, hps):
        (tmp_path / "hps.json").write_text(json.dumps(saved))
        config, _ = parse(train_itm.ItmConfig, ["--config", str(tmp_path / "hps.json")])
        micro_batches = train_itm.ItmTask(config).micro_batches()
        assert micro_batches.per_step == saved["train_batch_size"]
        assert (micro_batches.batch_size, micro_batches.accumulation) == (1, "mean")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["online", "mined"])
def test_ranks_and_micro_batches_are_one(world, tmp_path, kind):
    """1 rank × 2 micro-batches and 2 ranks × 1, dropout on: the same run."""
    shared = KINDS[kind] | {"precision": "fp64", "num_train_steps": 6, "valid_steps": 6, "grad_norm": 0.1}
    one, two = tmp_path / f"one_{kind}", tmp_path / f"two_{kind}"
    more, less = ({"train_batch_size": 4}, {}) if kind == "online" else ({"gradient_accumulation_steps": 2}, {})
    train_itm.main(["--config", str(itm_options(world, one, **shared | more))])
    run_script("train_itm.py", "--config", itm_options(world, two, **shared | less), launcher=TORCHRUN)
    ours, theirs = kill_test.newest(one, "model_step"), kill_test.newest(two, "model_step")
    assert all((ours[key] - value).abs().max() <= 1e-9 for key, value in theirs.items())
    for a, b in zip(kill_test.metrics(one), kill_test.metrics(two)):
        assert a == pytest.approx(b, abs=1e-9, rel=1e-9)


@pytest.mark.slow
def test_a_few_pairs_are_memorised(tmp_path):
    world = make_world(tmp_path / "world", texts=12, pictures=6)
    changes = {"num_train_steps": 120, "valid_steps": 120, "log_steps": 20, "negative_size": 3, "full_val": True}
    path = itm_options(world, world / "learned", learning_rate=3e-3, dropout=0.0, val_batch_size=2000, **changes)
    scores = train_itm.main(["--config", str(path)])
    losses = [record["loss/itm"] for record in kill_test.metrics(world / "learned") if "loss/itm" in record]
    assert losses[-1] < 0.85 * losses[0]
    assert scores["test/r_mean"] == scores["val/r_mean"] and "val_full/r_mean" not in scores


def independent_recalls(path, side):
    """From the saved matrix and the store's own side file, by sorting."""
    saved = np.load(path)
    scores, texts, images = saved["scores"], saved["txt_ids"].tolist(), saved["img_ids"].tolist()
    own = json.loads((side / "txt2img.json").read_text())
    of_text = [[images[k] for k in np.argsort(-row)].index(own[t]) for t, row in zip(texts, scores)]
    of_image = []
    for image, column in zip(images, scores.T):
        ranked = [texts[k] for k in np.argsort(-column)]
        of_image.append(min(ranked.index(t) for t in texts if own[t] == image))
    found = {}
    for name, ranks in (("img", of_text), ("txt", of_image)):
        found |= {f"{name}_r{k}": float(np.mean([rank < k for rank in ranks])) for k in (1, 5, 10)}
    return found


@pytest.mark.slow
def test_inference_on_one_rank_and_two(world, runs, tmp_path):
    weights = runs["none"] / "ckpt/model_step_12.pt"
    outputs = [tmp_path / "one", tmp_path / "two"]
    more = "--train_config", runs["none"] / "log/hps.json"
    scores = inf_itm.main(inference_flags(world, outputs[0], weights, *more))
    run_script("inf_itm.py", *inference_flags(world, outputs[1], weights), launcher=TORCHRUN)
    for name in ("results.npz", "scores.json"):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
    saved = json.loads((outputs[0] / "scores.json").read_text())
    assert saved == scores and not (outputs[0] / "chunks").exists()
    independent = independent_recalls(outputs[0] / "results.npz", world / "txt_db/captions.db")
    assert {key: saved[key] for key in independent} == pytest.approx(independent)
    assert np.load(outputs[0] / "results.npz")["scores"].dtype == np.float32
    # The finetuned head gave them: as the run's own test at its end.
    last = kill_test.metrics(runs["none"])[-1]
    assert {f"test/{key}": value for key, value in saved.items()} == pytest.approx(
        {key: value for key, value in last.items() if key.startswith("test/")}
    )


def test_interrupted_inference_goes_on(world, runs, tmp_path, monkeypatch):
    weights, output = tmp_path / "weights.pt", tmp_path / "out"
    shutil.copy2(runs["none"] / "ckpt/model_step_12.pt", weights)
    flags = inference_flags(world, output, weights)
    published = []
    monkeypatch.setattr(inf_itm, "publish", lambda *args: published.append(args[-1]) or {})  # as if killed just before
    inf_itm.main(flags)
    chunks = sorted((output / "chunks").glob("*.npz"))
    assert [np.load(file)["scores"].shape for file in chunks] == [(25, 24), (25, 24), (10, 24)]
    kept, lost = chunks[0].stat().st_mtime_ns, chunks[1].read_bytes()
    chunks[1].unlink()
    inf_itm.main(flags)
    assert chunks[1].read_bytes() == lost and chunks[0].stat().st_mtime_ns == kept
    with pytest.raises(InputError, match=r"key: +batch_size, batch_units\n"):
        inf_itm.main([*flags, "--batch_size", "4", "--batch_units", "300"])
    other = json.loads((world / "model.json").read_text()) | {"hidden_act": "relu"}
    (tmp_path / "model.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"key: +model_config\n"):
        inf_itm.main([*flags, "--model_config", str(tmp_path / "model.json")])
    changed = checkpoint.load(weights)
    changed["rank_output.weight"] += 1
    checkpoint.save(weights, changed)
    shutil.copystat(runs["none"] / "ckpt/model_step_12.pt", weights)  # the same size and time
    with pytest.raises(InputError, match=r"key: +checkpoint\n"):
        inf_itm.main(flags)
    shutil.copyfile(runs["none"] / "ckpt/model_step_12.pt", weights)
    (output / "chunks/fingerprint.json").unlink()  # what other weights have scored is not used without one
    foreign = chunks[0].rename(chunks[0].with_name(chunks[0].name.replace(chunks[0].stem[-12:], "0" * 12)))
    chunks[1].rename(output / "chunks/scores_00000025.npy")
    inf_itm.main(flags)
    assert foreign.exists() and chunks[1].read_bytes() == lost and chunks[0].stat().st_mtime_ns != kept
    good = chunks[1].read_bytes()
    shutil.copyfile(chunks[0], chunks[1])  # a chunk in the place of another one
    with pytest.raises(InputError, match=r"found: +an array of shape \(25, 24\), from row 0 on\n.*from row 25 on"):
        published[-1].matrix()
    chunks[1].write_bytes(good)
    content = bytearray(chunks[2].read_bytes())
    content[len(content) // 2] ^= 1
    chunks[2].write_bytes(content)
    monkeypatch.undo()
    with pytest.raises(InputError, match="chunk of scores is damaged"):
        inf_itm.main(inference_flags(world, output, weights))


def test_zero_shot_and_heads(world, runs, tmp_path):
    """Without rank head, the matching head's logit of a match, or the difference; without any, an error."""
    state = checkpoint.load(runs["none"] / "ckpt/model_step_12.pt")
    pretrained = {key: value for key, value in state.items() if not key.startswith("rank_output")}
    torch.save(pretrained, tmp_path / "pretrained.pt")
    torch.save(
        {k: v for k, v in pretrained.items() if "output.weight" not in k or "itm" not in k}, tmp_path / "none.pt"
    )
    found = {}
    for score in ("matching", "difference"):
        flags = inference_flags(world, tmp_path / score, tmp_path / "pretrained.pt", "--score", score)
        inf_itm.main(flags)
        found[score] = np.load(tmp_path / score / "results.npz")["scores"]
    captions = tiny(world)
    model = UniterForImageTextRetrieval(load_hps(world / "model.json", UniterConfig)[0]).eval()
    model.load_state_dict(state)
    data = RetrievalMatrix(captions, 400, 5)
    logits = np.empty((60, 24, 2), np.float32)
    with torch.inference_mode():
        for i in range(len(data)):
            batch = collate(data.task, [data.example([i], generator(0))], data.img_dim)
            logits[data.tile(i)] = model.itm_output(model.uniter.pooler(model.uniter(batch), batch.cu_seqlens)).numpy()
    np.testing.assert_allclose(found["matching"], logits[..., 1], atol=1e-6)
    np.testing.assert_allclose(found["difference"], logits[..., 1] - logits[..., 0], atol=1e-6)
    with pytest.raises(InputError, match=r"without 3 weights: itm_output.weight"):
        inf_itm.main(inference_flags(world, tmp_path / "no1", tmp_path / "none.pt"))
    with pytest.raises(InputError, match="file not found"):
        inf_itm.main(inference_flags(world, tmp_path / "no", tmp_path / "nothing.pt"))
    finetuned = runs["none"] / "ckpt/model_step_12.pt"
    with pytest.raises(InputError, match="--score difference needs a pretrained checkpoint"):
        inf_itm.main(inference_flags(world, tmp_path / "no2", finetuned, "--score", "difference"))


def test_the_thin_entry(world, tmp_path):
    output = tmp_path / "hard"
    path = itm_options(world, output, negative_size=5, hard_neg_size=2, num_train_steps=2, train_batch_size=2)
    train_itm_hard_negatives.main(["--config", str(path)])
    assert (output / "ckpt/model_step_2_final.pt").exists()
    assert json.loads((output / "log/hps.json").read_text())["hard_negatives"] == "online"
    written = ["--output_dir", "out", "--model_config", "model.json"]
    config, _ = parse(train_itm_hard_negatives.HardNegativesConfig, written)
    assert (config.train_batch_size, config.negative_size, config.hard_neg_size) == (32, 511, 31)
    assert (config.inf_minibatch_size, config.margin, config.grad_norm, config.optim) == (512, 0.2, 0.25, "adam")
    config, _ = parse(train_itm.ItmConfig, written)
    assert (config.train_batch_size, config.negative_size, config.inf_minibatch_size) == (128, 1, 400)
    assert (config.weight_decay, config.grad_norm, config.full_val, config.warmup_steps) == (0.01, 0.25, False, 4000)


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*-itm*.json")), ids=lambda path: path.stem)
def test_configs_are_read(path):
    entry = train_itm_hard_negatives.HardNegativesConfig if path.stem.endswith("hn") else train_itm.ItmConfig
    config, notes = parse(entry, ["--config", str(path), "--data_root", "somewhere"])
    assert (config.hard_negatives == "online") == path.stem.endswith("hn") and len(notes) == 1
