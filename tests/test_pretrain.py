"""What validation of pre-training measures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import pretrain
from model.pretrain import UniterForPretraining
from optim.predict import Predictor
from utils.distributed import World

LABELS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.1, 0.4]])  # class 0 is the background
SCORES = torch.tensor([[3.0, 0.0, 1.0], [2.0, 1.0, 0.0], [0.0, -1.0, 2.0]])


def validate(task, reduction="mean"):
    """The scores of three masked regions with `LABELS`, to which the model gives `SCORES`."""
    model = SimpleNamespace(mlm=None, mrfr=None, _region_scores=lambda batch: SCORES)
    model.mrc = lambda batch: UniterForPretraining.mrc(model, batch)
    model.mrckl = lambda batch: UniterForPretraining.mrckl(model, batch)
    task_of = SimpleNamespace(config=SimpleNamespace(mrckl_reduction=reduction))
    batch = SimpleNamespace(task=task, targets={"soft_labels": LABELS})
    return pretrain.Pretraining.score(task_of, pretrain.Pretraining.predict(task_of, model, batch), None)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mrckl_is_validated_by_the_divergence_of_a_region_over_all_classes(reduction):
    """As in the release and in equation 4, whatever the reduction in training."""
    p, q = LABELS.double().numpy(), torch.softmax(SCORES.double(), -1).numpy()
    scores = validate("mrckl", reduction)
    assert scores["loss"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-6)
    assert scores["acc"] == pytest.approx(1 / 3)  # only the first region; the background counts as a class


def test_mrc_is_validated_without_the_background():
    scores = validate("mrc")
    q = torch.log_softmax(SCORES.double(), -1).numpy()
    assert scores["loss"] == pytest.approx(-(q[0, 1] + q[1, 1] + q[2, 2]) / 3, rel=1e-6)
    assert scores["acc"] == pytest.approx(2 / 3)  # of the classes but the background, the first region's is wrong


def test_predictions_that_are_nan_are_said(monkeypatch, caplog):
    """The largest of NaN is the first of them, so accuracies would look like answers."""
    caplog.set_level("WARNING", logger="uniter")
    predictor = Predictor.__new__(Predictor)
    predictor.world = World()
    predictor.task = SimpleNamespace(score=lambda predictions, dataset: {"acc": 0.5})
    values = {"logits": np.array([[0, 1], [np.nan, 1], [np.nan, np.nan]], np.float32), "ids": np.array(["a", "b", "c"])}
    monkeypatch.setattr(predictor, "predict", lambda dataset: values)
    assert predictor.evaluate({"val": None}) == {"val/acc": 0.5}
    assert "val: 2 of 3 predictions (logits) are NaN" in caplog.text
