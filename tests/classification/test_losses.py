"""Losses against torch, timm and their definitions in float64."""

import pytest
import torch
from torch.nn import functional as F

from eca_lightning.classification.losses import classification_loss

LABELS = torch.tensor([2, 0, 4, 1, 2, 3])
NAMES = ["cross_entropy", "binary_cross_entropy"]


@pytest.fixture
def logits():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def shares():
    return torch.rand(6, 5, generator=torch.Generator().manual_seed(1)).softmax(dim=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(logits, shares, smoothing):
    for targets in (LABELS, shares):
        loss = classification_loss(logits, targets, label_smoothing=smoothing)
        torch.testing.assert_close(
            loss, F.cross_entropy(logits, targets, label_smoothing=smoothing)
        )


@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_timms(logits, shares, smoothing, threshold):
    timm = pytest.importorskip("timm.loss")
    theirs = timm.BinaryCrossEntropy(smoothing, target_threshold=threshold)
    loss = classification_loss(logits, LABELS, "binary_cross_entropy", smoothing, threshold)
    torch.testing.assert_close(loss, theirs(logits, LABELS))
    # timm's mixup smooths the labels before it mixes them, which comes to the same.
    mixed = shares * (1 - smoothing) + smoothing / 5
    loss = classification_loss(logits, shares, "binary_cross_entropy", smoothing, threshold)
    torch.testing.assert_close(loss, theirs(logits, mixed))


def test_binary_cross_entropy_is_the_mean_over_images_and_classes(logits, shares):
    p, t = logits.double().sigmoid(), shares.double()
    expected = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    loss = classification_loss(logits, shares, "binary_cross_entropy")
    torch.testing.assert_close(loss.double(), expected)


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_a_label_have_no_weight(logits, shares, name):
    counted = torch.tensor([True, False, True, True, False, True])
    labels = LABELS.where(counted, -1)
    rows = shares * counted[:, None]
    for targets, kept in ((labels, LABELS[counted]), (rows, shares[counted])):
        loss = classification_loss(logits, targets, name, 0.1)
        torch.testing.assert_close(loss, classification_loss(logits[counted], kept, name, 0.1))


@pytest.mark.parametrize("name", NAMES)
def test_labels_equal_their_one_hot_rows(logits, name):
    loss = classification_loss(logits, LABELS, name, 0.1)
    one_hot = F.one_hot(LABELS, 5).float()
    torch.testing.assert_close(loss, classification_loss(logits, one_hot, name, 0.1))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_logits_are_summed_in_full(logits, shares, name):
    half = logits.bfloat16()
    loss = classification_loss(half, shares, name)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, classification_loss(half.float(), shares, name))
