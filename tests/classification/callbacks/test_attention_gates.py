"""The gates of each layer, beside those that hooks see."""

import pytest
import torch
from thorough import thorough

from eca_lightning import AttentionMonitor, ImageClassifier
from eca_lightning.attention.base import ChannelGate
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.callbacks.attention_gates import gates_of


def by_hooks(network, inputs):
    """What each gate has scaled its input by, with modules that have hooks and so are not fused."""
    seen, hooks = {}, []

    def note(name):
        def hook(module, arguments, output):
            (x,) = arguments
            largest = x.abs().flatten(2).argmax(2, keepdim=True)  # where a quotient is exact
            picked = [t.flatten(2).gather(2, largest)[..., 0] for t in (output, x)]
            seen[name] = picked[0] / picked[1]

        return hook

    for name, module in network.named_modules():
        if isinstance(module, ChannelGate):
            hooks.append(module.register_forward_hook(note(name.removesuffix(".attention"))))
    with torch.no_grad():
        network.eval()(inputs)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("attention", ["eca", "eca_ns", "se", "se_var1"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_are_those_that_scale_the_channels(attention, fused):
    torch.manual_seed(0)
    model = ImageClassifier(BackboneConfig("resnet20", attention, num_classes=3, fused=fused))
    network = model.backbone
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    expected = by_hooks(network, model.normalize(images))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()
    found = gates_of(model, images)
    assert list(found) == list(expected)
    assert len(found) == 9
    for layer, gates in found.items():
        torch.testing.assert_close(gates, expected[layer], rtol=1e-3, atol=1e-4)
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any("logits" in vars(module) for module in network.modules())


@pytest.mark.parametrize("precision", ["32-true", *thorough("bf16-true")])
def test_figures_and_histograms_of_each_layer(fit, classifier, tiny_data, precision):
    model = classifier(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    monitor = AttentionMonitor(images=10)  # two of each of the five batches
    events = fit(monitor, model=model, max_epochs=2, precision=precision)
    taken = tiny_data.images.view(5, 8, 3, 16, 16)[:, :2].flatten(0, 1)
    expected = gates_of(model, taken)
    assert {f"val_gates/{layer}" for layer in expected} == set(events.tags("histograms"))
    for layer, gates in expected.items():
        outside = ((gates < 0.05) | (gates > 0.95)).float().mean()
        for name, value in (
            ("mean", gates.mean()),
            ("spread", gates.std()),
            ("saturation", outside),
        ):
            logged = events.scalars(f"val_gates_{name}/{layer}")
            assert len(logged) == 2
            assert logged[-1] == pytest.approx(value.item(), abs=1e-6)
        histogram = events.events.Histograms(f"val_gates/{layer}")[-1].histogram_value
        assert histogram.num == gates.numel()
        assert 0 <= histogram.min <= histogram.max <= 1


@pytest.mark.parametrize("attention", [None, "cbam"])
def test_networks_without_channel_gates_have_none_to_show(fit, classifier, attention):
    events = fit(AttentionMonitor(), model=classifier(attention), limit_train_batches=1)
    assert events.tags("histograms") == []


def test_a_compiled_network_is_looked_at_uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)  # whoever compiled would fail
    config = BackboneConfig("resnet20", "eca", num_classes=3)
    model = ImageClassifier(config)
    model.backbone._compiled_call_impl = lambda *_: pytest.fail("the compiled network ran")
    assert len(gates_of(model, torch.zeros(2, 3, 16, 16, dtype=torch.uint8))) == 9


def test_number_of_images_must_be_positive():
    with pytest.raises(ValueError, match="images"):
        AttentionMonitor(images=0)
