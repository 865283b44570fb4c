"""Reading weights: the release's, BERT's, half precision, wrappers; and refusing what does not fit."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from model.growth import grown_config
from model.nlvr2 import NLVR2_MODELS
from model.pretrain import UniterForPretraining
from model.retrieval import UniterForImageTextRetrieval
from model.uniter import UniterConfig
from model.vcr import UniterForVisualCommonsenseReasoning
from model.vqa import UniterForVisualQuestionAnswering
from model.weight_files import read_weights
from model.weights import load_checkpoint, load_weights
from tests.golden_data import GOLDEN, IMG_DIM, IMG_LABEL_DIM, arrays, state_dict, tiny_config
from utils.errors import InputError


def tiny_pretraining():
    return UniterForPretraining(tiny_config(), IMG_DIM, IMG_LABEL_DIM)


@pytest.mark.parametrize("wrapper", [None, "model_state"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_pretraining_checkpoint_feeds_vqa(tmp_path, wrapper, dtype):
    state = {key: value.to(dtype) for key, value in state_dict("pretraining").items()}
    torch.save({wrapper: state} if wrapper else state, tmp_path / "model.pt")
    model = UniterForVisualQuestionAnswering(tiny_config(), 17, IMG_DIM)
    report = load_weights(model, read_weights(tmp_path / "model.pt"), "model.pt")
    assert sorted(report.missing_keys) == sorted(k for k in model.state_dict() if k.startswith("vqa_output"))
    heads = ("cls.", "feat_regress.", "region_classifier.", "itm_output.")
    assert sorted(report.unexpected_keys) == sorted(k for k in state if k.startswith(heads))
    for key, value in model.state_dict().items():
        if key in state:
            assert value.dtype == torch.float32 and torch.equal(value, state[key].float()), key


@pytest.mark.parametrize("kind", ["folder.bin", "safetensors"])
def test_bert_weights(tmp_path, kind):
    """A BERT of our size under its public names (`bert.`, gamma and beta) → all but the image side."""
    names = "bert_base_cased_hf_safetensors" if kind == "safetensors" else "bert_base_cased_2018_archive"
    keys = [row[0] for row in json.loads((GOLDEN / f"names/{names}.json").read_text())]
    keys = [key for key in keys if not any(f"layer.{n}." in key for n in range(2, 12))]
    model, source = tiny_pretraining(), tiny_pretraining().state_dict()
    ours = {k: k.replace("bert.", "uniter.").replace("gamma", "weight").replace("beta", "bias") for k in keys}
    state = {k: source[ours[k]].clone() + 1 for k in keys if ours[k] in source}
    state |= {k: torch.zeros(2, 32) for k in keys if k not in state}  # next-sentence head
    if kind == "safetensors":
        save_file(state, tmp_path / "model.safetensors")
    else:
        torch.save(state, tmp_path / "pytorch_model.bin")
    report = load_weights(model, read_weights(tmp_path), tmp_path)
    own_image_side = ("uniter.img_embeddings.", "feat_regress.", "region_classifier.", "itm_output.")
    assert report.missing_keys and all(key.startswith(own_image_side) for key in report.missing_keys)
    assert all("seq_relationship" in key or "decoder.bias" in key for key in report.unexpected_keys)
    for key, value in state.items():
        if ours[key] in model.state_dict() and "decoder" not in key:
            assert torch.equal(model.state_dict()[ours[key]], value), key


def test_a_wrong_shape_names_key_and_both_shapes(tmp_path):
    wider = UniterConfig(**{**vars(tiny_config()), "vocab_size": 300})
    torch.save(UniterForPretraining(wider, IMG_DIM, IMG_LABEL_DIM).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(InputError) as error:
        load_checkpoint(tiny_pretraining(), tmp_path / "wide.pt")
    for part in ("wide.pt", "uniter.embeddings.word_embeddings.weight", "(300, 32)", "(200, 32)"):
        assert part in str(error.value)


def test_nothing_that_fits_is_an_error(tmp_path):
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="no weight of the checkpoint fits"):
        load_checkpoint(tiny_pretraining(), tmp_path / "other.pt")
    with pytest.raises(InputError, match="not found"):
        load_checkpoint(tiny_pretraining(), tmp_path / "absent.pt")


TYPES = "uniter.embeddings.token_type_embeddings.weight"
WORDS = "uniter.embeddings.word_embeddings.weight"


def surgery(directory: str, when: str) -> dict[str, torch.Tensor]:
    """The weights before or after the reference grew them."""
    found = arrays(f"{directory}/surgery.npz").items()
    return {key.removeprefix(f"{when}."): torch.from_numpy(value) for key, value in found if key.startswith(when)}


def grown_pretraining():
    return UniterForPretraining(grown_config(tiny_config(), types=4, words=5), IMG_DIM, IMG_LABEL_DIM)


@pytest.mark.parametrize("kind", NLVR2_MODELS)
def test_nlvr2_grows_a_type_that_copies_the_picture(kind, tmp_path, caplog):
    state = state_dict("pretraining")
    torch.save(state, tmp_path / "model.pt")
    model = NLVR2_MODELS[kind](tiny_config(), IMG_DIM)
    with caplog.at_level(logging.INFO, "uniter"):
        report = load_checkpoint(model, tmp_path / "model.pt")
    assert report.grown_keys == [TYPES] and not any(key.startswith("uniter.") for key in report.missing_keys)
    assert torch.equal(model.state_dict()[TYPES], state[TYPES][[0, 1, 1]])
    assert f"{TYPES}: 2 rows became 3, the new ones copy row 1" in caplog.messages
    # A finetuned checkpoint has them all.
    torch.save(model.state_dict(), tmp_path / "finetuned.pt")
    assert load_checkpoint(NLVR2_MODELS[kind](tiny_config(), IMG_DIM), tmp_path / "finetuned.pt").grown_keys == []


def test_a_model_with_more_types_than_its_task_needs_keeps_them():
    config = UniterConfig(**{**vars(tiny_config()), "type_vocab_size": 5})
    state = UniterForPretraining(config, IMG_DIM, IMG_LABEL_DIM).state_dict()
    model = NLVR2_MODELS["triplet"](config, IMG_DIM)
    assert load_weights(model, state, "model.pt").grown_keys == []
    assert torch.equal(model.state_dict()[TYPES], state[TYPES])


def test_vcr_grows_types_and_words_as_the_reference():
    model = UniterForVisualCommonsenseReasoning(tiny_config(), IMG_DIM, special_tokens=5)
    initial, after = model.state_dict()[WORDS].clone(), surgery("vcr", "after")
    report = load_weights(model, state_dict("pretraining") | surgery("vcr", "before"), "model.pt")
    assert sorted(report.grown_keys) == [TYPES, WORDS]
    assert torch.equal(model.state_dict()[TYPES], after[TYPES])
    assert torch.equal(model.state_dict()[WORDS][:200], after[WORDS][:200])
    assert torch.equal(model.state_dict()[WORDS][200:], initial[200:])


def test_vcr_second_stage_keeps_the_word_head(tmp_path):
    """The reference makes the head anew when it grows; here what was learned stays, and new words' bias is zero."""
    model, before = grown_pretraining(), surgery("pretraining_vcr", "before")
    before[WORDS] = before["cls.predictions.decoder.weight"]  # tied
    initial = model.state_dict()[WORDS].clone()
    report = load_weights(model, state_dict("pretraining") | before, "model.pt")
    assert sorted(report.grown_keys) == ["cls.predictions.bias", "cls.predictions.decoder.weight", TYPES, WORDS]
    assert report.missing_keys == report.unexpected_keys == []
    state = model.state_dict()
    for key, value in before.items():
        assert torch.equal(state[key][: len(value)], value), key
    assert (state["cls.predictions.bias"][200:] == 0).all() and torch.equal(state[WORDS][200:], initial[200:])
    assert model.cls["predictions"].decoder.weight is model.uniter.embeddings.word_embeddings.weight
    # Finetuning starts from the second stage without growing again.
    vcr = UniterForVisualCommonsenseReasoning(tiny_config(), IMG_DIM, special_tokens=5)
    torch.save(state, tmp_path / "second.pt")
    assert load_checkpoint(vcr, tmp_path / "second.pt").grown_keys == []
    assert torch.equal(vcr.state_dict()[WORDS], state[WORDS])


