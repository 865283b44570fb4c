"""One update: what is not finite is skipped and counted, what is finite is stepped on; precision by device."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from optim.precision import Precision
from optim.skipped import MAX_SKIPPED_IN_A_ROW, SkippedSteps
from optim.task import MicroBatches
from optim.train_state import TrainState
from optim.update import Updater
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
        entries=["itm_coco", "mlm_coco"],
        head=None,
        gradient_divisor=MicroBatches(1, 2, options["accumulation"]).gradient_divisor(ranks=1),
    )


def step(model, update, k, poison=None, entry=0):
    loss = model(torch.ones(4, 3, dtype=model.weight.dtype)).pow(2).mean()
    if poison == "loss":
        loss = loss * float("nan")
    loss.backward()
    if poison == "gradient":
        model.weight.grad[0, 0] = float("inf")
    return update.step(k, [loss.detach()], entry)


@pytest.mark.parametrize("optim", ["adamw", "adam", "adamax"])
@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_that_is_not_finite_changes_nothing(optim, poison, dtype):
    model, update = updater(optim, dtype)
    step(model, update, 1)
    before = [p.detach().clone() for p in model.parameters()]
    step(model, update, 2, poison)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert update.skipped.totals() == {"itm_coco": 1, "mlm_coco": 0}
    step(model, update, 3)
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert update.skipped.counts.tolist() == [[1, 0, 1], [0, 0, 0]]  # in all, in a row, the most in a row


def test_a_loss_of_one_rank_that_is_not_finite_is_told_to_all_by_a_gradient():
    """The gradients alone may be finite. What one rank adds to them makes every rank skip the step."""
    model, update = updater("adamw")
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(4, 3)).mean().backward()
    norm = update.step(1, [torch.tensor(1.0), torch.tensor(float("inf"))])
    assert not torch.isfinite(norm) and update.skipped.totals()["itm_coco"] == 1
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))


def test_too_many_in_a_row_of_one_entry_stop_the_run():
    """Finite steps of another entry between them change nothing."""
    model, update = updater("adamw")
    for k in range(1, 2 * MAX_SKIPPED_IN_A_ROW, 2):
        update.skipped.check(k)
        step(model, update, k, entry=0)
        step(model, update, k + 1, "loss", entry=1)
    step(model, update, k + 2, entry=1)  # too late: the run would have stopped, had it logged every step
    with pytest.raises(InputError, match=r"20 steps of mlm_coco in a row[\s\S]*mlm_coco, .* by step 41"):
        update.skipped.check(k + 2)
    assert update.skipped.totals() == {"itm_coco": 0, "mlm_coco": MAX_SKIPPED_IN_A_ROW}


def test_a_finite_step_of_the_entry_ends_its_row():
    model, update = updater("adamw")
    for k in range(1, 3 * MAX_SKIPPED_IN_A_ROW):
        step(model, update, k, None if k % MAX_SKIPPED_IN_A_ROW == 0 else "gradient", entry=1)
    update.skipped.check(k)
    assert update.skipped.counts[1].tolist() == [57, 19, 19]


def test_counters_of_skipped_steps_go_by_name_when_a_run_resumes():
    before = SkippedSteps(["a", "b"], CPU)
    for entry in (0, 0, 1):
        before.add(entry, torch.tensor(True))
    after = SkippedSteps(["new", "a"], CPU)
    after.load_state_dict(before.state_dict())
    assert (after.totals(), after.earlier) == ({"new": 0, "a": 2}, 1)
    after.load_state_dict(torch.tensor([3, 1]))  # as train states had it before entries were counted apart
    assert after.earlier == 3


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


def test_a_resumed_optimiser_has_its_averages_and_the_options_of_today():
    _, before = updater("adamw")
    step(_, before, 1)
    _, after = updater("adamw", betas=(0.5, 0.6), weight_decay=0.3, lr_mul=1.0)
    after.load_state_dict(before.state_dict())
    groups = after.optimizer.param_groups
    assert all(group["betas"] == (0.5, 0.6) for group in groups) and {g["weight_decay"] for g in groups} == {0.0, 0.3}
    first, second = before.optimizer.state_dict()["state"], after.optimizer.state_dict()["state"]
    assert all(torch.equal(first[k]["exp_avg"], second[k]["exp_avg"]) for k in first) and len(second) == 2
    _, other = updater("adamax")
    other.load_state_dict(before.state_dict())  # it keeps other averages, which start anew
    assert other.optimizer.state_dict()["state"] == {}


def test_precision_names():
    assert Precision(None, False, CPU).name == "fp32"
    assert Precision(None, True, CPU).name in ("bf16", "fp32")  # bf16 where this CPU has it
    assert Precision("fp64", True, CPU).cast(nn.Linear(1, 1)).weight.dtype == torch.float64
    with pytest.raises(InputError, match="fp16"):
        Precision("fp16", False, CPU)


def test_a_score_that_is_nan_is_not_the_best_for_ever():
    state = TrainState(valid_steps=1, best=(0.5, 1))
    assert not state.is_better(float("nan")) and state.is_better(0.6)
    state.best = (float("nan"), 2)
    assert state.is_better(0.1)
