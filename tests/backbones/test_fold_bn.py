"""Batch norm folded into convolutions."""

import pytest
import torch
from thorough import thorough
from torch import nn
from torchvision.ops import Conv2dNormActivation, FrozenBatchNorm2d

from eca_lightning import create_backbone
from eca_lightning.attention import attention_names
from eca_lightning.backbones.fold_bn import fold_batch_norms


def settled(network):
    """Give batch norms scales, shifts and statistics that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            for name, low, high in (
                ("weight", 0.5, 1.0),
                ("bias", -0.2, 0.2),
                ("running_mean", -0.5, 0.5),
                ("running_var", 0.5, 2.0),
            ):
                getattr(module, name).data.uniform_(low, high, generator=generator)
    return network.double().eval()


def norms(network):
    return sum(isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d) for m in network.modules())


@pytest.mark.slow
@pytest.mark.parametrize("attention", attention_names())
def test_outputs_are_the_same_with_each_attention(attention):
    torch.manual_seed(0)
    network = settled(create_backbone("resnet20", attention, num_classes=3))
    images = torch.randn(2, 3, 24, 20, dtype=torch.float64)
    folded = fold_batch_norms(network)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-10, atol=1e-10)
    # GSoP's covariances and AA's joined halves come from no convolution.
    assert norms(folded) == {"gsop": 3, "aa": 9}.get(attention, 0)
    assert norms(network) >= 21


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"blur_pool": True, "stochastic_depth": 0.2}),
        ("mobilenet_v2", {"attention": "cbam"}),
        *thorough(
            ("resnet50", {"attention": "eca", "stem": "small"}),
            ("resnet18", {"attention": "se", "features_only": True}),
        ),
    ],
)
def test_no_norm_is_left_in_any_network(name, options):
    torch.manual_seed(0)
    network = settled(create_backbone(name, num_classes=3, **options))
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    folded = fold_batch_norms(network)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-9, atol=1e-9)
    assert norms(folded) == 0


def test_frozen_norms_are_folded_too():
    torch.manual_seed(0)
    network = settled(Conv2dNormActivation(3, 4, norm_layer=FrozenBatchNorm2d))
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    folded = fold_batch_norms(network)
    torch.testing.assert_close(folded(images), network(images))
    assert norms(folded) == 0


class Forked(nn.Module):
    """Uses a convolution's output before and behind the norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return y + self.bn(y)


@pytest.mark.parametrize(
    "network",
    [
        Forked(),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
    ],
)
def test_what_cannot_be_folded_stays(network):
    folded = fold_batch_norms(network.eval())
    images = torch.randn(2, 3, 8, 8)
    assert norms(folded) == 1
    assert torch.equal(folded(images), network(images))
