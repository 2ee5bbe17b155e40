"""Detectors over our backbones beside torchvision's own."""

import copy
from dataclasses import replace

import pytest
import torch
from thorough import first_of, thorough
from torch import nn
from torchvision.models import mobilenet_v2, resnet50
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.backbone_utils import (
    BackboneWithFPN,
    _mobilenet_extractor,
    _resnet_fpn_extractor,
)
from torchvision.ops import FrozenBatchNorm2d

from eca_lightning.attention.fused.tail import FusedTail
from eca_lightning.backbones import BackboneConfig
from eca_lightning.detection.networks import DETECTORS, DetectorConfig

SMALL = {"min_size": [64], "max_size": 96}
# An untrained network is sure of nothing; few proposals keep the tests short.
RCNN = {
    "box_score_thresh": 0.0,
    "box_detections_per_img": 30,
    "rpn_post_nms_top_n_test": 10,
    "rpn_post_nms_top_n_train": 50,
    "box_batch_size_per_image": 16,
}
OPTIONS = {"faster_rcnn": RCNN, "mask_rcnn": RCNN, "retinanet": {"score_thresh": 0.0}}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(name="faster_rcnn", backbone="resnet18", attention=None, **settings):
    """A detector for images of 64 pixels and three classes."""
    anchors, options = [8, 16, 32, 64, 128], OPTIONS[name]
    defaults = {"num_classes": 3, "anchor_sizes": anchors, "options": options, **SMALL}
    return DetectorConfig(name, BackboneConfig(backbone, attention), **{**defaults, **settings})


def images(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator, dtype=dtype) for size in [(64, 80), (90, 64)]]


def targets(classes, first):
    """Two objects in the first image, of the first and the last class, and one in the second."""
    boxes = [[[4.0, 5, 30, 40], [20, 10, 70, 60]], [[10, 10, 50, 80]]]
    labels = [[first, first + classes - 1], [first]]
    masks = [torch.zeros(2, 64, 80, dtype=torch.uint8), torch.zeros(1, 90, 64, dtype=torch.uint8)]
    for mask in masks:
        mask[:, 20:40, 22:30] = 1
    return [
        {"boxes": torch.tensor(b), "labels": torch.tensor(n), "masks": m}
        for b, n, m in zip(boxes, labels, masks, strict=True)
    ]


def losses(network, classes, first):
    torch.manual_seed(0)
    return network.train()(images(), targets(classes, first))


def norms(network, kind):
    return [module for module in network.modules() if type(module) is kind]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "builder", "settings"),
    [
        ("mask_rcnn", maskrcnn_resnet50_fpn, {}),
        *thorough(("faster_rcnn", fasterrcnn_resnet50_fpn, {})),
        ("retinanet", retinanet_resnet50_fpn, {"p6_from": "p5"}),
        ("retinanet", retinanet_resnet50_fpn_v2, {"head_version": 2}),
    ],
)
def test_plain_detectors_are_torchvisions(name, builder, settings):
    """Its ready-made ones without weights learn in all layers and have batch norms."""
    options = OPTIONS[name]
    theirs = builder(weights=None, weights_backbone=None, min_size=64, max_size=96, **options)
    first = 0 if name == "retinanet" else 1
    config = DetectorConfig(
        name,
        BackboneConfig("resnet50"),
        num_classes=91 - first,
        norm="batch",
        trainable_layers=5,
        options=options,
        **SMALL,
        **settings,
    )
    ours = config.build()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    learning = {key for key, value in theirs.named_parameters() if value.requires_grad}
    assert {key for key, value in ours.named_parameters() if value.requires_grad} == learning

    with torch.inference_mode():
        for found, expected in zip(ours.eval()(images()), theirs.eval()(images()), strict=True):
            assert len(expected["boxes"]) > 0
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key], expected[key]) for key in expected)
        found, expected = losses(ours, 90, first), losses(theirs, 90, first)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("layers", range(6))
