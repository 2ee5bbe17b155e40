"""Weights of timm, torchvision, FFCV and common repositories, beside the networks they are of."""

import copy
import json

import pytest
import sweep
import timm
import torch
import torchvision
from safetensors.torch import save_file
from thorough import thorough
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, ResNet

import eca_lightning
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.start_weights import start_from


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize(
    "name",
    [
        *("timm:resnet10t", "timm:resnetblur18"),
        *thorough("torchvision:mobilenet_v2", "timm:seresnet18", "timm:ecaresnet26t"),
        *thorough("timm:seresnetaa50d", "timm:resnetrs50", "timm:ecaresnet50d_pruned"),
    ],
)
def test_weights_load_as_their_library_computes(tmp_path, name):
    outcome = sweep.try_import(name, tmp_path)
    assert not outcome.refusal
    assert not outcome.wrong


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm:legacy_seresnet18", "it strides in other convolutions"),
        ("timm:test_resnet", "of no network of this package"),
        *thorough(
            ("timm:skresnet18", "it selects among kernels"),
            ("timm:resnetv2_18", "it normalizes before its convolutions"),
        ),
    ],
)
def test_other_networks_are_refused_with_the_reason(tmp_path, name, reason):
    assert reason in sweep.try_import(name, tmp_path).refusal


@pytest.mark.parametrize(
    ("attention", "network"),
    [
        ("ceca", "circular True"),
        ("gca", "attention gc_timm (fusion add)"),
        *thorough(
            ("eca", "attention eca (kernel"),
            ("se", "attention se"),
            ("cbam", "attention cbam"),
            ("gc", "attention gc_timm"),
        ),
    ],
)
def test_attention_of_timm(tmp_path, attention, network):
    arguments = {"block_args": {"attn_layer": attention}}
    theirs = sweep.noise(timm.create_model("resnet10t", num_classes=3, **arguments))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "resnet10t", "model_args": arguments}
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused, report = sweep.command("import", tmp_path / "model.safetensors", tmp_path / "o.ckpt")
    assert not refused
    assert network in report
    assert not sweep.difference(theirs, eca_lightning.load_classifier(tmp_path / "o.ckpt").backbone)


