"""Blur pooling: its filter, where it goes, and that weights load with and without it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eca_lightning import create_backbone
from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.blur_pool import BlurPoolConv2d, add_blur_pool


def blurred(x):
    """A loop over the binomial filter, in float64, with zeros beyond the border."""
    padded = np.pad(x.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros(x.shape)
    for i, row in enumerate((1, 2, 1)):
        for j, column in enumerate((1, 2, 1)):
            out += row * column / 16 * padded[..., i : i + x.shape[2], j : j + x.shape[3]]
    return torch.from_numpy(out)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1, "bias": False},
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1, "groups": 16},
    ],
)
def test_it_is_the_convolution_of_the_blurred_input(options):
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 32, stride=2, **options)
    x = torch.randn(2, 16, 9, 8)
    expected = F.conv2d(
        blurred(x),
        plain.weight.double(),
        None if plain.bias is None else plain.bias.double(),
        stride=2,
        padding=plain.padding,
        groups=plain.groups,
    )
    torch.testing.assert_close(BlurPoolConv2d(plain)(x).double(), expected, rtol=1e-4, atol=1e-5)


def test_detail_finer_than_the_stride_vanishes():
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 16, 16, 16)
    plain = nn.Conv2d(16, 16, 1, stride=2, groups=16, bias=False)
    assert plain(stripes).abs().min() > 0
    assert BlurPoolConv2d(plain)(stripes)[..., 1:-1, 1:-1].abs().max() < 1e-6


STRIDED = {
    "resnet20": ["layer2.0.conv1", "layer2.0.downsample.0", "layer3.0.conv1"],
    "resnet50": [f"layer{k}.0.{name}" for k in (2, 3, 4) for name in ("conv2", "downsample.0")],
    "mobilenet_v2": [f"features.{k}.conv.1.0" for k in (2, 4, 7, 14)],
}
STRIDED["resnet20"].append("layer3.0.downsample.0")


@pytest.mark.parametrize("name", STRIDED)
def test_all_strided_convolutions_but_the_stem(name):
    with torch.device("meta"):
        network = create_backbone(name, "eca", blur_pool=True)
    found = [key for key, m in network.named_modules() if isinstance(m, BlurPoolConv2d)]
    assert found == STRIDED[name]


@pytest.mark.parametrize("attention", [None, "se"])
def test_weights_are_those_of_the_plain_network(attention):
    states = []
    for blur_pool in (False, True):
        torch.manual_seed(0)
        config = BackboneConfig("resnet20", attention, num_classes=5, blur_pool=blur_pool)
        states.append(config.build().state_dict())
    plain, blurry = states
    assert list(plain) == list(blurry)
    assert all(torch.equal(plain[key], blurry[key]) for key in plain)


def test_trains_in_channels_last_and_bfloat16_and_can_be_copied():
    network = create_backbone("resnet20", blur_pool=True).to(memory_format=torch.channels_last)
    add_blur_pool(network)  # a second time changes nothing
    images = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        copy.deepcopy(network)(images).float().square().sum().backward()
        network(images).float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert sum(isinstance(m, BlurPoolConv2d) for m in network.modules()) == 4
