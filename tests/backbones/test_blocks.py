"""Stochastic depth: which blocks drop their branches, how often, and that nothing else changes."""

import pytest
import torch
from torchvision.ops import StochasticDepth

from eca_lightning import create_backbone


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("attention", [None, "eca", "cbam"])
def test_only_training_changes(name, attention):
    torch.manual_seed(0)
    plain = create_backbone(name, attention, num_classes=5, fused=False).eval()
    torch.manual_seed(0)
    dropping = create_backbone(
        name, attention, num_classes=5, fused=False, stochastic_depth=0.5
    ).eval()
    assert dropping.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(dropping(images), plain(images))


def test_the_chance_rises_linearly_from_0():
    network = create_backbone("resnet20", "eca", num_classes=5, stochastic_depth=0.4)
    chances = [module.p for module in network.modules() if isinstance(module, StochasticDepth)]
    assert chances == pytest.approx([0.05 * number for number in range(1, 9)])


def test_a_dropped_branch_leaves_the_identity_and_a_kept_one_is_scaled_up():
    torch.manual_seed(0)
    network = create_backbone("resnet20", "eca", num_classes=5, stochastic_depth=0.5)
    block = network.layer3[-1]
    images = torch.rand(1, 64, 4, 4).expand(4000, -1, -1, -1)
    with torch.no_grad():
        branch = block.attention(block.bn2(block.conv2(block.bn1(block.conv1(images)).relu())))
        outputs = block(images)
    dropped = (outputs == images).flatten(1).all(dim=1)
    assert abs(dropped.float().mean() - 0.5) < 0.04  # five standard deviations
    kept = (images + 2 * branch).relu()[~dropped]
    torch.testing.assert_close(outputs[~dropped], kept)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match="stochastic_depth must be at least 0"):
        create_backbone("resnet20", stochastic_depth=rate)


def test_fused_tails_cannot_be_required():
    with pytest.raises(ValueError, match="exclude stochastic_depth"):
        create_backbone("resnet20", "eca", fused=True, stochastic_depth=0.1)
