"""Read the reference numbers under tests/golden (tests/golden/README.md: conventions, tolerances, quirks)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.batch import Example, Image, PackedBatch, Seq

GOLDEN = Path(__file__).parent / "golden"
TINY = json.loads((GOLDEN / "tiny_config.json").read_text())
CLS, SEP, MASK = TINY["_cls"], TINY["_sep"], TINY["_mask"]
IMG_DIM, IMG_LABEL_DIM = TINY["_img_dim"], TINY["_img_label_dim"]
ATOL = RTOL = 1e-5


def tiny_config():
    from model.uniter import UniterConfig

    return UniterConfig(**{key: value for key, value in TINY.items() if not key.startswith("_")})


def arrays(name: str) -> dict[str, np.ndarray]:
    """An .npz of the goldens as a dict."""
    with np.load(GOLDEN / name, allow_pickle=False) as file:
        return dict(file)


def state_dict(directory: str) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays(f"{directory}/state_dict.npz").items()}


def examples(directory: str) -> list[Example]:
    """The golden's raw examples, unmasked: [CLS] tokens [SEP] and the regions."""
    raw = arrays(f"{directory}/examples.npz")
    made = []
    for i in range(sum(key.startswith("tokens.") for key in raw)):
        image = Image(key=i, feat=raw[f"img_feat.{i}"], pos=raw[f"img_pos_feat.{i}"])
        made.append(Example(str(i), [Seq(input_ids=wrapped(raw[f"tokens.{i}"]), images=[image])]))
    return made


def check_gradients(model: torch.nn.Module, expected: dict[str, Any]) -> None:
    """Compare every parameter's gradient with the golden's l2 norm and cosine projection; null means none."""
    named = dict(model.named_parameters())
    assert named.keys() == expected.keys()
    for name, golden in expected.items():
        grad = named[name].grad
        if golden is None:
            assert grad is None, name
            continue
        assert grad is not None, name
        flat = grad.double().flatten()
        l2, proj = flat.norm().item(), (flat * torch.arange(len(flat)).double().cos()).sum().item()
        tolerance = 1e-6 + 1e-4 * golden["l2"]
        assert abs(l2 - golden["l2"]) <= tolerance, (name, l2, golden)
        assert abs(proj - golden["proj"]) <= tolerance, (name, proj, golden)


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, atol=ATOL, rtol=RTOL)


def load(model: Any, directory: str) -> Any:
    """The golden's weights in `model`: no name missing, none unexpected."""
    model.load_state_dict(state_dict(directory), strict=True)
    return model.eval()


def check_backward(model: Any, loss: torch.Tensor, name: str) -> None:
    """Compare the gradients of a scalar with those of the golden `name`."""
    loss.backward()
    check_gradients(model, json.loads((GOLDEN / f"{name}.json").read_text()))


def check_states(model: Any, batch: PackedBatch, golden: dict[str, np.ndarray]) -> None:
    """Compare the body's last states and the pooled [CLS]."""
    from tests.unpack import to_padded

    hidden = model.uniter(batch)
    close(to_padded(hidden, batch.seqlens)[0], golden["last_hidden"])
    close(model.uniter.pooler(hidden, batch.cu_seqlens), golden["pooled"])


def wrapped(tokens: np.ndarray) -> np.ndarray:
    """[CLS] tokens [SEP]."""
    return np.concatenate([[CLS], tokens, [SEP]])
