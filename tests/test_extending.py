"""What docs/extending.md adds works as it stands there, in the package and outside it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from thorough import thorough

from eca_lightning import ImageClassifier, create_backbone
from eca_lightning.attention import base
from eca_lightning.backbones import BackboneConfig, network
from eca_lightning.classification.callbacks.attention_gates import gates_of
from eca_lightning.cli import main
from eca_lightning.compare.grid import read_grid
from eca_lightning.detection.networks import DetectorConfig
from eca_lightning.explain.grad_cam import grad_cam
from eca_lightning.paper import command
from eca_lightning.paper.check import audit
from eca_lightning.weights.match import load_weights

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
MECHANISM, ITS_TEST, VARIANT, FAMILY = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
REGISTERED = set(base.attention_names())


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package outside: the page's mechanism, without its registration, and its family."""
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "lct.py").write_text(MECHANISM.replace('@register_attention("lct")\n', ""))
    (folder / "regnet.py").write_text(FAMILY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(network, "_REGISTRY", dict(network._REGISTRY))
    yield {"lct": "own_package.lct.LinearContextTransform"}
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]
    network.outline.cache_clear()


def lively(module):
    """Give batch norms numbers that show whether they are used."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.1)
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return module.eval()


@pytest.mark.slow
def test_a_mechanism_typed_into_a_copy_leaves_every_test_green(tmp_path):
    leave_out = shutil.ignore_patterns("__pycache__", "native")
    for folder in ("eca_lightning", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=leave_out)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (file,) = re.findall(r"\*\*1. A file in `(\S+)`\*\*, here `\w+\.py`", PAGE)
    name, test_name = re.findall(r"here `(\w+\.py)`", PAGE)[:2]
    (tmp_path / file / name).write_text(MECHANISM)
    (tmp_path / "tests/attention" / test_name).write_text(ITS_TEST)
    (command,) = re.findall(r"^pytest (tests/attention .*)$", PAGE, re.M)
    run = subprocess.run(
        f"{sys.executable} -m pytest -q -p no:cacheprovider {command}",
        shell=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", run.stdout)[1])
    assert passed > 30, "contract, every kind of block, and its own test"


def test_a_mechanism_of_another_package_needs_no_edit(own, tmp_path):
    torch.manual_seed(0)
    plain = lively(create_backbone("resnet20", num_classes=10))
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    ours = create_backbone("resnet20", own["lct"], {"groups": 4}, num_classes=10, fused=True)
    load_weights(ours.eval(), tmp_path / "plain.pth")
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        assert (ours(images) - plain(images)).abs().max() == 0.0
    assert set(base.attention_names()) == REGISTERED
    model = ImageClassifier(BackboneConfig("resnet20", own["lct"], num_classes=10))
    assert model.hparams["backbone"]["attention"] == own["lct"]
    gates = gates_of(model, torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    assert {tuple(of_layer.shape) for of_layer in gates.values()} == {(4, 16), (4, 32), (4, 64)}
    model.backbone(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_mechanism_of_another_package_is_counted_and_compared(own, tmp_path, monkeypatch, capsys):
    config = f"{{name: resnet20, attention: {own['lct']}, attention_options: {{groups: 2}}}}"
    monkeypatch.setattr(command, "audit", lambda rows: audit([r for r in rows if r.table == "own"]))
    main(["models", "--backbones", f"[{config}]", "--json", str(tmp_path / "models.json")])
    ((record,),) = [json.loads((tmp_path / "models.json").read_text())]
    assert record["model"] == f"{own['lct']}_resnet20"
    with torch.device("meta"):
        plain = create_backbone("resnet20")
    added = 2 * 3 * (16 + 32 + 64)  # a weight and a bias for each channel of nine blocks
    assert record["parameters"] - sum(p.numel() for p in plain.parameters()) == added
    (tmp_path / "grid.yaml").write_text(
        f"base: {ROOT}/configs/quickstart.yaml\nseeds: [0]\nreferences: [none]\nvariants:\n"
        f"  none: {{}}\n  lct: {{model.backbone.attention: {own['lct']}}}\n"
    )
    assert "lct" in read_grid(tmp_path / "grid.yaml").variants


def test_weights_are_not_loaded_where_attention_would_change_them(own, tmp_path):
    folder = tmp_path / "own_package"
    (folder / "wrong.py").write_text(MECHANISM.replace('("transform",)', "()").replace("@", "# @"))
    (folder / "silent.py").write_text(
        MECHANISM.replace('    gate_layers = ("transform",)\n', "").replace("@", "# @")
    )
    torch.save(create_backbone("resnet20").state_dict(), tmp_path / "plain.pth")
    for module in ("wrong", "silent"):
        network = create_backbone("resnet20", f"own_package.{module}.LinearContextTransform")
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(ValueError, match=r"attention\.transform\.weight .*no gate_layers"):
            load_weights(network, tmp_path / "plain.pth")
        assert all(torch.equal(before[key], v) for key, v in network.state_dict().items())


def test_a_variant_has_the_keys_of_torchvisions(monkeypatch):
    monkeypatch.setattr(network, "_REGISTRY", dict(network._REGISTRY))
    exec(VARIANT, {})
    with torch.device("meta"):
        ours = create_backbone("resnet18_half").state_dict()
        theirs = torchvision.models.resnet18().state_dict()
    assert list(ours) == list(theirs)
    assert all(2 * len(ours[key]) == len(theirs[key]) for key in theirs if ".bn1.bias" in key)


REGNET = "own_package.regnet.regnet_x_400mf"


def test_a_family_without_attention_equals_torchvisions(own):
    torch.manual_seed(0)
    ours = lively(create_backbone(REGNET, num_classes=5))
    theirs = torchvision.models.regnet_x_400mf(num_classes=5).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("attention", ["eca", "cbam", "gc", "nl"])
def test_a_family_starts_as_the_identity(own, tmp_path, attention):
    torch.manual_seed(0)
    plain = lively(create_backbone(REGNET, num_classes=5))
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    ours = create_backbone(REGNET, attention, num_classes=5).eval()
    load_weights(ours, tmp_path / "plain.pth")
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert (ours(images) - plain(images)).abs().max() == 0.0


def test_a_family_gives_features_and_grad_cam(own):
    body = create_backbone(REGNET, "eca", features_only=True).eval()
    images = torch.randn(2, 3, 64, 64)
    maps = body(images)
    assert [m.shape[-1] for m in maps.values()] == [16, 8, 4, 2]
    assert [m.shape[1] for m in maps.values()] == body.out_channels == [32, 64, 160, 400]
    assert all(key.startswith(("stem.", "trunk_output.")) for key in body.state_dict())
    classifier = create_backbone(REGNET, "eca", num_classes=3)
    where, logits = grad_cam(classifier, images, torch.tensor([0, 2]))
    assert (where.shape, logits.shape) == ((2, 2, 2), (2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask_rcnn", *thorough("faster_rcnn", "retinanet")])
def test_a_family_carries_every_detector(own, name):
    config = DetectorConfig(name, BackboneConfig(REGNET, "eca"), 3, trainable_layers=2)
    config.min_size, config.max_size = [64], 96
    detector = config.build()
    frozen = {
        k.split(".")[2]
        for k, p in detector.backbone.body.named_parameters("backbone.body")
        if not p.requires_grad
    }
    assert {"stem", "trunk_output"} == frozen
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}
    target["masks"] = torch.zeros(1, 64, 64, dtype=torch.uint8)
    losses = detector([torch.rand(3, 64, 64)], [target])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in detector.backbone.fpn.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "aa"}, "replaces dense 3x3 convolutions"),
        ({"attention": "eca", "fused": True}, "this network's block has no fused form"),
        ({"stem": "small"}, "no small stem"),
    ],
)
def test_what_a_family_does_not_support_is_refused_in_one_line(own, options, message):
    with pytest.raises(ValueError, match=message) as error:
        create_backbone(REGNET, **options)
    assert "\n" not in str(error.value)
