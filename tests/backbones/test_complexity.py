"""The counters by themselves; test_audit.py has their figures beside the paper's."""

import pytest
import torch
from torch import nn

from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.complexity import complexity


def test_macs_equal_a_count_by_hand():
    """resnet20 at 32 x 32: first convolution, three stages, two projections, classifier."""
    stem = 32 * 32 * 3 * 16 * 9
    first = 6 * 32 * 32 * 16 * 16 * 9
    second = 16 * 16 * 32 * 9 * (16 + 5 * 32) + 16 * 16 * 16 * 32
    third = 8 * 8 * 64 * 9 * (32 + 5 * 64) + 8 * 8 * 32 * 64
    cost = complexity(BackboneConfig("resnet20", num_classes=10), image_size=32)
    assert cost.macs == stem + first + second + third + 64 * 10


@pytest.mark.slow
def test_counting_allocates_nothing_and_leaves_the_default_device():
    complexity(BackboneConfig("resnet152"))
    assert nn.Linear(1, 1).weight.device == torch.device("cpu")
