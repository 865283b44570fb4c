"""Bad input ends a run before its first step (or when the record is read) with one screen that says what to do."""

import json
import os
import pickle
import shutil

import lmdb
import lz4.frame
import msgpack
import msgpack_numpy
import numpy as np
import pytest
import torch

import pretrain
import train_vqa
from data.img_store import SAMPLE
from model.pretrain import UniterForPretraining
from model.uniter import UniterConfig
from tests.tiny_world import MODEL, convert, make_world, pretrain_options, run_script
from utils.errors import InputError

STORE = "feat_th0.2_max100_min2"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("clean"), texts=24, pictures=12)


@pytest.fixture
def world(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "world")


def message(world, *flags: str, **changes) -> str:
    """The error that pre-training on `world` ends with; nothing was trained."""
    output = world / "run"
    changes.setdefault("num_train_steps", 6)
    with pytest.raises(InputError) as error:
        pretrain.main(["--config", str(pretrain_options(world, output, **changes)), *flags])
    text = str(error.value)
    assert len(text.splitlines()) <= 15, text
    for part in ("file:", "key:", "found:", "expected:", "remedy:"):
        assert part in text, f"no {part} in:\n{text}"
    assert not list(output.glob("ckpt/model_step_*.pt"))
    return text


def all_in(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, f"{part!r} not in:\n{text}"


def edit_store(path, change) -> None:
    """Replace every record of a store (but `__keys__`) by what `change` makes of its bytes."""
    with lmdb.open(str(path), map_size=1 << 28) as env, env.begin(write=True) as txn:
        for key, value in list(txn.cursor()):
            if key != b"__keys__":
                txn.put(key, change(value))
    for lock in path.glob("lock.mdb"):
        lock.unlink()


def edit_regions(path, change) -> None:
    """Replace every image record by what `change` makes of its dict of arrays."""

    def edited(value: bytes) -> bytes:
        record = msgpack.unpackb(value, object_hook=msgpack_numpy.decode, raw=False)
        return msgpack.packb(change(record), default=msgpack_numpy.encode, use_bin_type=True)

    edit_store(path, edited)


def test_unknown_key_suggests_the_nearest(world):
    text = message(world, learning_rat=1e-4)
    all_in(text, "run.json", "learning_rat", "learning_rate")


@pytest.mark.parametrize("key", ["train_datasets", "val_datasets"])
def test_two_datasets_of_one_name(world, key):
    """Their batches would be mixed up: each draws from the other's store."""
    config = json.loads(pretrain_options(world, world / "run").read_text())
    with pytest.raises(InputError, match=r"listed twice[\s\S]*mlm_"):
        pretrain.main(["--config", str(pretrain_options(world, world / "run", **{key: 2 * config[key]}))])


def test_no_training_data(world):
    with pytest.raises(InputError, match=r"no training data was given[\s\S]*key: +train_datasets\n"):
        pretrain.main(["--config", str(pretrain_options(world, world / "run", train_datasets=[]))])
    flags = ["--output_dir", str(world / "vqa"), "--model_config", str(world / "model.json")]
    with pytest.raises(InputError, match=r"no training data was given[\s\S]*key: +train_txt_dbs, train_img_dbs\n"):
        train_vqa.main(flags)


def test_wrong_type(world):
    all_in(message(world, warmup_steps="many"), "run.json", "warmup_steps", "many", "int")


def test_missing_text_store(world):
    shutil.rmtree(world / "txt_db" / "captions.db")
    all_in(message(world), "captions.db")


def test_missing_image_store(world):
    shutil.rmtree(world / "img_db" / "tiny")
    all_in(message(world), "img_db/tiny")


def test_variant_of_the_image_store_that_is_not_there(world):
    all_in(message(world, conf_th=0.5), "th0.5", STORE)


def test_another_vocabulary_than_the_models(world):
    (world / "model.json").write_text(json.dumps(MODEL | {"vocab_size": 300}))
    all_in(message(world), "captions.db", "v_range", "300", str(MODEL["vocab_size"]))


def test_another_vocabulary_than_the_other_stores(world):
    other = shutil.copytree(world / "txt_db" / "captions.db", world / "txt_db" / "other.db")
    meta = json.loads((other / "meta.json").read_text())
    (other / "meta.json").write_text(json.dumps(meta | {"MASK": 9}))
    source = {"name": "other", "db": ["txt_db/other.db"], "img": ["img_db/tiny"], "tasks": ["mlm"]}
    all_in(message(world, val_datasets=[source]), "other.db", "MASK", "9", "3")


def test_another_vocabulary_than_the_checkpoints(world):
    first = world / "first"
    pretrain.main(["--config", str(pretrain_options(world, first, num_train_steps=2))])
    marks = json.loads((first / "log" / "vocab.json").read_text())
    (first / "log" / "vocab.json").write_text(json.dumps(marks | {"CLS": 7}))
    for flags in ([], ["--eval_only"]):
        text = message(world, "--checkpoint", str(first / "ckpt" / "model_step_2.pt"), *flags)
        all_in(text, "vocab.json", "CLS", "7")


def test_nothing_to_score_is_an_error_of_eval_only(world):
    checkpoint = world / "weights.pt"
    torch.save(UniterForPretraining(UniterConfig(**MODEL)).state_dict(), checkpoint)
    config = pretrain_options(world, world / "run", val_datasets=[])
    with pytest.raises(InputError, match=r"nothing to score[\s\S]*val_txt_db or val_datasets[\s\S]*inf_\*"):
        pretrain.main(["--config", str(config), "--eval_only", "--checkpoint", str(checkpoint)])


def test_text_longer_than_the_model_has_positions(world):
    (world / "model.json").write_text(json.dumps(MODEL | {"max_position_embeddings": 8}))
    all_in(message(world), "captions.db", "8", "max_txt_len")


def test_picture_that_the_image_store_lacks(world):
    (world / "npz" / "tiny_000000000003.npz").unlink()
    shutil.rmtree(world / "img_db")
    convert(world / "npz", world / "img_db" / "tiny")
    all_in(message(world), "tiny_000000000003.npz", "captions.db", "img_db/tiny")


@pytest.mark.slow
@pytest.mark.parametrize("store", [f"img_db/tiny/{STORE}", "txt_db/captions.db"])
def test_truncated_lmdb(world, store):
    data = world / store / "data.mdb"
    os.truncate(data, data.stat().st_size // 2)
    done = run_script("pretrain.py", "--config", pretrain_options(world, world / "run"), check=False)
    assert done.returncode == 2, done.stderr[-2000:]  # not a bus error
    all_in(done.stderr, "data.mdb", "bytes")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("store", [f"img_db/tiny/{STORE}", "txt_db/captions.db"])
def test_value_that_is_not_msgpack(world, store):
    packed = b"not msgpack" if store.startswith("img") else lz4.frame.compress(b"\xc1 not msgpack")
    edit_store(world / store, lambda value: packed)
    all_in(message(world), store.split("/")[-1], "msgpack")


def test_two_feature_widths_in_a_run(world):
    """One store of another width than the other, and than the checkpoint."""
    shutil.copytree(world / "img_db" / "tiny", world / "img_db" / "narrow")
    edit_regions(world / "img_db/narrow" / STORE, lambda r: r | {"features": r["features"][:, :100]})
    stores = {"name": "tiny", "db": ["txt_db/captions.db"] * 2, "img": ["img_db/tiny", "img_db/narrow"]}
    text = message(world, train_datasets=[stores | {"tasks": ["mlm"]}])
    all_in(text, "img_db/narrow", "100 numbers", "2048, as in", "img_db/tiny", "features")


def test_a_feature_width_that_the_model_json_does_not_have(world):
    (world / "model.json").write_text(json.dumps(MODEL | {"img_dim": 100}))
    all_in(message(world), "img_db/tiny", "2048 numbers", "100, as in", "model.json")


def test_record_with_no_boxes(world):
    edit_regions(world / "img_db/tiny" / STORE, lambda r: {k: v[:0] for k, v in r.items()})
    all_in(message(world), "tiny_0000")


def test_nan_features(world):
    edit_regions(world / "img_db/tiny" / STORE, lambda r: r | {"features": r["features"] * np.float16(np.nan)})
    all_in(message(world), "tiny_0000", "features")


class Evil:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_object_array_with_code_in_it_is_not_run(world):
    evil = {"nd": True, "type": "O", "kind": b"O", "shape": [1], "data": pickle.dumps(Evil(str(world / "ran")))}
    edit_store(
        world / "img_db/tiny" / STORE, lambda value: msgpack.packb({"features": evil, "norm_bb": evil, "conf": evil})
    )
    all_in(message(world), "tiny_0000")
    assert not (world / "ran").exists()


def test_checkpoint_with_code_in_it_is_not_run(world):
    torch.save({"weights": Evil(str(world / "ran"))}, world / "evil.pt")
    all_in(message(world, "--checkpoint", str(world / "evil.pt")), "evil.pt")
    assert not (world / "ran").exists()


def test_checkpoint_with_a_wrong_shape(world):
    first = world / "first"
    pretrain.main(["--config", str(pretrain_options(world, first, num_train_steps=2))])
    shutil.rmtree(first / "log")
    (world / "model.json").write_text(json.dumps(MODEL | {"hidden_size": 64}))
    text = message(world, "--checkpoint", str(first / "ckpt" / "model_step_2.pt"))
    all_in(text, "model_step_2.pt", "word_embeddings.weight", "32)", "64)")


def test_output_folder_that_is_not_empty(world):
    (world / "run").mkdir()
    (world / "run" / "something").write_text("kept")
    all_in(message(world), "not empty", "something", "--resume")
    assert (world / "run" / "something").read_text() == "kept"


def test_a_record_that_only_reading_can_see(world):
    """One bad record among many pictures: it is named when it is read, also from a worker process."""
    shutil.rmtree(world / "img_db")
    rng = np.random.default_rng(0)
    for i in range(12, 400):
        shutil.copyfile(world / "npz" / f"tiny_{i % 12:012}.npz", world / "npz" / f"tiny_{i:012}.npz")
    convert(world / "npz", world / "img_db" / "tiny")
    at_start = np.random.default_rng(0).choice(400, SAMPLE, replace=False)  # rows that are checked when a run starts
    number = next(number for number in range(400) if number not in at_start)
    path, key = world / "img_db/tiny" / STORE, f"tiny_{number:012}.npz".encode()
    with lmdb.open(str(path), map_size=1 << 28) as env, env.begin(write=True) as txn:
        record = msgpack.unpackb(txn.get(key), object_hook=msgpack_numpy.decode, raw=False)
        record["features"] = record["features"].copy()
        record["features"][0, int(rng.integers(2048))] = np.inf
        txn.put(key, msgpack.packb(record, default=msgpack_numpy.encode, use_bin_type=True))
    for n_workers in (0, 2):
        text = message(world, "--n_workers", str(n_workers), num_train_steps=200, valid_steps=500)
        all_in(text, key.decode(), "features")
        shutil.rmtree(world / "run")  # the run had started


def test_an_error_is_one_screen_without_a_traceback(world):
    options = pretrain_options(world, world / "run", learning_rat=1e-4)
    done = run_script("pretrain.py", "--config", options, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 24
    all_in(done.stderr, "error:", "learning_rat", "remedy:")