class Excitation(nn.Module):
    """SE as in moskomule/senet.pytorch."""

    def __init__(self, channels):
        super().__init__()
        layers = (nn.Linear(channels, channels // 16, bias=False), nn.ReLU())
        self.fc = nn.Sequential(*layers, nn.Linear(channels // 16, channels, bias=False))

    def forward(self, x):
        return x * self.fc(x.mean(dim=(2, 3))).sigmoid()[:, :, None, None]


class Gates(nn.Module):
    """CBAM as in Jongchan/attention-module: biases, a norm, and the maximum first."""

    def __init__(self, channels):
        super().__init__()
        hidden = channels // 16
        layers = (nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.ChannelGate = nn.ModuleDict({"mlp": nn.Sequential(*layers)})
        conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        spatial = nn.ModuleDict({"conv": conv, "bn": nn.BatchNorm2d(1)})
        self.SpatialGate = nn.ModuleDict({"spatial": spatial})

    def forward(self, x):
        mlp, spatial = self.ChannelGate["mlp"], self.SpatialGate["spatial"]
        gate = mlp(F.adaptive_avg_pool2d(x, 1)) + mlp(F.adaptive_max_pool2d(x, 1))
        x = x * gate.sigmoid()[:, :, None, None]
        maps = torch.cat([x.max(1, keepdim=True)[0], x.mean(1, keepdim=True)], dim=1)
        return x * spatial["bn"](spatial["conv"](maps)).sigmoid()


class ChannelAndSpace(nn.Module):
    """CBAM as in luuuyi/CBAM.PyTorch: no norm, and the mean first."""

    def __init__(self, channels):
        super().__init__()
        conv = (nn.Conv2d(channels, channels // 16, 1, bias=False), nn.ReLU())
        fc = nn.Sequential(*conv, nn.Conv2d(channels // 16, channels, 1, bias=False))
        self.ca = nn.ModuleDict({"fc": fc})
        self.sa = nn.ModuleDict({"conv1": nn.Conv2d(2, 1, 7, padding=3, bias=False)})

    def forward(self, x):
        fc, conv = self.ca["fc"], self.sa["conv1"]
        gate = fc(F.adaptive_avg_pool2d(x, 1)) + fc(F.adaptive_max_pool2d(x, 1))
        x = x * gate.sigmoid()
        maps = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        return x * conv(maps).sigmoid()


def gated(kind):
    """A ResNet with attention behind each block's last norm, by the name gate."""

    class Block(BasicBlock):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.gate = kind(self.bn2.num_features)

        def forward(self, x):
            branch = self.conv2(self.relu(self.bn1(self.conv1(x))))
            shortcut = x if self.downsample is None else self.downsample(x)
            return (self.gate(self.bn2(branch)) + shortcut).relu()

    return ResNet(Block, [1, 1, 1, 1], num_classes=3)


@pytest.mark.parametrize(
    ("kind", "key", "network"),
    [
        (Excitation, "se", "attention se"),
        (Gates, "cbam", "attention cbam (bias True)"),
        (ChannelAndSpace, "", "attention cbam (norm False)"),
    ],
)
def test_attention_of_repositories(tmp_path, kind, key, network):
    theirs = sweep.noise(gated(kind))
    state = theirs.state_dict()
    named = {k.replace(".gate.", f".{key}." if key else "."): v for k, v in state.items()}
    torch.save({"state_dict": {f"module.{k}": v for k, v in named.items()}}, tmp_path / "w.pth")
    refused, report = sweep.command("import", tmp_path / "w.pth", tmp_path / "ours.ckpt")
    assert not refused
    assert f"resnet10 with {network}" in report
    ours = eca_lightning.load_classifier(tmp_path / "ours.ckpt").backbone
    assert not sweep.difference(theirs, ours)


class Blurred(nn.Module):
    """FFCV's strided convolution, written from its description in its ImageNet example."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        taps = torch.tensor([1.0, 2.0, 1.0])
        blur = torch.outer(taps, taps)[None, None].repeat(conv.in_channels, 1, 1, 1) / 16
        self.register_buffer("blur_filter", blur)

    def forward(self, x):
        return self.conv(F.conv2d(x, self.blur_filter, padding=1, groups=len(self.blur_filter)))


def with_blur(network):
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and child.stride[0] > 1 and child.in_channels >= 16:
                setattr(module, name, Blurred(child))
    return network


def test_checkpoints_of_ffcv(tmp_path):
    theirs = with_blur(sweep.noise(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)))
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "final_weights.pt")
    refused, report = sweep.command("import", tmp_path / "final_weights.pt", tmp_path / "o.ckpt")
    assert not refused
    assert "resnet10 with attention none, blur_pool" in report
    ours = eca_lightning.load_classifier(tmp_path / "o.ckpt").backbone
    assert not sweep.difference(theirs, ours)
    config = BackboneConfig("resnet10", num_classes=3)
    with pytest.raises(ValueError, match="blur_pool to true"):
        start_from(config.build(), config, tmp_path / "final_weights.pt")
    state["module.layer2.0.conv1.blur_filter"] += 0.1
    torch.save(state, tmp_path / "w.pt")
    refused, _ = sweep.command("import", tmp_path / "w.pt", tmp_path / "o.ckpt")
    assert "by another filter than FFCV's" in refused
    half = {k: v for k, v in state.items() if "layer2.0.conv1" not in k}
    half["module.layer2.0.conv1.weight"] = state["module.layer2.0.conv1.conv.weight"]
    torch.save(half, tmp_path / "w.pt")
    refused, _ = sweep.command("import", tmp_path / "w.pt", tmp_path / "o.ckpt")
    assert "blurs before some strides alone" in refused


def test_quantizable_and_quantized_networks(tmp_path):
    theirs = sweep.noise(torchvision.models.quantization.resnet18(num_classes=3))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    assert not sweep.command("import", tmp_path / "w.pth", tmp_path / "ours.ckpt")[0]
    ours = eca_lightning.load_classifier(tmp_path / "ours.ckpt").backbone
    assert not sweep.difference(theirs, ours)
    fused = copy.deepcopy(theirs).eval()
    fused.fuse_model(is_qat=False)
    torch.save(fused.state_dict(), tmp_path / "fused.pth")
    refused, _ = sweep.command("import", tmp_path / "fused.pth", tmp_path / "o.ckpt")
    assert "its batch norms are folded into its convolutions" in refused


def test_pruned_channels(tmp_path):
    pruned = {"layer1.0.conv1": [40, 64], "layer1.0.conv2": [64, 40]}
    network = sweep.noise(
        eca_lightning.create_backbone("resnet10t", "eca", num_classes=3, pruned=pruned)
    )
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert not sweep.command("import", tmp_path / "w.pth", tmp_path / "ours.ckpt")[0]
    ours = eca_lightning.load_classifier(tmp_path / "ours.ckpt")
    assert ours.backbone_config.pruned == pruned
    assert not sweep.difference(network, ours.backbone)
