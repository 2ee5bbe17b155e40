"""Temperature scaling, against scipy's minimizer and a plain calibration error."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from eca_lightning.export.temperature import RANGE, calibration_error, fit_temperature


def overconfident(scale, seed=0):
    """Logits of 500 images whose classes they are sure of beyond their accuracy."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(500, 6))
    labels = np.array([rng.choice(6, p=softmax(row)) for row in logits])
    return (scale * logits).astype(np.float32), labels


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_it_is_what_scipy_finds(scale):
    logits, labels = overconfident(scale)

    def loss(temperature):
        return -log_softmax(logits.astype(float) / temperature, 1)[range(500), labels].mean()

    best = minimize_scalar(loss, bounds=RANGE, method="bounded", options={"xatol": 1e-9}).x
    found = fit_temperature(torch.tensor(logits), torch.tensor(labels))
    assert found == pytest.approx(best, rel=1e-5)
    assert found == pytest.approx(scale, rel=0.2)


def test_logits_that_are_always_right_are_not_scaled_without_end():
    logits = torch.eye(4)
    assert fit_temperature(logits, torch.arange(4)) == pytest.approx(RANGE[0])
    assert fit_temperature(logits, torch.arange(4).flip(0)) == pytest.approx(RANGE[1])


def test_the_error_is_the_mean_gap_of_confidence_and_accuracy():
    logits, labels = overconfident(4.0, seed=1)
    probabilities = softmax(logits, 1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.ceil(confidence * 15)
    gaps = [
        abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    found = calibration_error(torch.tensor(logits), torch.tensor(labels))
    assert found == pytest.approx(sum(gaps), abs=1e-5)
    temperature = fit_temperature(torch.tensor(logits), torch.tensor(labels))
    assert calibration_error(torch.tensor(logits / temperature), torch.tensor(labels)) < found / 3
