"""Networks with fused block tails beside the same networks without."""

import copy

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_summary import ModelSummary
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from eca_lightning import create_backbone
from eca_lightning.attention.fused.tail import FusedTail
from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.blocks import describe_tails


def pair(name="resnet20", attention="eca"):
    """The same network fused and not."""
    fused, plain = (
        create_backbone(name, attention, num_classes=3, stem="small", fused=choice).double()
        for choice in ("auto", False)
    )
    plain.load_state_dict(fused.state_dict())
    return fused, plain


def step(network, side=16):
    torch.manual_seed(1)
    images = torch.randn(4, 3, side, side, dtype=torch.float64)
    logits = network(images.contiguous(memory_format=torch.channels_last))
    logits.square().sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return {"logits": logits.detach(), **gradients, **dict(network.named_buffers())}


def fused_tails(network):
    return sum(isinstance(module, FusedTail) for module in network.modules())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "attention"),
    [("resnet20", "eca"), ("resnet10_half", "se"), ("shallow.bottlenecks", "eca")],
)
def test_a_training_step_is_the_same(name, attention, training):
    fused, plain = pair(name, attention)
    ours, theirs = step(fused.train(training)), step(plain.train(training))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_a_compiled_training_step_is_the_same():
    torch.compiler.reset()
    fused, plain = pair("shallow.bottlenecks")
    fused.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(step(fused), step(plain), rtol=1e-7, atol=1e-9)


def test_evaluation_is_the_same():
    fused, plain = (network.eval() for network in pair("shallow.bottlenecks"))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), plain(images), rtol=1e-9, atol=1e-9)


def test_batch_norm_frozen_in_training():
    """As fine-tuning and detectors do: statistics stay, affine parameters may learn."""
    outcomes = []
    for network in pair():
        for module in network.train().modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        outcomes.append(step(network))
    torch.testing.assert_close(*outcomes, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "attention", "count"),
    [
        ("resnet50", "eca", 16),
        ("resnet18", "se_var2", 8),
        ("resnet20", "cbam", 0),
        ("resnet18", "gc", 0),
        ("resnet18", "aa", 0),
        ("resnet20", None, 0),
        ("mobilenet_v2", "eca", 0),
    ],
)
def test_auto_fuses_where_there_is_a_fused_form(name, attention, count):
    with torch.device("meta"):
        assert fused_tails(create_backbone(name, attention)) == count
        assert fused_tails(create_backbone(name, attention, fused=False)) == 0


@pytest.mark.parametrize(
    ("name", "attention", "message"),
    [
        ("resnet20", "cbam", "'cbam' has no fused form: set fused to auto or false"),
        ("resnet18", "gc", "'gc' has no fused form"),
        ("resnet18", "aa", "'aa' has no fused form"),
        ("mobilenet_v2", "eca", "this network's block has no fused form"),
        ("resnet20", None, "needs attention"),
    ],
)
def test_what_is_asked_for_and_cannot_be_fused_is_refused(name, attention, message):
    with pytest.raises(ValueError, match=message):
        create_backbone(name, attention, fused=True)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="auto, true or false, got 'never'"):
        create_backbone("resnet20", "eca", fused="never")


def test_asking_for_it_gives_it():
    assert fused_tails(BackboneConfig("resnet20", "eca", fused=True).build()) == 9


def test_names_and_order_of_parameters_are_the_same():
    fused, plain = pair()
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in fused.named_parameters()] == [n for n, _ in plain.named_parameters()]


def test_which_way_is_taken_is_shown():
    fused, plain = pair()
    assert describe_tails(fused) == "block tails: 9 of 9 fused"
    assert describe_tails(plain) == "block tails: 0 of 9 fused"
    assert "FusedTail" in repr(fused)

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.backbone = fused

    assert "FusedTail" in str(ModelSummary(Module(), max_depth=-1))


def test_copies_and_feature_extractors():
    fused, plain = (network.eval() for network in pair())
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = plain(images)
        torch.testing.assert_close(copy.deepcopy(fused)(images), expected, rtol=1e-9, atol=1e-9)
        features = create_feature_extractor(fused, {"layer2": "c4", "fc": "logits"})(images)
    torch.testing.assert_close(features["logits"], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_saved_activations_of_compiled_blocks():
    """At most a hundredth above those of blocks without attention: vectors of channels."""
    sizes = {}
    for attention in (None, "eca"):
        torch.compiler.reset()
        blocks = create_backbone("shallow.bottlenecks", attention).layer1
        blocks.compile(backend="aot_eager_decomp_partition")
        saved = sizes[attention] = []
        parameters = {p.data_ptr() for p in blocks.parameters()}

        def pack(x, saved=saved, parameters=parameters):
            if x.data_ptr() not in parameters:
                saved.append(x.numel() * x.element_size())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            blocks(torch.randn(2, 16, 32, 32))
    assert sum(sizes["eca"]) <= 1.01 * sum(sizes[None])
