"""State dicts for timm, torchvision and the original project, loaded strictly by them."""

import original_project
import pytest
import sweep
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from thorough import thorough

import eca_lightning
from eca_lightning.backbones import BackboneConfig
from eca_lightning.export.formats import write_weights


def written(folder, library, suffix=".pth", **options):
    """Export a network of noise; return it, the refusal if there is one, and the file."""
    config = BackboneConfig(num_classes=3, **options)
    network = sweep.noise(config.build()).eval()
    saved = {"backbone": vars(config), "mean": [0.5] * 3, "std": [0.5] * 3}
    write_weights(network, folder / "ours.safetensors", saved)
    output = folder / f"theirs{suffix}"
    refusal, report = sweep.command(
        "export", folder / "ours.safetensors", output, "--format", library
    )
    assert output.exists() != bool(refusal)
    return network, refusal or report, output


@pytest.mark.parametrize(
    ("attention", "options", "layer"),
    [
        ("eca", {"kernel": "figure"}, "eca"),
        ("se", {"bias": True, "reduction": [8, 16, 16, 16]}, "se"),
        *thorough(
            ("eca", {"kernel": "figure", "circular": True}, "ceca"),
            ("cbam", {}, "cbam"),
            ("gc_timm", {"fusion": "add"}, "gca"),
        ),
    ],
)
def test_timm_loads_it_strictly(tmp_path, attention, options, layer):
    options = {"attention": attention, "attention_options": options}
    ours, report, output = written(tmp_path, "timm", name="resnet10t", **options)
    assert "timm.create_model('resnet10t', num_classes=3, in_chans=3, block_args={" in report
    theirs = timm.create_model("resnet10t", num_classes=3, block_args={"attn_layer": layer})
    theirs.load_state_dict(torch.load(output, weights_only=True))
    assert not sweep.difference(theirs, ours)


def test_the_name_goes_with_safetensors_and_comes_back(tmp_path):
    ours, report, output = written(tmp_path, "timm", ".safetensors", name="resnetblur18")
    assert "timm.create_model('resnetblur18'" in report
    with safe_open(output, "pt") as file:
        assert file.metadata()["architecture"] == "resnetblur18"
    theirs = timm.create_model("resnetblur18", num_classes=3)
    theirs.load_state_dict(load_file(output))
    assert not sweep.difference(theirs, ours)
    assert eca_lightning.load_classifier(output).backbone_config.name == "resnetblur18"


def test_torchvision_loads_it_strictly(tmp_path):
    ours, _, output = written(tmp_path, "torchvision", name="mobilenet_v2")
    theirs = torchvision.models.mobilenet_v2(num_classes=3)
    theirs.load_state_dict(torch.load(output, weights_only=True))
    assert not sweep.difference(theirs, ours)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_the_original_project_loads_it_strictly(tmp_path, name):
    kernels = [3, 3, 5, 7] if name == "resnet18" else [1, 1, 1, 1, 3, 3, 3]
    options = {"attention": "eca", "attention_options": {"kernel": kernels}}
    ours, _, output = written(tmp_path, "original", name=name, **options)
    state = torch.load(output, weights_only=True)
    if name == "resnet18":
        expected = original_project.resnet_weights("eca_resnet18", kernels, classes=3)
        logits = original_project.resnet_logits
    else:
        expected = original_project.mobilenet_weights(kernels, classes=3)
        logits = original_project.mobilenet_logits
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(logits(state, images), ours(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("library", "options", "message"),
    [
        ("timm", {"name": "resnet10", "attention": "a2"}, "timm has no attention 'a2'"),
        ("timm", {"name": "resnet10t", "blur_pool": True}, "timm has no blur_pool"),
        ("timm", {"name": "resnet10t", "attention": "se"}, "missing (layer1.0.se.fc1.bias"),
        ("timm", {"name": "resnet20"}, "timm has no network with these weights"),
        ("timm", {"name": "resnet10t", "stem": "small"}, "computes something else"),
        ("torchvision", {"name": "resnet10t"}, "torchvision has no network with these weights"),
        ("torchvision", {"name": "resnet18", "attention": "eca"}, "no attention 'eca'"),
        ("original", {"name": "resnet20", "attention": "eca"}, "no such network"),
        ("original", {"name": "resnet18"}, "no such network"),
        (
            "original",
            {"name": "resnet18", "attention": "eca", "attention_options": {"circular": True}},
            "no circular ECA",
        ),
    ],
)
def test_what_a_library_does_not_have_is_refused(tmp_path, library, options, message):
    assert message in written(tmp_path, library, **options)[1]


def test_other_mistakes(tmp_path):
    assert "let a state dict end in .pth" in written(tmp_path, "timm", ".onnx", name="resnet10t")[1]
    refusal, _ = sweep.command(
        *("export", tmp_path / "ours.safetensors", tmp_path / "o.pth"),
        *("--format", "timm", "--preprocess", "true"),
    )
    assert "leave out preprocess" in refusal
