"""Read the reference numbers under tests/golden (tests/golden/README.md: conventions, tolerances, quirks).

The tests with the mark `device` compare on any device, in any precision that it computes:

    UNITER_TEST_DEVICE=cuda UNITER_TEST_PRECISION=bf16 python -m pytest -m device
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data import batch as data_batch
from data.batch import Example, Image, PackedBatch, Seq

GOLDEN = Path(__file__).parent / "golden"
TINY = json.loads((GOLDEN / "tiny_config.json").read_text())
CLS, SEP, MASK = TINY["_cls"], TINY["_sep"], TINY["_mask"]
IMG_DIM, IMG_LABEL_DIM = TINY["_img_dim"], TINY["_img_label_dim"]
DEVICE = torch.device(os.environ.get("UNITER_TEST_DEVICE", "cpu"))
PRECISION = os.environ.get("UNITER_TEST_PRECISION", "fp32")
EXACT = PRECISION == "fp32"  # in half precision nearly equal scores may change places
# fp32: the largest difference of a number, absolute and relative; sums have another order on a GPU than on a CPU.
ATOL = RTOL = 1e-5 if DEVICE.type == "cpu" else 5e-5
# Half precision (8 bits of a number in bf16, 11 in fp16): the size of the difference over the size of the reference.
HALF = {"bf16": 0.03, "fp16": 0.004}
HALF_GRADIENT = {"bf16": 0.1, "fp16": 0.02}
PADDING = 1e3  # the reference marks padding with scores beyond this


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
    largest = max(golden["l2"] for golden in expected.values() if golden is not None)
    for name, golden in expected.items():
        grad = named[name].grad
        if golden is None:
            assert grad is None, name
            continue
        assert grad is not None, name
        flat = grad.double().flatten().cpu()
        l2, proj = flat.norm().item(), (flat * torch.arange(len(flat)).double().cos()).sum().item()
        tolerance = 1e-6 + 1e-4 * golden["l2"]
        if not EXACT:  # some gradients are zero but for rounding: that of a bias of keys
            tolerance = HALF_GRADIENT[PRECISION] * (golden["l2"] + 0.1 * largest)
        assert abs(l2 - golden["l2"]) <= tolerance, (name, l2, golden)
        assert abs(proj - golden["proj"]) <= tolerance, (name, proj, golden)


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    """Compare numbers with the golden's: each one in fp32, their differences as a whole in half precision."""
    ours = actual.detach().to("cpu", torch.promote_types(actual.dtype, torch.float32)).numpy()
    if EXACT:
        np.testing.assert_allclose(ours, expected, atol=ATOL, rtol=RTOL)
        return
    assert ours.shape == np.shape(expected)
    real = np.abs(expected) < PADDING
    np.testing.assert_array_equal(ours[~real], expected[~real])
    error, size = np.linalg.norm(ours[real] - expected[real]), np.linalg.norm(expected[real])
    assert error <= HALF[PRECISION] * size + 1e-4, (error, size)


def collate(task: str, examples: list[Example], img_dim: int) -> PackedBatch:
    """The packed batch of `examples` on the device of the tests."""
    return data_batch.collate(task, examples, img_dim).to(DEVICE)


def load(model: Any, directory: str) -> Any:
    """The golden's weights in `model`: no name missing, none unexpected."""
    model.load_state_dict(state_dict(directory), strict=True)
    return model.to(DEVICE).eval()


def backward(loss: torch.Tensor) -> None:
    """Compute gradients outside of autocast, as training does."""
    with torch.autocast(DEVICE.type, enabled=False):
        loss.backward()


def check_backward(model: Any, loss: torch.Tensor, name: str) -> None:
    """Compare the gradients of a scalar with those of the golden `name`."""
    backward(loss)
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
