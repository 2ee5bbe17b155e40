"""Counted costs of the detectors against those that table 5 of the paper prints."""

import io
from functools import cache

import pytest
import torch
from rich.console import Console
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

from eca_lightning.analysis.detector_complexity import (
    detector_complexity,
    detector_table,
    paper_detectors,
)
from eca_lightning.backbones import BackboneConfig
from eca_lightning.tasks.detectors import DetectorConfig

ROWS = {
    (row.config.name, row.config.backbone.name, row.config.backbone.attention): row
    for row in paper_detectors()
}
OWN = [key for key, row in ROWS.items() if not row.quoted]
QUOTED = [key for key, row in ROWS.items() if row.quoted]


@cache
def cost(key):
    return detector_complexity(ROWS[key].config)


def test_the_file_is_the_papers_table_5():
    """Three detectors on two depths with three kinds of attention, and two rows from GCNet."""
    printed = {key: (row.parameters, row.gflops) for key, row in ROWS.items()}
    assert len(printed) == 3 * 2 * 3 + 2
    assert printed["faster_rcnn", "resnet50", None] == (41.53, 207.07)
    assert printed["mask_rcnn", "resnet101", "se"] == (67.89, 351.84)
    assert printed["mask_rcnn", "resnet50", "gc"] == (46.90, 279.60)
    assert printed["retinanet", "resnet101", "eca"] == (56.74, 315.57)


@pytest.mark.parametrize("key", OWN)
def test_parameters_and_operations_agree_with_every_printed_digit(key):
    row = ROWS[key]
    assert f"{cost(key).parameters / 1e6:.2f}" == f"{row.parameters:.2f}"
    assert f"{cost(key).operations / 1e9:.2f}" == f"{row.gflops:.2f}"


@pytest.mark.parametrize("key", QUOTED)
def test_quoted_rows_agree_in_parameters_and_nearly_in_operations(key):
    """GCNet's counter gives its plain network 1.4% more operations than table 5 gives it."""
    assert cost(key).parameters / 1e6 == pytest.approx(ROWS[key].parameters, rel=0.001)
    assert cost(key).operations / 1e9 == pytest.approx(ROWS[key].gflops, rel=0.02)


@pytest.mark.parametrize(
    ("name", "builder"),
    [("faster_rcnn", fasterrcnn_resnet50_fpn), ("mask_rcnn", maskrcnn_resnet50_fpn)],
)
def test_parameters_are_torchvisions(name, builder):
    """All of them: it lets every layer learn where it gets no weights."""
    with torch.device("meta"):
        theirs = builder(weights=None, weights_backbone=None, num_classes=81)
    config = DetectorConfig(name, BackboneConfig("resnet50"), norm="batch", trainable_layers=5)
    expected = sum(p.numel() for p in theirs.parameters())
    assert detector_complexity(config).parameters == expected
    fixed = sum(
        p.numel()
        for key, p in theirs.backbone.body.named_parameters()
        if key.startswith(("conv1", "bn1", "layer1"))
    )
    assert cost((name, "resnet50", None)).parameters == expected - fixed


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "retinanet"])
def test_eca_learns_80_parameters_more_15_of_them_in_the_fixed_stage(name):
    plain, eca = (cost((name, "resnet50", attention)).parameters for attention in (None, "eca"))
    assert eca - plain == 80 - 3 * 5


def test_counting_leaves_the_default_device():
    cost(OWN[0])
    assert nn.Linear(1, 1).weight.device == torch.device("cpu")


def test_the_table_shows_every_figure_in_a_narrow_terminal():
    console = Console(width=80, file=io.StringIO())
    console.print(detector_table())
    printed = console.file.getvalue()
    assert "…" not in printed
    for key, row in ROWS.items():
        figures = (row.parameters, cost(key).parameters / 1e6, cost(key).operations / 1e9)
        assert all(f"{figure:.2f}" in printed for figure in (*figures, row.gflops)), key
