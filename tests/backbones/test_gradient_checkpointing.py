"""Blocks that are recomputed give the gradients and statistics of those that are not."""

from copy import deepcopy

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from eca_lightning import ImageClassifier, create_backbone
from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.gradient_checkpointing import checkpoint_gradients

NETWORKS = {
    "resnet20": {"attention": "eca"},
    "resnet10_half": {"attention": "se", "stem": "small", "stochastic_depth": 0.5},
    "mobilenet_v2": {"attention": "cbam", "stem": "small"},
}


def step(network):
    """Bytes that a training step saves, and all that it leaves behind."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    torch.manual_seed(1)
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % 3
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return sum(sizes), {"loss": loss.detach()} | gradients | dict(network.named_buffers())


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_statistics_are_the_same(name):
    torch.manual_seed(0)
    network = create_backbone(name, num_classes=3, **NETWORKS[name]).train()
    other = deepcopy(network)
    checkpoint_gradients(other)
    saved, expected = step(network)
    fewer, found = step(deepcopy(other))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert fewer < saved / 2
    other.eval()
    network.eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(other(images).shape, network(images).shape)


def test_it_is_an_option_that_excludes_compilation():
    backbone = BackboneConfig("resnet20")
    model = ImageClassifier(backbone, gradient_checkpointing=True)
    assert "forward" in vars(model.backbone.layer1[0])
    with pytest.raises(ValueError, match="compile must be false with gradient_checkpointing"):
        ImageClassifier(backbone, compile=True, gradient_checkpointing=True)
