"""How far the detections of an exported file are from PyTorch's."""

import pytest
import torch

from eca_lightning.detection.export import detection_difference


def detections(*boxes):
    n = len(boxes)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(n, 4),
        "scores": torch.full((n,), 0.5),
        "labels": torch.zeros(n, dtype=torch.int64),
    }


def test_the_largest_distance_counts_whatever_the_order():
    ours = detections([0, 0, 10, 10], [20, 20, 50, 50])
    theirs = detections([20, 20, 50, 52], [0, 0, 10, 11])
    assert detection_difference(ours, theirs, length=100) == pytest.approx(0.02)


def test_nothing_equals_nothing_and_nothing_else():
    nothing, something = detections(), detections([0, 0, 10, 10])
    assert detection_difference(nothing, nothing, length=100) == 0
    assert detection_difference(nothing, something, length=100) == torch.inf
    assert detection_difference(something, nothing, length=100) == torch.inf
