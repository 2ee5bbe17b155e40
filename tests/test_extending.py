"""What docs/extending.md adds is found by the program and passes the tests that come with it."""

import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

from eca_lightning import create_attention, create_backbone
from eca_lightning.attention import registry
from eca_lightning.attention.base import ChannelGate
from eca_lightning.backbones import factory as backbones
from eca_lightning.cli import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
MECHANISM, ITS_TEST, BACKBONE = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
(RECIPE,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)


def run(code):
    names = {"__name__": "extension"}
    exec(code, names)
    return names


@pytest.fixture
def added(monkeypatch):
    """The mechanism, under the name that the page gives it."""
    (name, class_name) = re.search(r'`"(\w+)": (\w+)`', PAGE).groups()
    monkeypatch.setitem(registry._CONSTRUCTORS, name, run(MECHANISM)[class_name])
    return name


def test_the_mechanism_passes_its_own_test(added):
    tests = [test for name, test in run(ITS_TEST).items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


def test_the_mechanism_fits_every_backbone(added):
    module = create_attention(added, 32)
    assert isinstance(module, ChannelGate)
    x = torch.randn(2, 32, 5, 7).to(memory_format=torch.channels_last).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    for name in backbones.backbone_names():
        with torch.device("meta"):
            create_backbone(name, added)
    create_backbone("resnet20", added, {"groups": 16}, num_classes=2)(torch.randn(2, 3, 32, 32))


def test_the_backbone_has_the_keys_of_torchvisions(monkeypatch):
    ((name, constructor),) = run(BACKBONE)["line"].items()
    assert isinstance(constructor, partial)
    monkeypatch.setitem(backbones._FULL, name, constructor)
    with torch.device("meta"):
        ours = create_backbone(name).state_dict()
        theirs = getattr(torchvision.models, name)().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_the_recipe_is_a_run(tmp_path, monkeypatch, capsys):
    (path,) = re.findall(r"`(configs/\S+\.yaml)`:", PAGE)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / path).write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["eca-lightning"])
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", path, "--print_config"])
    printed = capsys.readouterr()
    assert stop.value.code == 0, printed.err
    run = yaml.safe_load(printed.out)
    assert run["model"]["init_args"]["backbone"]["attention"] == "cbam"
    assert run["trainer"]["logger"]["init_args"]["name"] == Path(path).stem