@pytest.mark.parametrize("norm", ["frozen", *thorough("batch")])
def test_what_learns_is_torchvisions_choice_of_layers(layers, norm):
    layer = FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d
    with torch.device("meta"):
        theirs = _resnet_fpn_extractor(resnet50(norm_layer=layer), layers)
        config = DetectorConfig(
            "faster_rcnn", BackboneConfig("resnet50"), norm=norm, trainable_layers=layers
        )
        ours = config.build().backbone
    assert {key for key, value in ours.named_parameters() if value.requires_grad} == {
        key for key, value in theirs.named_parameters() if value.requires_grad
    }


def test_pyramid_of_mobilenet_v2():
    """torchvision has no detector of it: its FPN computes here what its features give."""
    settings = {"norm": "batch", "trainable_layers": 5, "fpn_channels": 8}
    ours = small(backbone="mobilenet_v2", **settings).build().backbone
    levels = {"3": "0", "6": "1", "13": "2", "18": "3"}
    theirs = BackboneWithFPN(mobilenet_v2().features, levels, [24, 32, 96, 1280], 8)
    theirs.load_state_dict(ours.state_dict())
    batch = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = ours.eval()(batch), theirs.eval()(batch)
    sizes = [tuple(x.shape[2:]) for x in found.values()]
    assert sizes == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_keys_of_mobilenet_v2_are_those_of_torchvisions_extractor():
    with torch.device("meta"):
        theirs = _mobilenet_extractor(mobilenet_v2(), True, 6).body.state_dict().keys()
        settings = {"norm": "batch", "trainable_layers": 5}
        plain, eca = (
            small("retinanet", "mobilenet_v2", attention, **settings).build().backbone.body
            for attention in (None, "eca")
        )
    assert plain.state_dict().keys() == theirs
    assert {key for key in eca.state_dict() if ".attention." not in key} == theirs


@pytest.mark.parametrize("name", DETECTORS)
def test_eca_adds_its_own_kernels_alone(name):
    with torch.device("meta"):
        plain, eca = (
            DetectorConfig(name, BackboneConfig("resnet50", attention)).build()
            for attention in (None, "eca")
        )
    added = eca.state_dict().keys() - plain.state_dict().keys()
    assert plain.state_dict().keys() <= eca.state_dict().keys()
    assert all(".attention.conv.weight" in key for key in added)
    assert sum(p.numel() for p in eca.parameters()) == 80 + sum(
        p.numel() for p in plain.parameters()
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize(
    ("backbone", "attention"),
    [("resnet18", "eca"), *thorough(("mobilenet_v2", "eca"), ("mobilenet_v2", "se"))],
)
def test_detectors_train(name, backbone, attention):
    network = small(name, backbone, attention, norm="batch", trainable_layers=5).build()
    found = losses(network, 3, network.first_label)
    sum(found.values()).backward()
    assert all(loss.isfinite() for loss in found.values())
    for key, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    learning = [
        p for key, p in network.named_parameters() if "attention" in key and p.requires_grad
    ]
    assert learning
    assert all(p.grad.any() for p in learning)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["cbam", "nl", "aa", *thorough("gc", "a2", "gsop")])
def test_other_attention_trains(attention):
    network = small("retinanet", "resnet18", attention, norm="batch").build()
    sum(losses(network, 3, 0).values()).backward()
    gradients = [p.grad for k, p in network.named_parameters() if p.requires_grad]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("backbone", ["resnext50_32x4d", "resnet34", "resnet20"])
