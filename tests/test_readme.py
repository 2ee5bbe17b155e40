"""What the README tells people to type works."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from eca_lightning.backbones import BackboneConfig
from eca_lightning.cli import main
from eca_lightning.tasks import ImageClassifier

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHELL = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
COMMANDS = [line for line in SHELL.splitlines() if line.startswith("eca-lightning ")]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_readme_has_commands_and_code():
    assert len(COMMANDS) > 5
    assert len(PYTHON) > 1


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command, comments=True)[1:]
    monkeypatch.setattr("sys.argv", ["eca-lightning"])
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--print_config"])
    assert stop.value.code == 0, capsys.readouterr().err


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets


@pytest.mark.parametrize("code", PYTHON)
def test_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer.strategy.connect(ImageClassifier(BackboneConfig("resnet20", "eca", num_classes=3)))
    trainer.save_checkpoint("best.ckpt")
    Path("photos").mkdir()
    Image.new("RGB", (300, 280)).save("photos/1.jpg")
    names = {}
    exec(code, names)
    if "logits" in names:
        assert names["logits"].shape == torch.Size([2, 1000])
    if "PredictionWriter" in code:
        assert json.loads(Path("photos.jsonl").read_text())["image"] == "photos/1.jpg"
    if "from_pretrained" in code:
        weights = [names[name].backbone.fc.weight for name in ("model", "same")]
        assert torch.equal(*weights)


def test_files_and_links_are_there():
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / link).exists(), link
    for config in set(re.findall(r"configs/[\w/]+\.yaml", README)):
        assert (ROOT / config).exists(), config
