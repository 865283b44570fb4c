"""A model's JSON: activations are computed, keys that nothing obeys are refused, sizes are checked."""

import json
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from model.model_json import check_same_model, read_model_json
from model.pretrain import UniterForPretraining
from model.uniter import Layer, UniterConfig
from tests.golden_data import tiny_config
from tests.tiny_world import MODEL, ROOT
from utils.errors import InputError

HUGGING_FACE = {  # the config.json of bert-base-cased and the keys that newer versions add
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "transformers_version": "4.6.0.dev0",
    "type_vocab_size": 2,
    "use_cache": True,
    "classifier_dropout": None,
    "vocab_size": 28996,
    "_name_or_path": "bert-base-cased",
}
GENERATION = {  # written by versions of 2021 and 2022
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "suppress_tokens": None,
    "exponential_decay_length_penalty": None,
    "tie_encoder_decoder": False,
    "tf_legacy_loss": False,
    "xla_device": True,
}
MULTILINGUAL = {"directionality": "bidi", "pooler_fc_size": 768, "pooler_type": "first_token_transform"}


def read(tmp_path, **changes):
    (tmp_path / "model.json").write_text(json.dumps(MODEL | changes))
    return read_model_json(tmp_path / "model.json")


@pytest.mark.parametrize("extra", [{}, MULTILINGUAL, GENERATION])
def test_a_config_json_of_hugging_face_is_read(tmp_path, extra):
    (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE | extra))
    release = json.loads((ROOT / "config/uniter-base.json").read_text())
    assert asdict(read_model_json(tmp_path / "config.json")) == release | {"img_dim": None}


@pytest.mark.parametrize("path", ["config/uniter-large.json", "config/demo-model.json", "examples/nlvr1/model.json"])
def test_our_own_files_are_read(path):
    values = {key: value for key, value in asdict(read_model_json(ROOT / path)).items() if value is not None}
    assert values == json.loads((ROOT / path).read_text())


@pytest.mark.parametrize("name, function", [("gelu", F.gelu), ("relu", F.relu), ("swish", F.silu)])
def test_the_activation_is_computed_in_the_encoder_and_in_the_word_head(name, function):
    config = UniterConfig(**{**vars(tiny_config()), "hidden_act": name})
    x = torch.randn(5, config.hidden_size, generator=torch.Generator().manual_seed(0))
    layer = Layer(config).eval()
    inputs = []
    layer.output.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    layer.attention["self"].forward = lambda states, spans: states
    layer.attention["output"].forward = lambda states, residual: states
    layer(x, None)
    assert torch.equal(inputs[0], function(layer.intermediate["dense"](x)))
    head = UniterForPretraining(config, 24, 13).cls["predictions"]
    hidden = head.transform["LayerNorm"](function(head.transform["dense"](x)))
    assert torch.equal(head(x), F.linear(hidden, head.decoder.weight, head.bias))


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("hidden_act", "gelu_new", "gelu, relu, swish"),
        ("hidden_act", None, "gelu, relu, swish"),
        ("layer_norm_eps", 0.5, "1e-12"),
        ("layer_norm_eps", "1e-12", "1e-12"),
        ("position_embedding_type", "relative_key", "'absolute'"),
        ("is_decoder", True, "False"),
        ("is_decoder", 0, "False"),
        ("tie_word_embeddings", False, "True"),
        ("model_type", "roberta", "'bert'"),
        ("pad_token_id", 1, "0"),
        ("hidden_droput_prob", 0.0, "did you mean 'hidden_dropout_prob'?"),
        ("layernorm_eps", 1e-12, "did you mean 'layer_norm_eps'?"),
        ("v_hidden_size", 1024, "hidden_size"),
        ("visual_feat_dim", 2048, "remove the key"),
        ("num_attention_heads", 5, "a divisor of hidden_size, which is 32"),
        ("num_attention_heads", 0, "at least 1"),
        ("type_vocab_size", 1, "at least 2"),
        ("num_hidden_layers", -1, "at least 1"),
        ("num_hidden_layers", 10**6, "at most 1000"),
        ("vocab_size", 10**15, "this machine has the memory; BERT large has 3e+08"),
        ("hidden_size", 32.0, "int"),
        ("hidden_size", [32], "int"),
        ("hidden_size", True, "int"),
        ("hidden_size", None, "int"),
        ("vocab_size", 0, "at least 1"),
        ("img_dim", 0, "at least 1"),
        ("max_position_embeddings", 0, "at least 1"),
        ("hidden_dropout_prob", 1.0, "below 1"),
        ("attention_probs_dropout_prob", -0.1, "at least 0"),
        ("initializer_range", 0, "above 0"),
        ("initializer_range", "nan", "above 0"),
    ],
)
def test_a_value_that_the_code_does_not_obey_is_refused(tmp_path, key, value, expected):
    with pytest.raises(InputError) as error:
        read(tmp_path, **{key: value})
    for part in ("model.json", key, expected):
        assert part in str(error.value), str(error.value)


def test_the_model_json_is_checked_before_any_data_is_opened(tmp_path):
    import train_vqa

    (tmp_path / "model.json").write_text(json.dumps(MODEL | {"hidden_act": "tanh"}))
    flags = ["--output_dir", str(tmp_path / "run"), "--model_config", str(tmp_path / "model.json")]
    stores = ["--train_txt_dbs", "absent", "--train_img_dbs", "absent", "--num_train_steps", "1"]
    with pytest.raises(InputError, match="hidden_act"):
        train_vqa.main(flags + stores)


@pytest.mark.parametrize("place", ["run/log/model.json", "bert/config.json"])
@pytest.mark.parametrize(
    "key, value, parts",
    [
        ("num_attention_heads", 8, ["8, as in", "found:    4"]),
        ("hidden_act", "relu", ["'relu', as in", "found:    gelu"]),
        ("hidden_act", "gelu_new", ["'gelu_new', as in", "found:    gelu"]),
        ("layer_norm_eps", 1e-5, ["expected: 1e-12"]),
        ("position_embedding_type", "relative_key", ["expected: 'absolute'"]),
        ("hidden_dropout_prob", 0.0, []),
        ("vocab_size", 99, []),  # shows in the shapes of the weights, which may grow
    ],
)
def test_what_the_checkpoints_own_json_says_must_hold(tmp_path, place, key, value, parts):
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(MODEL | {key: value, "model_type": "bert", "some_note": 3}))
    checkpoint = file.parent
    if place == "run/log/model.json":
        checkpoint = tmp_path / "run" / "ckpt" / "model_step_2.pt"
    else:
        (file.parent / "model.safetensors").touch()
    config = read(tmp_path)
    if not parts:
        return check_same_model(config, tmp_path / "model.json", checkpoint)
    with pytest.raises(InputError) as error:
        check_same_model(config, tmp_path / "model.json", checkpoint)
    for part in (key, str(file), *parts):
        assert part in str(error.value), str(error.value)


def test_a_model_that_the_memory_does_not_hold_is_refused(tmp_path, monkeypatch):
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**18}  # 1 GiB
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    assert read(tmp_path, vocab_size=10**6).vocab_size == 10**6  # 0.1 GB
    with pytest.raises(InputError, match=r"1e\+09 parameters[\s\S]*at most 3e\+08"):
        read(tmp_path, vocab_size=4 * 10**7)
