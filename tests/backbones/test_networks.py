"""Stems, sizes and the place of attention inside the networks."""

import pytest
import torch
from torch import nn

from eca_lightning import create_backbone


@pytest.mark.parametrize(
    ("name", "stem", "side"),
    [
        ("resnet18", None, 1),
        ("resnet18", "small", 4),
        ("mobilenet_v2", "imagenet", 1),
        ("mobilenet_v2", "small", 4),
        ("resnet20", None, 8),
        ("resnet56", "small", 8),
    ],
)
def test_stem_sets_the_resolution_of_the_last_features(name, stem, side):
    network = create_backbone(name, num_classes=2, stem=stem)
    last = network.features if name == "mobilenet_v2" else list(network.children())[-3]
    shapes = []
    last.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[-2:]))
    network(torch.zeros(2, 3, 32, 32))
    assert shapes == [(side, side)]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "resnet20"])
@pytest.mark.parametrize("stem", ["small", None])
def test_any_number_of_input_channels(name, stem):
    network = create_backbone(name, num_classes=3, in_channels=1, stem=stem)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(("name", "parameters"), [("resnet20", 272_474), ("resnet56", 855_770)])
def test_cifar_resnets_have_six_n_plus_two_layers(name, parameters):
    network = create_backbone(name, num_classes=10)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) + 1 == int(name.removeprefix("resnet"))
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("attention", "blocks"),
    [
        ("eca", [(s, b) for s, n in ((1, 3), (2, 4), (3, 6), (4, 3)) for b in range(n)]),
        ("gc", [(s, b) for s, n in ((2, 4), (3, 6), (4, 3)) for b in range(n)]),
        ("a2", [(2, 1), (2, 3), (3, 1), (3, 3), (3, 5)]),
        ("nl", [(3, 4)]),
        ("gsop", [(2, 3), (3, 5), (4, 2)]),
    ],
)
def test_attention_goes_into_the_blocks_of_its_paper(attention, blocks):
    with torch.device("meta"):
        network = create_backbone("resnet50", attention)
    keys = {key.split(".attention.")[0] for key in network.state_dict() if ".attention." in key}
    assert keys == {f"layer{stage}.{block}" for stage, block in blocks}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_gate_scales_the_branch_before_the_sum(name):
    """With every gate shut, a block is the ReLU of its shortcut."""
    network = create_backbone(name, "se_var2", num_classes=2).eval()
    block = network.layer1[1]
    block.attention = _Shut()
    x = torch.randn(2, block.out_channels, 8, 8)
    torch.testing.assert_close(block(x), x.relu())


def test_gate_follows_the_projection_in_mobilenet():
    network = create_backbone("mobilenet_v2", "eca", num_classes=2).eval()
    with_sum, without_sum = network.features[3], network.features[2]
    for block in (with_sum, without_sum):
        block.attention = _Shut()
    x = torch.randn(2, 24, 8, 8)
    torch.testing.assert_close(with_sum(x), x)
    assert without_sum(torch.randn(2, 16, 8, 8)).abs().max() == 0
    assert sum(".attention." in key for key in network.state_dict()) == 15  # and the two shut ones


def test_output_site_sees_the_sum():
    network = create_backbone("resnet50", "nl", num_classes=2).eval()
    seen = []
    block = network.layer3[4]
    block.attention.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    block.bn3.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    x = torch.randn(1, 1024, 4, 4)
    block(x)
    torch.testing.assert_close(seen[0], x.relu())


class _Shut(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)
