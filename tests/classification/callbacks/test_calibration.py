"""The calibration error, beside one binned by hand."""

import math

import numpy as np
import pytest
import torch

from eca_lightning import CalibrationMonitor


def by_hand(probabilities, labels, bins):
    """Guo et al., Eq. 3, in float64."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    interval = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for k in range(bins):
        chosen = interval == k
        if chosen.any():
            gap = abs(correct[chosen].mean() - confidence[chosen].mean())
            error += chosen.mean() * gap
    return error


@pytest.mark.parametrize("batch_size", [7, 40])
def test_counts_each_image_once_and_padding_never(make_trainer, classifier, tiny_data, batch_size):
    tiny_data.batch_size = batch_size
    model = classifier()
    trainer = make_trainer(CalibrationMonitor(bins=10))
    (scores,) = trainer.validate(model, datamodule=tiny_data, verbose=False)
    kept = torch.arange(40) % 10 != 9
    with torch.no_grad():
        probabilities = model.eval()(tiny_data.images[kept]).softmax(1).double().numpy()
    expected = by_hand(probabilities, tiny_data.labels[kept].numpy(), 10)
    assert expected > 0.05
    assert scores["val/calibration_error"] == pytest.approx(expected, rel=1e-4)


def test_each_validation_starts_anew(fit):
    """A resumed run has nothing to go on with: the weights stand still, so the error does too."""
    errors = fit(CalibrationMonitor(), limit_train_batches=0, max_epochs=1, num_sanity_val_steps=2)
    assert "val/calibration_error" not in errors.tags("scalars")  # tried out is not validated
    errors = fit(CalibrationMonitor(), limit_train_batches=2, val_check_interval=1)
    assert len(errors.scalars("val/calibration_error")) == 2


def test_predictions_that_are_no_numbers_have_no_confidence(make_trainer, classifier, tiny_data):
    model = classifier()
    with torch.no_grad():
        model.backbone.fc.weight.fill_(math.nan)
    trainer = make_trainer(CalibrationMonitor())
    with pytest.warns(UserWarning, match="36 predictions are NaN or infinite in validation"):
        trainer.fit(model, datamodule=tiny_data)
    assert trainer.callback_metrics["val/loss"].isnan()
    assert trainer.callback_metrics["val/calibration_error"] == 0  # none is right, label 0 or not


def test_bins_must_be_positive():
    with pytest.raises(ValueError, match="bins"):
        CalibrationMonitor(bins=0)
