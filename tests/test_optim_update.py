"""One update: what is not finite is skipped and counted, what is finite is stepped on; precision by device."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from optim.precision import Precision
from optim.task import MicroBatches
from optim.update import MAX_SKIPPED_IN_A_ROW, Updater
from utils.distributed import World
from utils.errors import InputError

CPU = torch.device("cpu")


def updater(optim: str, dtype=torch.float32, **changes):
    options = {
        "weight_decay": 0.1,
        "lr_mul": 1.0,
        "optim": optim,
        "learning_rate": 0.1,
        "betas": (0.9, 0.98),
        "accumulation": "mean",
        "grad_norm": 1.0,
        "warmup_steps": 0,
        "num_train_steps": 100,
        "decay": "constant",
    } | changes
    torch.manual_seed(0)
    model = nn.Linear(3, 2).to(dtype)
    return model, Updater(
        model,
        SimpleNamespace(**options),
        precision=Precision("fp32", False, CPU),
        world=World(),
        head=None,
        gradient_divisor=MicroBatches(1, 2, options["accumulation"]).gradient_divisor(ranks=1),
    )


def step(model, update, k, poison=None):
    loss = model(torch.ones(4, 3, dtype=model.weight.dtype)).pow(2).mean()
    if poison == "loss":
        loss = loss * float("nan")
    loss.backward()
    if poison == "gradient":
        model.weight.grad[0, 0] = float("inf")
    return update.step(k, [loss.detach()])


@pytest.mark.parametrize("optim", ["adamw", "adam", "adamax"])
@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_that_is_not_finite_changes_nothing(optim, poison, dtype):
    model, update = updater(optim, dtype)
    step(model, update, 1)
    before = [p.detach().clone() for p in model.parameters()]
    step(model, update, 2, poison)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert update.check_skipped(2, "mlm") == 1
    step(model, update, 3)
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert update.skipped.tolist() == [1, 0]  # in all, in a row


def test_too_many_in_a_row_stop_the_run():
    model, update = updater("adamw")
    for k in range(1, MAX_SKIPPED_IN_A_ROW + 1):
        assert update.check_skipped(k, "mlm_coco") == k - 1
        step(model, update, k, "loss")
    with pytest.raises(InputError, match="mlm_coco"):
        update.check_skipped(MAX_SKIPPED_IN_A_ROW, "mlm_coco")


@pytest.mark.parametrize(("accumulation", "factor"), [("sum", 1.0), ("mean", 0.5)])
def test_accumulation(accumulation, factor):
    """Two micro-batches: summed as the release does, or averaged."""
    model, update = updater("adamw", accumulation=accumulation, grad_norm=-1)
    single = torch.autograd.grad(model(torch.ones(4, 3)).pow(2).mean(), model.weight)[0]
    for _ in range(2):
        model(torch.ones(4, 3)).pow(2).mean().backward()
    torch.testing.assert_close(model.weight.grad, 2 * single)
    bias = model.bias.grad.clone()
    norm = update.step(1, [torch.tensor(0.0)])
    torch.testing.assert_close(norm, factor * torch.cat([2 * single.flatten(), bias]).norm())


def test_precision_names():
    assert Precision(None, False, CPU).name == "fp32"
    assert Precision(None, True, CPU).name in ("bf16", "fp32")  # bf16 where this CPU has it
    assert Precision("fp64", True, CPU).cast(nn.Linear(1, 1)).weight.dtype == torch.float64
    with pytest.raises(InputError, match="fp16"):
        Precision("fp16", False, CPU)
