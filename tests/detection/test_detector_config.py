"""The options of detectors, and what is wrong with them."""

from dataclasses import asdict, replace

import pytest
import torch
from tiny_scenes import tiny_detector

from eca_lightning.backbones import BackboneConfig
from eca_lightning.detection.networks import DetectorConfig


def seen_sizes(network, runs):
    """Shorter sides of the batches that an image is scaled to."""
    image = torch.rand(3, 50, 50)
    return {min(network.transform([image])[0].tensors.shape[2:]) for _ in range(runs)}


def test_several_sizes():
    network = tiny_detector("retinanet", min_size=[32, 64, 96], fpn_channels=8).build()
    assert seen_sizes(network.eval(), 2) == {96}
    assert seen_sizes(network.train(), 20) == {32, 64, 96}


@pytest.mark.parametrize("p6_from", ["c5", "p5"])
def test_source_of_p6(p6_from):
    """With as many channels in P5 as in C5 too, where torchvision's block would take P5."""
    backbone = tiny_detector("retinanet", fpn_channels=128, p6_from=p6_from).build().backbone.eval()
    with torch.no_grad():
        batch = torch.rand(1, 3, 64, 64)
        c5, found = list(backbone.body(batch).values())[-1], backbone(batch)
        source = c5 if p6_from == "c5" else found["2"]
        assert torch.equal(found["p6"], backbone.fpn.extra_blocks.p6(source))


def test_anchors_of_each_level():
    anchors = tiny_detector().build().rpn.anchor_generator
    assert [level[0] for level in anchors.sizes] == [8, 16, 24, 32, 48]
    octaves = tiny_detector("retinanet").build().anchor_generator.sizes
    assert [list(level) for level in octaves[:2]] == [[8, 10, 12], [16, 20, 25]]
    single = tiny_detector("retinanet", anchor_scales=1).build()
    assert [list(level) for level in single.anchor_generator.sizes[:2]] == [[8], [16]]
    assert single.head.classification_head.cls_logits.out_channels == 3 * 2  # ratios, classes
    halves = tiny_detector(anchor_scales=2).build().rpn.anchor_generator.sizes
    assert [list(level) for level in halves[:2]] == [[8, 11], [16, 22]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "yolo"}, "unknown detector 'yolo'; known: faster_rcnn, mask_rcnn, retinanet"),
        ({"norm": "group"}, "norm must be one of frozen, batch, sync, got 'group'"),
        ({"p6_from": "p6"}, "p6_from must be one of c5, p5, got 'p6'"),
        ({"p6_from": "p5"}, "p6_from is an option of retinanet: leave it out for faster_rcnn"),
        ({"head_version": 3}, "head_version must be one of 1, 2, got 3"),
        ({"head_version": 2}, "head_version is an option of retinanet"),
        (
            {"name": "retinanet", "head_version": 2, "fpn_channels": 40, "options": {}},
            "head_version 2 needs fpn_channels divisible by 32, got 40",
        ),
        ({"head_convs": 1}, "head_convs is an option of retinanet"),
        ({"name": "retinanet", "head_convs": 5, "options": {}}, "head_convs .* 1 to 4, got 5"),
        ({"anchor_scales": 0}, "anchor_scales must be at least 1, got 0"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"fpn_channels": 0}, "fpn_channels must be at least 1, got 0"),
        (
            {"trainable_layers": 6},
            "trainable_layers must be from 0 to 5, .*shallow.basic_blocks, got 6",
        ),
        ({"trainable_layers": -1}, "trainable_layers must be from 0 to 5"),
        ({"min_size": []}, "min_size must be one length or several"),
        ({"min_size": [64, 0]}, r"min_size .* got \[64, 0\]"),
        ({"min_size": [128]}, r"from 1 to max_size, 96, got \[128\]"),
        ({"anchor_sizes": [8, 16]}, "anchor_sizes must be 5 lengths, one for each level"),
        (
            {"options": {"box_nms_tresh": 0.5}},
            r"unknown faster_rcnn option 'box_nms_tresh' \(did you mean 'box_nms_th",
        ),
        ({"options": {"min_size": 800}}, "unknown faster_rcnn option 'min_size'"),
        ({"options": {"rpn_head": None}}, "unknown faster_rcnn option 'rpn_head'"),
        (
            {"backbone": BackboneConfig("shallow.basic_blocks", in_channels=1)},
            "backbone.in_channels is 1",
        ),
        ({"backbone": BackboneConfig("resnet19")}, "unknown backbone 'resnet19'"),
    ],
)
def test_bad_options(settings, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny_detector(), **settings).build()


def test_options_reach_torchvision():
    network = tiny_detector(options={"box_nms_thresh": 0.3, "size_divisible": 16}).build()
    assert network.roi_heads.nms_thresh == 0.3
    assert network.transform.size_divisible == 16


def test_a_config_outlives_being_plain_data():
    config = tiny_detector("retinanet", options={"topk_candidates": 10})
    assert DetectorConfig(**asdict(config)) == config