@pytest.mark.parametrize(
    "model, key, rows",
    [
        (tiny_pretraining, TYPES, 1),  # this model does not grow
        (grown_pretraining, WORDS, 190),  # another vocabulary is no vocabulary to be grown
        (grown_pretraining, WORDS, 206),
        (grown_pretraining, "uniter.embeddings.position_embeddings.weight", 60),
    ],
)
def test_only_what_a_task_adds_may_be_absent(model, key, rows):
    state = model().state_dict()
    state[key] = torch.zeros(rows, 32)
    with pytest.raises(InputError, match="another shape") as error:
        load_weights(model(), state, "model.pt")
    assert key in str(error.value) and f"({rows}, 32)" in str(error.value)


def test_the_rank_head_starts_from_the_matching_head_and_is_kept(tmp_path):
    torch.save(state_dict("pretraining"), tmp_path / "pretrained.pt")
    model = UniterForImageTextRetrieval(tiny_config(), IMG_DIM)
    report = load_checkpoint(model, tmp_path / "pretrained.pt")
    assert report.missing_keys == ["rank_output.weight", "rank_output.bias"]
    model.init_output()
    assert torch.equal(model.rank_output.weight, model.itm_output.weight[1:])
    assert torch.equal(model.rank_output.bias, model.itm_output.bias[1:])
    with torch.no_grad():
        model.rank_output.weight += 1  # its own storage: the matching head stays
    assert torch.equal(model.itm_output.weight, state_dict("pretraining")["itm_output.weight"])
    torch.save(model.state_dict(), tmp_path / "finetuned.pt")
    again = UniterForImageTextRetrieval(tiny_config(), IMG_DIM)
    assert load_checkpoint(again, tmp_path / "finetuned.pt").missing_keys == []
    assert torch.equal(again.rank_output.weight, model.rank_output.weight)


class Evil:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"uniter.pooler.dense.bias": Evil(str(tmp_path / "ran"))}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"evil\.pt"):
        load_checkpoint(tiny_pretraining(), tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
