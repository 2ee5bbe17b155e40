import math

import pytest
import torch

from eca_lightning.attention.eca import (
    EfficientChannelAttention,
    EfficientChannelAttentionNS,
    kernel_size,
)

# (channels, blocks) of the gates, from the architectures' papers.
RESNET_18 = [(64, 2), (128, 2), (256, 2), (512, 2)]
RESNET_34 = [(64, 3), (128, 4), (256, 6), (512, 3)]
RESNET_50 = [(256, 3), (512, 4), (1024, 6), (2048, 3)]
RESNET_101 = [(256, 3), (512, 4), (1024, 23), (2048, 3)]
RESNET_152 = [(256, 3), (512, 8), (1024, 36), (2048, 3)]
MOBILENET_V2 = [(16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1)]


@pytest.mark.parametrize(
    ("plan", "equation", "figure"),
    [
        (RESNET_18, 32, 36),
        (RESNET_34, 66, 74),
        (RESNET_50, 80, 86),
        (RESNET_101, 165, 171),
        (RESNET_152, 250, 256),
        (MOBILENET_V2, 59, 59),
    ],
)
def test_kernel_rules_add_the_known_totals_to_whole_networks(plan, equation, figure):
    assert sum(blocks * kernel_size(channels) for channels, blocks in plan) == equation
    assert sum(blocks * kernel_size(channels, "figure") for channels, blocks in plan) == figure


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 24, 128, 129, 500, 512, 2048, 2049, 4096])
def test_equation_rule_is_the_nearest_odd_number_and_the_lower_in_a_tie(channels):
    target = math.log2(channels) / 2 + 1 / 2
    assert kernel_size(channels) == min(range(1, 16, 2), key=lambda odd: (abs(odd - target), odd))


@pytest.mark.parametrize("size", [1, 3, 9])
def test_an_odd_kernel_is_taken_as_it_is(size):
    assert kernel_size(64, size) == size


@pytest.mark.parametrize("size", [0, 2, -1, 3.0, "nearest"])
def test_an_impossible_kernel_is_refused_with_the_remedy(size):
    with pytest.raises(ValueError, match=r"odd positive number, got .*'equation' or 'figure'"):
        kernel_size(64, size)


def banded(weights: torch.Tensor) -> torch.Tensor:
    """Build the C x C matrix of Eq. 6 from the k weights of each channel, (C, k)."""
    channels, size = weights.shape
    matrix = torch.zeros(channels, channels, dtype=weights.dtype)
    for row in range(channels):
        for tap in range(size):
            column = row + tap - size // 2
            if 0 <= column < channels:
                matrix[row, column] = weights[row, tap]
    return matrix


@pytest.mark.parametrize("kernel", [1, 3, 5, 9])
@pytest.mark.parametrize("shared", [True, False])
def test_gate_is_the_band_matrix_of_the_paper(kernel, shared):
    torch.manual_seed(0)
    channels = 7
    module = (EfficientChannelAttention if shared else EfficientChannelAttentionNS)(
        channels, kernel
    )
    module = module.double()
    weights = module.conv.weight.view(1, -1).expand(channels, -1) if shared else module.weight
    x = torch.randn(3, channels, 4, 5, dtype=torch.float64)
    pooled = x.flatten(2).sum(dim=2) / 20
    gate = 1 / (1 + torch.exp(-(pooled @ banded(weights).T)))
    torch.testing.assert_close(module(x), x * gate.view(3, channels, 1, 1))


def test_state_dict_holds_one_shared_kernel_under_the_released_name():
    state = EfficientChannelAttention(512).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {"conv.weight": (1, 1, 5)}


def test_unshared_kernel_has_k_weights_a_channel():
    module = EfficientChannelAttentionNS(512)
    assert [tuple(p.shape) for p in module.parameters()] == [(512, 5)]
    assert module.weight.abs().max() <= 1 / math.sqrt(5)
