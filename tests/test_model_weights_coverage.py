"""What a checkpoint must fill: the whole model for inference, whole parts for training; which weights count."""

import copy
import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from model.nlvr2 import NLVR2_MODELS
from model.pretrain import UniterForPretraining
from model.referring import UniterForReferringExpressionComprehension
from model.retrieval import UniterForImageTextRetrieval
from model.uniter import UniterConfig
from model.vcr import UniterForVisualCommonsenseReasoning
from model.vqa import UniterForVisualQuestionAnswering
from model.weight_files import read_weights
from model.weights import load_checkpoint, load_weights
from tests.golden_data import GOLDEN, IMG_DIM, IMG_LABEL_DIM, state_dict, tiny_config
from utils.errors import InputError

Q0 = "uniter.encoder.layer.0.attention.self.query.weight"


def vqa(**sizes):
    return UniterForVisualQuestionAnswering(UniterConfig(**{**vars(tiny_config()), **sizes}), 17, IMG_DIM)


def pretraining(**sizes):
    return UniterForPretraining(UniterConfig(**{**vars(tiny_config()), **sizes}), IMG_DIM, IMG_LABEL_DIM)


def weights(**sizes):
    return {key: value.clone() for key, value in vqa(**sizes).state_dict().items()}


def message(model, state, complete=False):
    with pytest.raises(InputError) as error:
        load_weights(model, state, "given.pt", complete)
    assert "given.pt" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("lacking", ["vqa_output.3.bias", "uniter.pooler.dense.bias", Q0])
def test_inference_needs_every_tensor(lacking):
    state = weights()
    assert load_weights(vqa(), state, "given.pt", complete=True).missing_keys == []
    del state[lacking]
    assert f"1 weight: {lacking}" in message(vqa(), state, complete=True)


def test_inference_refuses_weights_of_pretraining_and_names_the_head():
    text = message(vqa(), state_dict("pretraining"), complete=True)
    assert "6 weights: vqa_output.0.weight" in text and "lacks weights of the model" in text


HEADS = {  # what a file has beside the model, and whether inference takes it
    "vqa_output.4.weight": False,  # of the model's own head
    "attn1.in_proj_weight": False,
    "attn_pool.fc.0.weight": False,
    "fc.0.weight": False,
    "adapter.down.weight": False,
    "nlvr2_output.weight": True,  # of another task
    "rank_output.weight": True,
    "itm_output.weight": True,
    "cls.predictions.transform.dense.weight": True,
    "cls.seq_relationship.weight": True,
    "feat_regress.weight": True,
    "region_classifier.net.0.weight": True,
}


@pytest.mark.parametrize("key", HEADS)
def test_inference_refuses_weights_of_a_larger_model(key):
    state = weights() | {key: torch.ones(2, 2)}
    assert load_weights(vqa(), state, "given.pt").unexpected_keys == [key]  # finetuning says it, and leaves it out
    if HEADS[key]:
        assert load_weights(vqa(), state, "given.pt", complete=True).unexpected_keys == [key]
    else:
        text = message(vqa(), state, complete=True)
        assert f"with 1 weight: {key}, which the model does not have" in text and "log/hps.json" in text


@pytest.mark.parametrize("model, theirs", [("paired", "paired-attn"), ("paired-attn", "paired")])
def test_inference_refuses_weights_of_the_other_nlvr2_model(model, theirs):
    state = NLVR2_MODELS[theirs](tiny_config(), IMG_DIM).state_dict()
    text = message(NLVR2_MODELS[model](tiny_config(), IMG_DIM), state, complete=True)
    assert f"{'without' if model == 'paired-attn' else 'with'} 12 weights: attn1.in_proj_weight" in text


def test_inference_does_not_grow_a_model():
    state = {k: v for k, v in NLVR2_MODELS["paired"](tiny_config(), IMG_DIM).state_dict().items()}
    types = "uniter.embeddings.token_type_embeddings.weight"
    load_weights(NLVR2_MODELS["paired"](tiny_config(), IMG_DIM), state, "given.pt", complete=True)
    assert types in message(NLVR2_MODELS["paired"](tiny_config(), IMG_DIM), state | {types: state[types][:2]}, True)


def test_training_says_in_one_warning_what_stays_random(tmp_path, caplog):
    torch.save(state_dict("pretraining"), tmp_path / "model.pt")
    with caplog.at_level(logging.WARNING, "uniter"):
        load_checkpoint(vqa(), tmp_path / "model.pt")
    assert caplog.messages == [
        f"not in the checkpoint {tmp_path / 'model.pt'}, so these start from random numbers: vqa_output (6 weights)"
    ]