def test_other_backbones_detect(backbone):
    """A network of three stages has one level less."""
    sizes = [8, 16, 32, 64] if backbone == "resnet20" else [8, 16, 32, 64, 128]
    network = small("faster_rcnn", backbone, "eca", anchor_sizes=sizes, fpn_channels=16).build()
    with torch.inference_mode():
        found = network.eval()(images())
    assert [list(result) for result in found] == [["boxes", "labels", "scores"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", first_of(DETECTORS, 2))
def test_labels_start_at_first_label(name):
    """Labels of all classes are found, none below the first and none behind the last."""
    options = OPTIONS[name] | ({} if name == "retinanet" else {"box_nms_thresh": 1.0})
    network = small(name, options=options).build().eval()
    with torch.inference_mode():
        labels = torch.cat([found["labels"] for found in network(images())])
    assert labels.unique().tolist() == [network.first_label + k for k in range(3)]


def test_frozen_norms_stay():
    network = small(attention="eca", fpn_channels=8).build()
    before = {key: value.clone() for key, value in network.named_buffers()}
    sum(losses(network, 3, 1).values()).backward()
    assert not norms(network, nn.BatchNorm2d)
    assert len(norms(network, FrozenBatchNorm2d)) == 20
    assert all(torch.equal(value, before[key]) for key, value in network.named_buffers())


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("sync", nn.SyncBatchNorm)])
def test_norms_of_learning_stages_follow_the_batches(norm, kind):
    """Those of the others do not, or a stage that does not learn would change all the same."""
    network = small(attention="eca", norm=norm, fpn_channels=8).build()
    before = {key: value.clone() for key, value in network.named_buffers()}
    sum(losses(network, 3, 1).values()).backward()
    assert len(norms(network, kind)) == 15
    changed = {key for key, value in network.named_buffers() if not torch.equal(value, before[key])}
    expected = {
        f"{key}.{name}"
        for key, module in network.named_modules()
        if type(module) is kind
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert changed == expected
    assert {key.split(".")[2] for key in changed} == {"layer2", "layer3", "layer4"}


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["frozen", "batch", *thorough("sync")])
@pytest.mark.parametrize("training", [True, *thorough(False)])
def test_fused_tails_change_nothing(norm, training):
    outcomes = []
    state = None
    for fused in ("auto", False):
        config = small("retinanet", attention="eca", norm=norm, fpn_channels=8)
        config = replace(config, backbone=replace(config.backbone, fused=fused))
        network = config.build().backbone.double().train(training)
        assert bool(norms(network, FusedTail)) == (fused == "auto")
        state = state or copy.deepcopy(network.state_dict())
        network.load_state_dict(state)
        maps = network(torch.stack([image[:, :64, :64] for image in images(torch.float64)]))
        sum(x.square().sum() for x in maps.values()).backward()
        gradients = {key: p.grad for key, p in network.named_parameters() if p.requires_grad}
        outcomes.append({**maps, **gradients, **dict(network.named_buffers())})
    torch.testing.assert_close(*outcomes, rtol=1e-8, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("fused", ["auto", *thorough(False)])
def test_frozen_norms_under_autocast(fused):
    """Sixteen bits cost either tail their rounding and no more."""
    config = small("retinanet", attention="eca", fpn_channels=8)
    network = replace(config, backbone=replace(config.backbone, fused=fused)).build().backbone
    batch = torch.stack([image[:, :64, :64] for image in images()])
    exact = network(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(batch)
    sum(x.float().square().sum() for x in rounded.values()).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)
    exact, found = (torch.cat([x.flatten() for x in m.values()]) for m in (exact, rounded))
    assert (found - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("convs", [1, 4])
def test_convolutions_of_retinanets_heads(convs):
    network = small("retinanet", head_version=2, fpn_channels=32, head_convs=convs).build()
    assert len(norms(network.head, nn.GroupNorm)) == 2 * convs
    parts = losses(network, classes=3, first=0)
    assert sum(parts.values()).isfinite()


def test_masks_are_found_at_the_pyramids_width():
    network = small("mask_rcnn", fpn_channels=32).build()
    heads = network.roi_heads.mask_head, network.roi_heads.mask_predictor
    layers = [m for head in heads for m in head.modules() if hasattr(m, "in_channels")]
    assert [layer.in_channels for layer in layers] == [32] * 6
    network.eval()
    found = network(images())
    assert found[0]["masks"].shape[1:] == (1, 64, 80)
    losses(network, classes=3, first=1)["loss_mask"].backward()
    assert layers[-1].weight.grad.abs().sum() > 0
