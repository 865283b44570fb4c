"""Reading of a model's JSON (the option `model_config`): every key is obeyed, or has the value that the code computes.

It reads the release's files, the `config.json` of BERT and of Hugging Face's BERT, and the `log/model.json` of a run.
"""

import difflib
import os
from pathlib import Path
from typing import Any

from model.layers import LAYER_NORM_EPS
from model.uniter import UniterConfig
from model.weight_files import BERT_FILES, INDEX_FILES
from utils.config import load_hps
from utils.errors import InputError
from utils.files import read_json
from utils.options import field_types

# Keys of BERT's config.json that change what a model computes, with the values that mean what this code computes.
FIXED_KEYS: dict[str, tuple[Any, ...]] = {
    "layer_norm_eps": (LAYER_NORM_EPS,),
    "model_type": ("bert", "uniter"),
    "position_embedding_type": ("absolute",),
    "pad_token_id": (0, None),  # the row of the word embedding without a gradient
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "tie_word_embeddings": (True,),
    "pruned_heads": ({}, None),
    "directionality": ("bidi",),
    "pooler_type": ("first_token_transform",),
}
# Keys of BERT's config.json that change no number of this model: bookkeeping, speed, and heads that are not built here.
UNREAD_KEYS = """
    architectures transformers_version torch_dtype dtype use_cache use_bfloat16 gradient_checkpointing
    torchscript chunk_size_feed_forward classifier_dropout pooler_fc_size pooler_num_attention_heads
    pooler_num_fc_layers pooler_size_per_head num_labels id2label label2id finetuning_task problem_type
    task_specific_params name_or_path bos_token_id eos_token_id sep_token_id decoder_start_token_id
    tokenizer_class prefix output_attentions output_hidden_states output_past return_dict attn_implementation
    unk_token_id mask_token_id cls_token_id use_return_dict tf_legacy_loss xla_device tie_encoder_decoder
"""
# Settings of Hugging Face's text generation. Older versions write all their defaults into every config.json.
GENERATION_KEYS = """
    max_length min_length max_new_tokens min_new_tokens max_time do_sample early_stopping num_beams num_beam_groups
    diversity_penalty temperature top_k top_p top_a typical_p epsilon_cutoff eta_cutoff penalty_alpha guidance_scale
    repetition_penalty encoder_repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    bad_words_ids force_words_ids num_return_sequences output_scores output_logits return_dict_in_generate
    forced_bos_token_id forced_eos_token_id remove_invalid_values renormalize_logits suppress_tokens
    begin_suppress_tokens exponential_decay_length_penalty sequence_bias low_memory cache_implementation
"""
UNSEEN_KEYS = ("num_attention_heads", "hidden_act")  # two models may differ in them and have equal shapes
PARAMETERS_LIMIT = 10**11  # BERT large has 3 × 10^8


def read_model_json(path: str | Path) -> UniterConfig:
    """Read and check the sizes of a model. `InputError` for a missing, unknown or wrong key, with the file and the key.

    Keys that begin with "_" are notes.
    """
    config, other_keys = load_hps(path, UniterConfig)
    for key, value in other_keys.items():
        if not key.startswith("_") and key not in (UNREAD_KEYS + GENERATION_KEYS).split():
            _check_other_key(key, value, path)
    _check_sizes(config, path)
    return config


def check_same_model(config: UniterConfig, path: str | Path, checkpoint: str | Path | None) -> None:
    """`InputError` when a JSON beside a checkpoint says that its model computes something else than `config`.

    That is a run's `log/model.json`, or the `config.json` of a Hugging Face folder. Sizes that show in the shapes of
    weights are not compared. `path`: the file of `config`.
    """
    if not checkpoint:
        return
    folder = Path(checkpoint) if os.path.isdir(checkpoint) else Path(checkpoint).parent
    is_bert = any((folder / name).exists() for name in (*BERT_FILES, *INDEX_FILES))
    file = folder / "config.json" if is_bert else folder.parent / "log" / "model.json"
    description = read_json(file) if file.is_file() else {}
    for key, value in description.items() if isinstance(description, dict) else ():
        if key in FIXED_KEYS:
            _check_other_key(key, value, file)
        elif key in UNSEEN_KEYS and value != getattr(config, key):
            raise InputError(
                "the checkpoint's model is not that of model_config",
                file=path,
                key=key,
                found=getattr(config, key),
                expected=f"{value!r}, as in {file}",
                remedy=f"give the model_config that the checkpoint was trained with, such as {file}",
            )


def _check_other_key(key: str, value: Any, path: str | Path) -> None:
    """`InputError` unless `key` is one of `FIXED_KEYS` with one of its values."""
    if key in FIXED_KEYS:
        values = FIXED_KEYS[key]
        if not any(value == fixed and isinstance(value, bool) == isinstance(fixed, bool) for fixed in values):
            raise InputError(
                "the model's JSON asks for something that this code does not compute",
                file=path,
                key=key,
                found=repr(value)[:80],
                expected=" or ".join(map(repr, values)),
                remedy="use a model of that kind; the weights of another kind would give wrong numbers here",
            )
        return
    names = [*field_types(UniterConfig), *FIXED_KEYS]
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    raise InputError(
        "the model's JSON has an unknown key",
        file=path,
        key=key,
        found=f"{key}: {value!r}"[:80],
        expected=near[0] if near else "one of " + ", ".join(field_types(UniterConfig)),
        remedy=(f"did you mean {near[0]!r}? otherwise " if near else "") + "remove the key, or write _ before its name",
    )


def _check_sizes(config: UniterConfig, path: str | Path) -> None:
    """`InputError` for sizes of which no model can be made."""
    width = config.hidden_size
    if width % config.num_attention_heads:
        raise InputError(
            "the heads of the model do not divide its width",
            file=path,
            key="num_attention_heads",
            found=config.num_attention_heads,
            expected=f"a divisor of hidden_size, which is {width}",
            remedy="correct one of the two",
        )
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size + (config.img_dim or 0)
    layer = 4 * width * width + 2 * width * config.intermediate_size
    parameters = width * rows + layer * config.num_hidden_layers
    limit = min(PARAMETERS_LIMIT, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)  # of float32
    if parameters > limit:
        raise InputError(
            "the model's JSON describes a model that is too large",
            file=path,
            key="vocab_size, hidden_size, num_hidden_layers, intermediate_size",
            found=f"{float(parameters):.0e} parameters" if parameters < 10**300 else "over 1e+300 parameters",
            expected=f"at most {limit:.0e}, for which this machine has the memory; BERT large has 3e+08",
            remedy="correct the sizes",
        )
