"""Macro accuracy, class weights and focal loss against scikit-learn, torch and definitions."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eca_lightning import FocalLoss, ImageClassifier
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.losses import (
    balanced_weights,
    classification_loss,
    weights_of,
)
from eca_lightning.classification.metrics import ClassCounts, macro_accuracy, recalls

LABELS = torch.tensor([2, 0, 4, 1, 2, 3])
LOSSES = ["cross_entropy", "binary_cross_entropy", FocalLoss(2.0), FocalLoss(0.5)]


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(6, 5, generator=generator) * 3).requires_grad_()


def test_recall_and_macro_accuracy_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 4, 60), rng.normal(size=(60, 5)).astype(np.float32)
    counted = rng.random(60) < 0.8
    counts = ClassCounts(5)
    for start in (0, 25, 40):
        part = slice(start, {0: 25, 25: 40, 40: 60}[start])
        given = np.where(counted, labels, -1)[part]
        counts.update(torch.tensor(logits[part]), torch.tensor(given))
    found, predicted = counts.compute(), logits.argmax(1)[counted]
    true = labels[counted]
    recall = metrics.recall_score(true, predicted, average=None, labels=range(4))
    np.testing.assert_allclose(recalls(found)[:4], recall, rtol=1e-6)
    assert recalls(found)[4].isnan()
    with pytest.warns(UserWarning, match="not in y_true"):
        expected = metrics.balanced_accuracy_score(true, predicted)
    assert float(macro_accuracy(found)) == pytest.approx(expected)
    assert found[2].tolist() == np.bincount(predicted, minlength=5).tolist()


def test_predictions_that_are_no_numbers_are_never_right():
    counts = ClassCounts(2)
    counts.update(torch.tensor([[float("nan"), 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert counts.compute().tolist() == [[1, 1], [0, 1], [0, 1]]


def test_balanced_weights_are_scikit_learns():
    utils = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.repeat(np.arange(4), [40, 3, 10, 7])
    expected = utils.compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(balanced_weights(np.bincount(labels).tolist()), expected, rtol=1e-6)
    assert balanced_weights([2, 0, 2]).tolist() == [1, 0, 1]


def test_weighted_cross_entropy_is_torchs(logits):
    weights = torch.tensor([1.0, 0.5, 3.0, 0.0, 2.0])
    found = classification_loss(logits, LABELS, class_weights=weights)
    torch.testing.assert_close(found, F.cross_entropy(logits, LABELS, weights))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_weights_repeat_images(logits, loss):
    """An image of a class that weighs 2 counts as two images do, in mixtures as well."""
    weights = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0])
    twice = torch.tensor([0, 0, 1, 2, 3, 4, 4, 5])
    for targets in (LABELS, F.one_hot(LABELS, 5).float()):
        expected = classification_loss(logits[twice], targets[twice], loss)
        found = classification_loss(logits, targets, loss, class_weights=weights)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_its_definition(logits, gamma):
    p = logits.double().softmax(1)[torch.arange(6), LABELS]
    expected = -((1 - p) ** gamma * p.log()).mean()
    found = classification_loss(logits, LABELS, FocalLoss(gamma))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    padded = classification_loss(logits, LABELS.clone().fill_(-1), FocalLoss(gamma))
    assert padded.isnan()
    certain = torch.tensor([[200.0, 0.0]], requires_grad=True)
    classification_loss(certain, torch.tensor([0]), FocalLoss(gamma)).backward()
    assert certain.grad.isfinite().all()


class Owned(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


def test_losses_and_weights_that_do_not_fit_are_refused(logits):
    backbone = BackboneConfig("resnet20", num_classes=3)
    with pytest.raises(ValueError, match=r"must be left out with model\.loss Focal"):
        ImageClassifier(backbone, loss=FocalLoss(), label_smoothing=0.1)
    with pytest.raises(ValueError, match="Owned has parameters to be trained"):
        ImageClassifier(backbone, loss=Owned())
    with pytest.raises(ValueError, match="gamma must be at least 0"):
        FocalLoss(-1)
    with pytest.raises(ValueError, match="reduction: none"):
        classification_loss(logits, LABELS, nn.CrossEntropyLoss(), class_weights=torch.ones(5))
    for given in ([1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, float("nan"), 1.0]):
        with pytest.raises(ValueError, match="class_weights must be 3 numbers"):
            weights_of(given, None, 3)
    with pytest.raises(ValueError, match="needs a data module with class_counts"):
        weights_of("balanced", None, 3)


def test_a_loss_of_ones_own_trains_and_is_in_no_checkpoint(
    make_trainer, tiny_data, tmp_path, caplog
):
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), ignore_index=-1)
    model = ImageClassifier(BackboneConfig("resnet20"), loss=loss, class_metrics=True)
    trainer = make_trainer(logger=False, limit_train_batches=1)
    trainer.fit(model, datamodule=tiny_data)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "own.ckpt")
    assert loaded.loss == "cross_entropy"
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    further = make_trainer(logger=False, limit_train_batches=1, max_epochs=2)
    further.fit(loaded, datamodule=tiny_data, ckpt_path=tmp_path / "own.ckpt")
    assert "with the loss cross_entropy (CrossEntropyLoss() in the checkpoint)" in caplog.text
    names = {f"val/recall/{name}" for name in tiny_data.class_names}
    assert names <= trainer.callback_metrics.keys()
    assert names <= set(model.logged_metrics())


def test_weights_lie_on_the_device_to_which_the_model_moves(make_trainer, tiny_data, monkeypatch):
    model = ImageClassifier(BackboneConfig("resnet20"), class_weights=[1.0, 2.0, 3.0])
    trainer = make_trainer(logger=False)
    monkeypatch.setattr(type(trainer.strategy), "root_device", torch.device("meta"))
    model.trainer, trainer.datamodule = trainer, tiny_data
    tiny_data.setup("fit")
    model.setup("fit")
    model.trainer = None
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    model.to("meta")
    with pytest.warns(UserWarning, match="trying to `self.log"):
        assert model.training_step((images.to("meta"), labels.to("meta")), 0).shape == ()


def test_classes_that_are_never_predicted_are_named_at_the_end(make_trainer, tiny_data):
    model = ImageClassifier(
        BackboneConfig("resnet20", num_classes=3), optimizer=lambda p: torch.optim.SGD(p, lr=0.0)
    )
    with torch.no_grad():
        model.backbone.fc.bias.copy_(torch.tensor([0.0, 1e3, 0.0]))
    trainer = make_trainer(logger=False, limit_train_batches=1)
    with pytest.warns(UserWarning, match="2 of 3 classes were never predicted .* red, blue"):
        trainer.fit(model, datamodule=tiny_data)
    assert trainer.callback_metrics["val/macro_accuracy"] == pytest.approx(1 / 3)
