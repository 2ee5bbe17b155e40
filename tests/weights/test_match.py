"""Weights of others: read safely, recognized, translated, loaded with every difference named."""

import copy
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from original_project import (
    mobilenet_logits,
    mobilenet_weights,
    resnet_logits,
    resnet_weights,
    save,
)
from safetensors.torch import save_file
from thorough import thorough
from torch import nn

from eca_lightning import create_backbone
from eca_lightning.attention import attention_names
from eca_lightning.weights.infer_backbone import infer_backbone
from eca_lightning.weights.match import load_weights, match_weights
from eca_lightning.weights.read import WeightsFile, read_weights

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def lively(network):
    """Give a network norms that show whether they were loaded, and the mode for predictions."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-0.5, 0.5, generator=generator)
    return network.eval()


def loaded(path):
    """The network that a file is of, with its weights."""
    weights = read_weights(path)
    config = infer_backbone(weights)
    network = config.build()
    load_weights(network, weights)
    return config, network.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "kernels", "options"),
    [
        ("eca_resnet18", [3, 3, 3, 3], {"kernel": 3}),
        *thorough(
            ("eca_resnet34", [3, 3, 5, 7], {"kernel": [3, 3, 5, 7]}),
            ("eca_resnet50", [3, 5, 5, 7], {"kernel": [3, 5, 5, 7]}),
        ),
    ],
)
def test_resnets_of_the_original_project(tmp_path, arch, kernels, options):
    state = resnet_weights(arch, kernels)
    config, network = loaded(save(tmp_path / "model_best.pth.tar", arch, state))
    assert (config.name, config.attention) == (arch.removeprefix("eca_"), "eca")
    assert config.attention_options == options
    with torch.inference_mode():
        torch.testing.assert_close(network(IMAGES), resnet_logits(state, IMAGES), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_mobilenet_of_the_original_project(tmp_path):
    kernels = [1, 1, 1, 1, 3, 3, 3]  # 1 below 96 channels
    state = mobilenet_weights(kernels, classes=10)
    config, network = loaded(save(tmp_path / "model_best.pth.tar", "eca_mobilenet_v2", state))
    assert (config.name, config.attention, config.num_classes) == ("mobilenet_v2", "eca", 10)
    assert config.attention_options == {"kernel": kernels}
    with torch.inference_mode():
        expected = mobilenet_logits(state, IMAGES)
        torch.testing.assert_close(network(IMAGES), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_files_from_before_norms_counted_their_batches(tmp_path):
    state = resnet_weights("eca_resnet18", [3, 3, 3, 3])
    old = {key: value for key, value in state.items() if "num_batches" not in key}
    _, network = loaded(save(tmp_path / "old.pth.tar", "eca_resnet18", old))
    with torch.inference_mode():
        torch.testing.assert_close(network(IMAGES), resnet_logits(state, IMAGES), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "attention", "options"),
    [
        ("seresnet18", {}, "se", {"reduction": [8, 16, 16, 16], "bias": True}),
        *thorough(
            ("resnet18", {}, None, {}),
            ("resnet50", {"num_classes": 10}, None, {}),
            ("seresnet50", {}, "se", {"bias": True}),
            ("resnet50", {"block_args": {"attn_layer": "eca"}}, "eca", {"kernel": [5, 5, 5, 7]}),
        ),
    ],
)
def test_state_dicts_of_timm(tmp_path, name, settings, attention, options):
    torch.manual_seed(0)
    theirs = lively(timm.create_model(name, **settings))
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    config, ours = loaded(tmp_path / "timm.pth")
    assert (config.name, config.attention) == (name.removeprefix("se"), attention)
    assert config.attention_options == options
    with torch.inference_mode():
        # In float64, where another order of the same sums does not show.
        logits, expected = (network.double()(IMAGES.double()) for network in (ours, theirs))
        torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_state_dicts_of_torchvision(tmp_path, name, suffix):
    torch.manual_seed(0)
    theirs = lively(getattr(torchvision.models, name)(num_classes=7))
    write = save_file if suffix == ".safetensors" else torch.save
    wrapped = {f"module._orig_mod.{key}": value for key, value in theirs.state_dict().items()}
    write(wrapped, tmp_path / f"weights{suffix}")
    config, ours = loaded(tmp_path / f"weights{suffix}")
    assert (config.name, config.attention, config.num_classes) == (name, None, 7)
    with torch.inference_mode():
        assert torch.equal(ours(IMAGES), theirs(IMAGES))


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "resnet20", "attention": "cbam", "num_classes": 10},
        {"name": "resnet18", "attention": "se_gc2", "stem": "small"},
        {"name": "mobilenet_v2", "attention": "eca", "attention_options": {"kernel": 3}},
        *thorough(
            {"name": "resnet56", "in_channels": 1},
            {
                "name": "resnet18",
                "attention": "eca_ns",
                "attention_options": {"kernel": [3, 3, 5, 7]},
            },
            {"name": "wide_resnet50_2", "attention": "nl"},
            {"name": "resnext50_32x4d", "attention": "se", "attention_options": {"reduction": 4}},
        ),
    ],
    ids=lambda settings: settings["name"],
)
def test_own_state_dicts_tell_their_network(settings):
    with torch.device("meta"):
        state = create_backbone(**settings).state_dict()
    config = infer_backbone(WeightsFile(Path("own.pth"), state, None, None, {}, None))
    assert {key: getattr(config, key) for key in settings} == settings


@pytest.mark.parametrize("name", ["resnet20", *thorough("mobilenet_v2")])
@pytest.mark.parametrize(
    "attention", [name for name in attention_names() if name not in ("none", "se_var1", "aa")]
)
def test_attention_starts_neutrally_in_weights_without_it(tmp_path, name, attention):
    if name == "mobilenet_v2" and attention in ("se_gc1", "se_gc2"):
        pytest.skip("does not divide this network's channels")
    torch.manual_seed(0)
    plain = lively(create_backbone(name, num_classes=3))
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    network = create_backbone(name, attention, num_classes=3).eval()
    load_weights(network, tmp_path / "plain.pth")
    with torch.inference_mode():
        torch.testing.assert_close(network(IMAGES), plain(IMAGES), rtol=1e-4, atol=1e-5)
    network.train()(IMAGES[..., :32, :32]).square().sum().backward()
    of_attention = [p.grad for key, p in network.named_parameters() if ".attention." in key]
    assert any(gradient.abs().max() > 0 for gradient in of_attention)  # and it can learn


def test_a_gate_without_parameters_stays_finite(tmp_path):
    plain = lively(create_backbone("resnet20", num_classes=3))
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    network = create_backbone("resnet20", "se_var1", num_classes=3).eval()
    load_weights(network, tmp_path / "plain.pth")
    with torch.inference_mode():
        assert network(IMAGES).isfinite().all()


@pytest.fixture(scope="module")
def eca18(tmp_path_factory):
    """A file of the original project."""
    state = resnet_weights("eca_resnet18", [3, 5, 5, 7], classes=10)
    return save(tmp_path_factory.mktemp("weights") / "best.pth.tar", "eca_resnet18", state)


@pytest.mark.parametrize(
    ("settings", "kinds", "one"),
    [
        (
            {"attention_options": {"kernel": [3, 5, 5, 5]}},
            {"of another kernel size"},
            ("layer4.1.attention.conv.weight", "k = 7 instead of 5"),
        ),
        (
            {"num_classes": 12},
            {"of another number of classes"},
            ("fc.bias", "10 instead of 12"),
        ),
        ({"name": "resnet34"}, {"missing"}, ("layer1.2.conv1.weight", "")),
        (
            {"name": "resnet50"},
            {"missing", "of another shape"},
            ("layer1.0.conv1.weight", "(64, 64, 3, 3) instead of (64, 64, 1, 1)"),
        ),
        (
            {"attention": "se", "attention_options": {}},
            {"missing", "unexpected"},
            ("layer1.0.attention.fc1.weight", ""),
        ),
        (
            {"attention": None, "attention_options": {}},
            {"unexpected"},
            ("layer1.0.attention.conv.weight", ""),
        ),
        (
            {"in_channels": 1},
            {"of another shape"},
            ("conv1.weight", "(64, 3, 7, 7) instead of (64, 1, 7, 7)"),
        ),
    ],
)
def test_every_difference_is_named(eca18, settings, kinds, one):
    of_file = {"name": "resnet18", "attention": "eca", "num_classes": 10}
    of_file["attention_options"] = {"kernel": [3, 5, 5, 7]}
    network = create_backbone(**of_file | settings)
    weights = read_weights(eca18)
    before = copy.deepcopy(network.state_dict())
    mismatches = match_weights(network, weights.tensors).mismatches
    assert {m.kind for m in mismatches} == kinds
    assert one in [(m.key, m.detail) for m in mismatches]
    with pytest.raises(ValueError, match=r"best\.pth\.tar are not those of the network") as refusal:
        load_weights(network, weights)
    for kind in kinds:
        count = sum(m.kind == kind for m in mismatches)
        assert f"{count} {kind} (" in str(refusal.value)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.slow
def test_missing_and_extra_keys_are_listed_and_the_network_still_recognized(tmp_path):
    state = resnet_weights("eca_resnet18", [3, 3, 3, 3])
    del state["layer3.1.conv2.weight"], state["layer2.0.eca.conv.weight"], state["fc.bias"]
    state["layer1.0.extra.weight"] = torch.zeros(3)
    weights = read_weights(save(tmp_path / "odd.pth.tar", "eca_resnet18", state))
    config = infer_backbone(weights)
    assert (config.name, config.attention) == ("resnet18", "eca")
    found = {(m.kind, m.key) for m in match_weights(config.build(), weights.tensors).mismatches}
    assert found == {
        ("missing", "layer3.1.conv2.weight"),
        ("missing", "layer2.0.attention.conv.weight"),
        ("missing", "fc.bias"),
        ("unexpected", "layer1.0.extra.weight"),
    }


@pytest.mark.slow
def test_kernels_that_differ_within_a_stage_are_named(tmp_path):
    state = resnet_weights("eca_resnet18", [3, 3, 3, 3])
    state["layer2.1.eca.conv.weight"] = torch.zeros(1, 1, 9)
    weights = read_weights(save(tmp_path / "odd.pth.tar", "eca_resnet18", state))
    (found,) = match_weights(infer_backbone(weights).build(), weights.tensors).mismatches
    assert (found.key, found.detail) == ("layer2.1.attention.conv.weight", "k = 9 instead of 3")


def test_weights_of_a_network_that_is_not_here(tmp_path):
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "squeezenet.pth")
    with pytest.raises(ValueError, match=r"squeezenet\.pth is of no network of this package"):
        infer_backbone(read_weights(tmp_path / "squeezenet.pth"))


def test_attention_that_cannot_be_told(tmp_path):
    state = create_backbone("resnet20").state_dict()
    state["layer1.0.attention.strange"] = torch.zeros(3)
    torch.save(state, tmp_path / "strange.pth")
    with pytest.raises(ValueError, match=r"strange\.pth is of a resnet20.*as --backbone"):
        infer_backbone(read_weights(tmp_path / "strange.pth"))
