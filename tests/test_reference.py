"""docs/reference/ is what the code says."""

import runpy
from pathlib import Path

import pytest
import yaml

from eca_lightning import FFCVDataModule, ImageClassifier
from eca_lightning.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "reference").iterdir())


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(ROOT / "tools" / "reference.py"))


def test_the_pages_are_up_to_date(tool):
    pages = {page.name: page.read_text() for page in PAGES}
    assert pages == tool["reference"](), "run `make docs`"


def test_options_have_types_defaults_and_explanations(tool):
    options = {name: rest for name, *rest in tool["_options"](ImageClassifier)}
    assert options["backbone"][:2] == ["[BackboneConfig](#backboneconfig)", "required"]
    assert options["optimizer"][1] == "`SGD(lr=0.1, momentum=0.9, weight_decay=0.0001)`"
    assert options["lr_interval"][:2] == ["`epoch` or `step`", "`epoch`"]
    assert options["lr_base_batch_size"][:2] == ["int or `null`", "`null`"]
    assert options["mixing"][2].endswith("see `Mixing`.")


def test_inherited_options_are_there(tool):
    options = {name: rest for name, *rest in tool["_options"](FFCVDataModule)}
    assert {"decoder", "batch_size", "seed"} <= options.keys()
    assert "kwargs" not in options
    assert options["scale"][:2] == ["[float, float]", "`[0.08, 1]`"]


def test_every_key_of_a_run_is_there(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["eca-lightning"])
    with pytest.raises(SystemExit):
        main(["fit", "--config", "configs/quickstart.yaml", "--print_config"])
    introduction = (ROOT / "docs" / "reference" / "README.md").read_text()
    for key in yaml.safe_load(capsys.readouterr().out):
        assert f"`{key}`" in introduction, key


def test_nothing_lacks_an_explanation():
    rows = [
        line.split(" | ")
        for page in PAGES
        for line in page.read_text().splitlines()
        if line.startswith(("| `", "| option", "| argument"))
    ]
    assert len(rows) > 150
    assert not [row for row in rows if row[0].startswith("| `") and row[-1].strip(" |") == ""]
