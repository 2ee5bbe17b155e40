"""ImageNet weights in detectors, and what is said of files that do not fit."""

import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from thorough import thorough
from torch import nn
from torchvision.models import mobilenet_v2, resnet18

from eca_lightning import ImageClassifier, create_backbone
from eca_lightning.backbones import BackboneConfig
from eca_lightning.detection.backbone_weights import load_backbone
from eca_lightning.detection.networks import DetectorConfig

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def detector(backbone="resnet18", attention=None, norm="frozen", **settings):
    config = BackboneConfig(backbone, attention, **settings)
    return DetectorConfig("retinanet", config, num_classes=3, norm=norm, fpn_channels=8).build()


def lively(network):
    """Give a network statistics and affine parameters that show whether they were loaded."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-0.5, 0.5, generator=generator)
    return network.eval()


def last_map(network):
    """The last map of a classification network or of a detector's body, in float64."""
    network = copy.deepcopy(network).double().eval()
    with torch.inference_mode():
        if hasattr(network, "features"):
            return network.features(IMAGES)
        if hasattr(network, "fc"):
            maps = []
            network.layer4.register_forward_hook(lambda _, __, output: maps.append(output))
            network(IMAGES)
            return maps[0]
        return list(network(IMAGES).values())[-1]


@pytest.mark.parametrize("norm", ["frozen", *thorough("batch")])
@pytest.mark.parametrize(
    ("build", "name", "attention", "left_out"),
    [
        (resnet18, "resnet18", None, "fc.weight, fc.bias"),
        (mobilenet_v2, "mobilenet_v2", None, "classifier.1.weight, classifier.1.bias"),
        (partial(create_backbone, "resnet18", "eca"), "resnet18", "eca", "fc.weight, fc.bias"),
        (
            partial(create_backbone, "mobilenet_v2", "se"),
            "mobilenet_v2",
            "se",
            "classifier.1.weight",
        ),
    ],
)
def test_state_dicts(tmp_path, norm, build, name, attention, left_out):
    torch.manual_seed(0)
    network = lively(build())
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    ours = detector(name, attention, norm)
    report = load_backbone(ours, path)
    torch.testing.assert_close(last_map(ours.backbone.body), last_map(network))
    kept = len(network.state_dict()) - 2
    assert report.startswith(f"backbone: {kept} tensors of {path}; left out: {left_out}")
    assert "\n" not in report


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What a run of the classifier writes, and the network that it wrote."""
    config = BackboneConfig("resnet18", "se", num_classes=3)
    model = ImageClassifier(config)
    lively(model.backbone)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    return path, model.backbone


@pytest.mark.slow
def test_checkpoints_of_the_classifier(checkpoint):
    path, network = checkpoint
    ours = detector(attention="se")
    assert "left out: fc.weight, fc.bias" in load_backbone(ours, path)
    torch.testing.assert_close(last_map(ours.backbone.body), last_map(network))


@pytest.mark.parametrize(
    ("name", "attention", "messages"),
    [
        (
            "resnet18",
            "eca",
            ["8 missing (layer1.0.attention.conv.weight,", "unexpected (layer1.0.attention."],
        ),
        ("resnet18", None, ["unexpected (layer1.0.attention.", "resnet18 with attention none"]),
        ("resnet34", "se", ["missing (layer1.2.conv1.weight,", "resnet34 with attention se"]),
    ],
)
def test_a_checkpoint_of_another_network(checkpoint, name, attention, messages):
    ours = detector(name, attention)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(ValueError, match="are not those of the detector's backbone") as refusal:
        load_backbone(ours, checkpoint[0])
    messages = [*messages, f"has {name} with attention {attention or 'none'}, the file resnet18"]
    for message in [*messages, "the file resnet18 with attention se: set the detector's backbone"]:
        assert message in str(refusal.value)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(create_backbone, "resnet18", "se"), "the file attention of "),
        (resnet18, "the file no attention: set"),
        (
            partial(create_backbone, "resnet18", "eca", {"kernel": 7}),
            r"8 of another kernel size \(layer1.0.attention.conv.weight k = 7 instead of 3",
        ),
    ],
)
def test_a_state_dict_of_another_attention(tmp_path, build, message):
    torch.save(build().state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=message):
        load_backbone(detector(attention="eca"), tmp_path / "other.pth")


def test_blur_leaves_no_trace_in_names_but_in_the_checkpoint(checkpoint):
    with pytest.raises(ValueError, match="blur_pool is False in the checkpoint and True here"):
        load_backbone(detector(attention="se", blur_pool=True), checkpoint[0])


def test_a_stem_leaves_no_trace_either(tmp_path):
    model = ImageClassifier(BackboneConfig("mobilenet_v2", stem="small", num_classes=3))
    hyper_parameters = {"backbone": model.hparams["backbone"]}
    torch.save(
        {"state_dict": model.state_dict(), "hyper_parameters": hyper_parameters},
        tmp_path / "small.ckpt",
    )
    with pytest.raises(ValueError, match="stem is 'small' in the checkpoint and None here"):
        load_backbone(detector("mobilenet_v2"), tmp_path / "small.ckpt")


def test_what_was_taken_is_said(tmp_path):
    state = {f"net.{key}": value for key, value in resnet18().state_dict().items()}
    content = {"state_dict": state, "state_dict_ema": state}
    torch.save(content, tmp_path / "w.pth")
    report = load_backbone(detector(), tmp_path / "w.pth")
    assert "ema, of state_dict_ema/net.; raw, of state_dict/net., by import --weights raw" in report


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights not found: .*gone\.ckpt"):
        load_backbone(detector(), tmp_path / "gone.ckpt")
    with pytest.raises(FileNotFoundError, match="holds no run with a checkpoint"):
        load_backbone(detector(), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Not found</html>", "is a web page"),
        (b"", "is empty"),
        ([torch.zeros(3)], "holds a list"),
        ({"model": {"conv1.weight": torch.zeros(3)}}, "missing .*1 of another shape"),
        ({"model": {"epoch": torch.zeros(3)}}, "holds no weights"),
        ({"state_dict": 3}, "holds no weights"),
        ({"state_dict": {"conv1.weight": torch.zeros(3)}}, "missing .*1 of another shape"),
    ],
)
def test_files_of_something_else(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_backbone(detector(), path)


@pytest.mark.slow
def test_a_truncated_file(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path / "weights.pth")
    content = (tmp_path / "weights.pth").read_bytes()
    for length in (1000, len(content) // 2, len(content) - 10):
        (tmp_path / "weights.pth").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"weights\.pth is damaged"):
            load_backbone(detector(), tmp_path / "weights.pth")


def test_code_in_a_file_is_not_run(tmp_path):
    """A whole module, pickled, is more than tensors."""
    torch.save(nn.Linear(1, 1), tmp_path / "module.pth")
    with pytest.raises(ValueError, match="holds more than tensors and plain data"):
        load_backbone(detector(), tmp_path / "module.pth")