def test_a_rank_head_that_copies_the_matching_head_is_not_random(tmp_path, caplog):
    torch.save(state_dict("pretraining"), tmp_path / "model.pt")
    with caplog.at_level(logging.WARNING, "uniter"):
        report = load_checkpoint(UniterForImageTextRetrieval(tiny_config(), IMG_DIM), tmp_path / "model.pt", True)
    assert report.missing_keys == ["rank_output.weight", "rank_output.bias"] and not caplog.messages
    body = {key: value for key, value in state_dict("pretraining").items() if not key.startswith("itm_output")}
    assert "itm_output.weight" in message(UniterForImageTextRetrieval(tiny_config(), IMG_DIM), body, True)


@pytest.mark.parametrize(
    "theirs, parts",
    [
        ({"num_hidden_layers": 1}, ["not have all of uniter.encoder", "1 layer (0)", "2 layers (0-1)"]),
        (
            {"num_hidden_layers": 4},
            ["parts of an encoder", "4 layers (0-3)", "2 layers (0-1)", "uniter.encoder.layer.2"],
        ),
        ({"max_position_embeddings": 32}, ["another shape", "(32, 32)", "(64, 32)", "position_embeddings"]),
        ({"vocab_size": 300}, ["another shape", "(300, 32)", "(200, 32)", "word_embeddings"]),
        ({"hidden_size": 64}, ["another shape", "(200, 64)", "(200, 32)", "word_embeddings"]),
    ],
)
def test_an_encoder_of_another_depth_or_size_is_refused(theirs, parts):
    text = message(vqa(), weights(**theirs))
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    "lacking, part",
    [
        (Q0, "uniter.encoder"),
        ("uniter.embeddings.LayerNorm.bias", "uniter.embeddings"),
        ("uniter.img_embeddings.mask_embedding.weight", "uniter.img_embeddings"),
        ("vqa_output.3.weight", "vqa_output"),
    ],
)
def test_a_part_that_is_loaded_in_part_is_refused(lacking, part):
    state = weights()
    del state[lacking]
    text = message(vqa(), state)
    assert f"not have all of {part}" in text and lacking in text


def test_the_text_side_alone_is_enough_for_training(caplog):
    body = {key: value for key, value in weights().items() if key.startswith(("uniter.emb", "uniter.enc"))}
    report = load_weights(pretraining(), body, "given.pt")
    assert not any(key.startswith(("uniter.emb", "uniter.enc")) for key in report.missing_keys)
    assert "uniter.encoder" in message(pretraining(), {k: v for k, v in body.items() if "encoder" not in k})
    head = {key: value for key, value in weights().items() if key.startswith("vqa_output")}
    assert "not have all of uniter.embeddings" in message(vqa(), head)


def test_names_of_other_codebases_are_refused():
    lxmert = {f"bert.encoder.{kind}_layers.0.attention.self.query.weight": torch.zeros(32, 32) for kind in "xr"}
    whole = weights()
    assert "x_layers" in message(vqa(), {**whole, **lxmert})
    assert "parts of an encoder" in message(vqa(), {**whole, "visual_encoder.conv.weight": torch.zeros(3)})
    head = {"other_output.answer_embeddings.weight": torch.zeros(3)}  # of another task
    assert load_weights(vqa(), {**whole, **head}, "given.pt").unexpected_keys == list(head)
    assert "no weight of the checkpoint fits" in message(vqa(), {f"net.{key}": value for key, value in whole.items()})


PREFIXES = [
    ("module.", ""),
    ("model.", ""),
    ("module.model.", ""),
    ("", "uniter."),
    ("bert.", "uniter."),
    ("_orig_mod.", ""),
]


@pytest.mark.parametrize("prefix, stripped", PREFIXES)
def test_prefixes_are_stripped(prefix, stripped):
    state = {
        prefix + key.removeprefix(stripped): value for key, value in weights().items() if key.startswith("uniter.")
    }
    model = vqa()
    report = load_weights(model, state, "given.pt")
    assert all(key.startswith("vqa_output") for key in report.missing_keys) and not report.unexpected_keys
    ours = prefix + Q0.removeprefix(stripped)
    assert torch.equal(model.state_dict()[Q0], state[ours])


