"""The compiled backbone: when it is compiled, and what memory format its blocks see."""

from functools import partial

import pytest
import torch
from thorough import thorough
from torch import nn
from torch._dynamo.testing import CompileCounter

from eca_lightning import ImageClassifier
from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.blocks import AttentionSlot


@pytest.fixture
def counter(monkeypatch):
    """Counts compilations, and spares the tests Inductor's."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    torch.compiler.reset()
    yield counter
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eca", *thorough("none", "cbam")])
def test_sizes_that_come_again_are_not_compiled_again(counter, attention):
    # Three, as it is the third for which torch would have a graph of any size.
    model = ImageClassifier(BackboneConfig("resnet10_half", attention, num_classes=3), compile=True)
    train = partial(run, model.train())
    sizes = (32, 32, 48, 48, 64, 64)
    for size in sizes:
        train(size)
    graphs = counter.frame_count
    assert graphs == len(set(sizes))  # one graph a size, without a break
    for size in sizes:
        train(size)
    assert counter.frame_count == graphs


def run(model, size):
    model(torch.zeros(4, 3, size, size, dtype=torch.uint8)).sum().backward()


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet10_half", "shallow.bottlenecks", "mobilenet_v2"]
)
@pytest.mark.parametrize("attention", ["none", "eca", "eca_ns", "se", "cbam", "gc", "a2", "gsop"])
def test_channels_last_is_kept_through_every_block(name, attention):
    torch.manual_seed(0)
    model = ImageClassifier(BackboneConfig(name, attention, num_classes=3))
    lost = []

    def check(path, module, inputs, output):
        is_wide = min(output.shape[1:]) > 1  # of one position, all formats are one
        if is_wide and not output.is_contiguous(memory_format=torch.channels_last):
            lost.append(path)

    # Norms and gates are left alone: a fused tail would call them one by one for their hooks.
    for path, module in model.backbone.named_modules():
        if isinstance(module, nn.Conv2d | AttentionSlot):
            module.register_forward_hook(partial(check, path))
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    for train in (True, False):
        with torch.set_grad_enabled(train):
            model.train(train)(images)
        assert not lost, train
