"""The count of detectors by itself; test_audit.py has its figures beside the paper's."""

import pytest
import torch
from thorough import thorough
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

from eca_lightning.backbones import BackboneConfig
from eca_lightning.detection.complexity import detector_complexity
from eca_lightning.detection.networks import DetectorConfig


def cost(name, attention=None, trainable_layers=3):
    backbone = BackboneConfig("resnet50", attention)
    return detector_complexity(
        DetectorConfig(name, backbone, norm="batch", trainable_layers=trainable_layers)
    )


@pytest.mark.parametrize(
    ("name", "builder"),
    [("faster_rcnn", fasterrcnn_resnet50_fpn), ("mask_rcnn", maskrcnn_resnet50_fpn)],
)
def test_parameters_are_torchvisions(name, builder):
    """All of them: it lets every layer learn where it gets no weights."""
    with torch.device("meta"):
        theirs = builder(weights=None, weights_backbone=None, num_classes=81)
    expected = sum(p.numel() for p in theirs.parameters())
    assert cost(name, trainable_layers=5).parameters == expected
    fixed = sum(
        p.numel()
        for key, p in theirs.backbone.body.named_parameters()
        if key.startswith(("conv1", "bn1", "layer1"))
    )
    assert cost(name).parameters == expected - fixed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", *thorough("faster_rcnn", "mask_rcnn")])
def test_eca_learns_80_parameters_more_15_of_them_in_the_fixed_stage(name):
    plain, eca = (cost(name, attention).parameters for attention in (None, "eca"))
    assert eca - plain == 80 - 3 * 5


def test_counting_leaves_the_default_device():
    cost("retinanet")
    assert nn.Linear(1, 1).weight.device == torch.device("cpu")
