"""Pyramids of features, alone, under torchvision's FPN and beside torchvision's own extraction."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FeaturePyramidNetwork

from eca_lightning import create_backbone
from eca_lightning.weights.match import load_weights

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("settings", "channels", "strides"),
    [
        ({"name": "resnet18"}, [64, 128, 256, 512], [4, 8, 16, 32]),
        ({"name": "resnet18", "stem": "small"}, [64, 128, 256, 512], [1, 2, 4, 8]),
        ({"name": "resnet50"}, [256, 512, 1024, 2048], [4, 8, 16, 32]),
        ({"name": "mobilenet_v2"}, [24, 32, 96, 1280], [4, 8, 16, 32]),
        ({"name": "mobilenet_v2", "stem": "small"}, [24, 32, 96, 1280], [1, 2, 4, 8]),
        ({"name": "resnet20"}, [16, 32, 64], [1, 2, 4]),
    ],
)
@pytest.mark.parametrize("attention", [None, "eca"])
def test_channels_and_strides(settings, attention, channels, strides):
    network = create_backbone(attention=attention, features_only=True, **settings).eval()
    with torch.inference_mode():
        maps = network(IMAGES)
    assert isinstance(maps, OrderedDict)
    assert list(maps) == [str(level) for level in range(len(strides))]
    assert network.out_channels == channels
    expected = [(2, c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)]
    assert [tuple(m.shape) for m in maps.values()] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("mobilenet_v2", ["features.3", "features.6", "features.13", "features.18"]),
    ],
)
def test_plain_maps_are_those_that_torchvision_extracts(tmp_path, name, nodes):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)().eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = create_backbone(name, features_only=True).eval()
    load_weights(ours, tmp_path / "weights.pth")
    extract = create_feature_extractor(theirs, {node: str(i) for i, node in enumerate(nodes)})
    with torch.inference_mode():
        expected, maps = extract(IMAGES), ours(IMAGES)
    assert maps.keys() == expected.keys()
    assert all(torch.equal(maps[level], expected[level]) for level in maps)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eca", "se", "cbam"])
def test_torchvision_extracts_from_networks_with_attention(attention):
    torch.manual_seed(0)
    network = create_backbone("resnet18", attention, num_classes=3).eval()
    pyramid = create_backbone("resnet18", attention, features_only=True).eval()
    pyramid.load_state_dict({k: v for k, v in network.state_dict().items() if "fc." not in k[:3]})
    extract = create_feature_extractor(network, {"layer2": "1", "layer4": "3"})
    of_pyramid = create_feature_extractor(pyramid, ["layer2", "layer4"])
    with torch.inference_mode():
        maps, extracted, again = pyramid(IMAGES), extract(IMAGES), of_pyramid(IMAGES)
    for level, node in (("1", "layer2"), ("3", "layer4")):
        torch.testing.assert_close(extracted[level], maps[level])
        torch.testing.assert_close(again[node], maps[level])


def test_a_pyramid_network_stands_on_it():
    body = create_backbone("resnet18", "eca", features_only=True)
    levels = {f"layer{n}": str(n - 1) for n in range(1, 5)}
    of_torchvision = BackboneWithFPN(body, levels, body.out_channels, 8)
    by_hand = nn.Sequential(body, FeaturePyramidNetwork(body.out_channels, 8))
    by_hand[1].load_state_dict(of_torchvision.fpn.state_dict())
    of_torchvision.eval()
    by_hand.eval()
    with torch.inference_mode():
        expected, maps = of_torchvision(IMAGES), by_hand(IMAGES)
    assert {level: m.shape[1] for level, m in maps.items()} == dict.fromkeys("0123", 8)
    assert all(torch.equal(maps[level], expected[level]) for level in maps)


def test_features_learn():
    network = create_backbone("resnet18", "eca", features_only=True)
    sum(m.square().mean() for m in network(IMAGES).values()).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert not any(key.startswith("fc.") for key in network.state_dict())