def test_two_names_of_one_weight_are_refused():
    state = weights()
    text = message(vqa(), state | {f"module.{Q0}": state[Q0] + 1})
    assert Q0 in text and f"module.{Q0}" in text
    words, decoder = "uniter.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    state = state_dict("pretraining")
    assert "two different values" in message(pretraining(), state | {decoder: state[words] + 1})


def test_a_saved_bert_model_fills_the_text_side(tmp_path):
    """`BertModel.save_pretrained`: no prefix, and constants among the weights."""
    body = {key.removeprefix("uniter."): value for key, value in weights().items() if key.startswith("uniter.")}
    bert = {key: value for key, value in body.items() if not key.startswith("img_embeddings")}
    save_file(bert | {"embeddings.position_ids": torch.arange(64)[None]}, tmp_path / "model.safetensors")
    model = pretraining()
    report = load_checkpoint(model, tmp_path)
    assert torch.equal(model.state_dict()[Q0], bert[Q0.removeprefix("uniter.")]) and not report.unexpected_keys
    assert not any(key.startswith(("uniter.emb", "uniter.enc", "uniter.pool")) for key in report.missing_keys)


@pytest.mark.parametrize(
    "wrap", [("model",), ("state_dict", "model"), ("model_state_dict",), ("module",), ("model", "model_state")]
)
def test_wrappers_are_opened_also_inside_of_each_other(tmp_path, wrap):
    value = weights()
    for key in wrap:
        value = {key: value, "epoch": 3}
    torch.save(value, tmp_path / "model.pt")
    assert load_checkpoint(vqa(), tmp_path / "model.pt", complete=True).missing_keys == []


@pytest.mark.parametrize(
    "content, part",
    [
        ({}, "{}, of the type dict"),
        ([{Q0: torch.zeros(2)}], "of the type list"),
        (torch.zeros(3), "of the type Tensor"),
        ({7: torch.zeros(3)}, "the name 7, of the type int"),
        ({Q0: torch.zeros(3), "epoch": 3}, "epoch is of the type int"),
        ({"model": [1, 2]}, "model is of the type list"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, content, part):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(InputError) as error:
        load_checkpoint(vqa(), tmp_path / "odd.pt")
    assert "odd.pt" in str(error.value) and "no state dict" in str(error.value) and part in str(error.value)


def test_safetensors_are_read_under_any_name(tmp_path):
    state = weights()
    save_file(state, tmp_path / "model.pt")
    assert torch.equal(read_weights(tmp_path / "model.pt")[Q0], state[Q0])


def test_a_name_that_is_too_long_is_not_found():
    with pytest.raises(InputError, match="not found"):
        read_weights("x" * 300)


def test_two_different_state_dicts_in_a_file_are_refused(tmp_path):
    one = weights()
    other = one | {Q0: torch.zeros_like(one[Q0])}
    torch.save({"model": one, "state_dict": dict(one)}, tmp_path / "same.pt")
    assert read_weights(tmp_path / "same.pt").keys() == one.keys()
    torch.save({"state_dict": other, "model": one}, tmp_path / "two.pt")
    with pytest.raises(InputError, match=r"two\.pt[\s\S]*model and state_dict"):
        read_weights(tmp_path / "two.pt")


def shards(folder, state, suffix):
    """Write `state` as Hugging Face does, in two files with an index."""
    files = {key: f"model-0000{1 + i % 2}-of-00002.{suffix}" for i, key in enumerate(state)}
    for file in set(files.values()):
        part = {key: state[key] for key in state if files[key] == file}
        (save_file if suffix == "safetensors" else torch.save)(part, folder / file)
    return {"metadata": {"total_size": 1}, "weight_map": files}


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_in_several_files_are_read_by_their_index(tmp_path, suffix):
    state = weights()
    index = shards(tmp_path, state, suffix)
    path = tmp_path / f"{'model' if suffix != 'bin' else 'pytorch_model'}.{suffix}.index.json"
    path.write_text(json.dumps(index))
    for source in (tmp_path, path):
        read = read_weights(source)
        assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)
    with pytest.raises(InputError, match=rf"00001-of-00002\.{suffix}[\s\S]*only|only[\s\S]*give the folder"):
        read_weights(tmp_path / f"model-00001-of-00002.{suffix}")
    path.write_text(json.dumps({"weight_map": index["weight_map"] | {"more": f"model-00002-of-00002.{suffix}"}}))
    with pytest.raises(InputError, match=r"00002-of-00002[\s\S]*more"):
        read_weights(tmp_path)
    for broken in ({}, [], {"weight_map": {}}, {"weight_map": {Q0: "../secret.bin"}}, {"weight_map": {Q0: 1}}):
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"index\.json[\s\S]*weight_map"):
            read_weights(tmp_path)


