"""Reading weights: the release's, BERT's, half precision, wrappers; and refusing what does not fit."""

import json

import pytest
import torch
from safetensors.torch import save_file

from model.pretrain import UniterForPretraining
from model.uniter import UniterConfig
from model.vqa import UniterForVisualQuestionAnswering
from model.weights import load_checkpoint, load_weights, read_weights
from tests.golden_data import GOLDEN, IMG_DIM, IMG_LABEL_DIM, state_dict, tiny_config
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
    assert sorted(report.missing) == sorted(k for k in model.state_dict() if k.startswith("vqa_output"))
    heads = ("cls.", "feat_regress.", "region_classifier.", "itm_output.")
    assert sorted(report.unexpected) == sorted(k for k in state if k.startswith(heads))
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
    assert report.missing and all(key.startswith(own_image_side) for key in report.missing)
    assert all("seq_relationship" in key or "decoder.bias" in key for key in report.unexpected)
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