@pytest.mark.parametrize("name", ["tf_model.h5", "bert_model.ckpt.index", "flax_model.msgpack"])
def test_a_folder_of_another_framework_says_to_convert_it(tmp_path, name):
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(InputError, match=rf"{name}[\s\S]*convert the weights to PyTorch"):
        read_weights(tmp_path)


KINDS = {
    "int64": lambda x: x.long(),
    "bool": lambda x: x > 0,
    "int8": lambda x: (100 * x).to(torch.int8),
    "complex64": lambda x: x.to(torch.complex64),
    "sparse_coo": lambda x: x.to_sparse(),
    "qint8": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "float8_e4m3fn": lambda x: x.to(torch.float8_e4m3fn),
    "nested": lambda x: torch.nested.nested_tensor([x, x[:1]]),
    "nested tensor, float32": lambda x: torch.nested.nested_tensor([x, x[:1]], layout=torch.jagged),
    "without values": lambda x: x.to("meta"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_only_plain_floating_point_numbers_are_weights(kind):
    state = weights()
    state[Q0] = KINDS[kind](state[Q0])
    text = message(vqa(), state)
    assert Q0 in text and kind in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused(value):
    state = weights()
    state[Q0] = state[Q0].double()
    state[Q0][3, 4] = value
    text = message(vqa(), state)
    assert Q0 in text and "1 of 1024" in text


def test_a_head_for_other_answers_says_that_it_is_the_head():
    text = message(UniterForVisualQuestionAnswering(tiny_config(), 3, IMG_DIM), weights())
    assert "vqa_output.3.weight" in text and "(17, 64)" in text and "(3, 64)" in text and "without this head" in text


def test_another_feature_width_names_both_widths():
    wide = UniterForVisualQuestionAnswering(tiny_config(), 17, 50)
    text = message(wide, weights())
    assert "features of another width" in text and "(32, 24)" in text and "(32, 50)" in text and "img_linear" in text


# The key sets of the release, with the layers and the sizes of the tiny model.
MODELS = {
    "itm": lambda config: UniterForImageTextRetrieval(config, IMG_DIM),
    "nlvr2_paired": lambda config: NLVR2_MODELS["paired"](config, IMG_DIM),
    "nlvr2_paired_attn": lambda config: NLVR2_MODELS["paired-attn"](config, IMG_DIM),
    "nlvr2_triplet": lambda config: NLVR2_MODELS["triplet"](config, IMG_DIM),
    "re_mlp1": lambda config: UniterForReferringExpressionComprehension(config, IMG_DIM, mlp=1),
    "re_mlp2": lambda config: UniterForReferringExpressionComprehension(config, IMG_DIM, mlp=2),
    "vcr": lambda config: UniterForVisualCommonsenseReasoning(config, IMG_DIM),
    "ve": lambda config: UniterForVisualQuestionAnswering(config, 3, IMG_DIM),
    "vqa": lambda config: UniterForVisualQuestionAnswering(config, 3129, IMG_DIM),
}


def names(file, layers=2):
    keys = [row[0] for row in json.loads((GOLDEN / f"names/{file}.json").read_text())]
    return {key for key in keys if not any(f"layer.{n}." in key for n in range(layers, 24))}


@pytest.mark.parametrize("size", ["base", "large"])
@pytest.mark.parametrize("task", MODELS)
def test_the_releases_key_sets_load_in_their_documented_use(task, size):
    """Weights of pre-training for each task, and finetuned weights for inference."""
    state = pretraining().state_dict()
    assert set(state) == names(f"uniter_{size}_pretrained")
    model = MODELS[task](tiny_config())
    report = load_weights(model, state, "given.pt")
    heads = names(f"uniter_{size}_head_{task}")
    assert set(report.missing_keys) == heads - set(state)
    finetuned = model.state_dict()
    assert set(finetuned) == {key for key in state if key.startswith("uniter.")} | heads
    report = load_weights(MODELS[task](tiny_config()), copy.deepcopy(finetuned), "given.pt", complete=True)
    assert report.missing_keys == report.unexpected_keys == report.grown_keys == []
