"""The files of configs/, through the program's own parser."""

import csv
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import pytest
import torch
import yaml
from thorough import first_of

from eca_lightning.compare.grid import read_grid
from eca_lightning.lightning_cli import lightning_cli

CONFIGS = Path(__file__).parents[1] / "configs"
QUICKSTART = CONFIGS / "quickstart.yaml"
RECIPES = [
    QUICKSTART,
    CONFIGS / "finetune.yaml",
    *(p for d in ("coco", "fashion_mnist", "imagenet") for p in (CONFIGS / d).iterdir()),
]
DATA = sorted(CONFIGS.glob("data/*.yaml"))
HARDWARE = sorted(CONFIGS.glob("trainer/*.yaml"))
ABLATIONS = {path.stem: read_grid(path) for path in sorted(CONFIGS.glob("ablation/*.yaml"))}


def build(*arguments):
    with torch.device("meta"):  # the networks' structure matters here, not their weights
        return lightning_cli([str(argument) for argument in arguments], run=False)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _eight_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


def test_every_config_is_used():
    """Tests below take data/, trainer/ and ablation/; others are named in docs/ or by a config."""
    pages = [CONFIGS.parent / "docs" / "recipes.md", *CONFIGS.rglob("*.yaml")]
    text = "\n".join(page.read_text() for page in pages)
    for path in CONFIGS.rglob("*.yaml"):
        named = f"{path.relative_to(CONFIGS)}" in text
        assert named or path.parent.name in ("trainer", "data", "ablation"), path


def flat(options, prefix=""):
    """The options of a file by their full names."""
    found = {}
    for key, value in options.items():
        nested = isinstance(value, dict) and value
        found |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return found


@pytest.mark.parametrize(
    "pair", combinations(RECIPES, 2), ids=lambda pair: "-".join(p.stem for p in pair)
)
def test_no_recipe_is_another_one_with_two_options_changed(pair):
    one, other = (flat(yaml.safe_load(path.read_text())) for path in pair)
    assert sum(one.get(key) != other.get(key) for key in one.keys() | other.keys()) > 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_its_source_and_leaves_the_logger_to_the_program(path):
    header, options = path.read_text(), yaml.safe_load(path.read_text())
    assert header.startswith("# ")
    assert "logger" not in options.get("trainer", {})
    assert options["seed_everything"] == 0


@pytest.mark.parametrize(
    ("stem", "variant"),
    [
        case
        for stem, grid in ABLATIONS.items()
        for case in first_of([(stem, name) for name in reversed(grid.variants)])
    ],
)
def test_variant_of_a_comparison(stem, variant, tmp_path):
    grid = ABLATIONS[stem]
    (cell,) = [c for c in grid.cells(tmp_path) if (c.variant, c.seed) == (variant, grid.seeds[1])]
    cli = build(*cell.arguments[1:], "--trainer.accelerator", "cpu")
    assert Path(cli.trainer.logger.log_dir) == cell.folder
    assert cli.config.seed_everything == cell.seed
    backbone = cli.model.hparams["backbone"]
    wanted = grid.options | grid.variants[variant]
    assert backbone["name"] == wanted.get("model.backbone.name", "resnet20")
    assert backbone["attention"] == wanted.get("model.backbone.attention")
    assert backbone["attention_options"] == wanted.get("model.backbone.attention_options", {})
    assert grid.variants[grid.references[0]] == {}
    assert len(grid.seeds) >= 5


def test_the_comparison_of_table_2_has_all_its_rows():
    with (files("eca_lightning.paper") / "table2_attention_variants.csv").open() as file:
        rows = {row["method"].replace("vanilla", "none") for row in csv.DictReader(file)}
    variants = ABLATIONS["fashion_mnist_table2"].variants
    assert rows | {"cbam", "gc", "a2"} <= variants.keys()
    for name, options in variants.items():
        attention = options.get("model.backbone.attention", "none")
        assert attention == name.removesuffix("_k3").removesuffix("_r4")


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_data(path):
    cli = build("--config", QUICKSTART, "--data", path, "--trainer.accelerator", "cpu")
    wanted = yaml.safe_load(path.read_text())["class_path"]
    assert f"eca_lightning.{type(cli.datamodule).__name__}" == wanted


@pytest.mark.parametrize("path", HARDWARE, ids=lambda path: path.stem)
@pytest.mark.usefixtures("_eight_gpus")
def test_hardware(path):
    cli = build("--config", QUICKSTART, "--config", path)
    written = yaml.safe_load(path.read_text())["trainer"]
    assert cli.trainer.precision == written["precision"]
    assert cli.trainer.num_devices == written["devices"]
    assert cli.trainer.max_epochs == 1  # the run's own


def test_print_config_reproduces_the_run(capsys, tmp_path):
    with pytest.raises(SystemExit):
        build("--config", QUICKSTART, "--model.backbone.attention", "se", "--print_config")
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        build("--config", printed, "--print_config")
    assert capsys.readouterr().out == printed.read_text()


QUICKSTARTS_FIRST = first_of(sorted(RECIPES, key=lambda path: "quickstart" not in path.stem), 2)
SWITCHES = ["enable_progress_bar=false", "enable_checkpointing=false", "barebones=true"]


@pytest.mark.slow
@pytest.mark.parametrize("path", QUICKSTARTS_FIRST, ids=lambda path: path.stem)
def test_a_recipe_without_progress_bar_checkpoints_or_all(path):
    detectors = CONFIGS / "detectors"
    more = (
        ["--config", detectors / "faster_rcnn.yaml"]
        if path.stem in ("paper", "quickstart_rcnn")
        else []
    )
    schedule = ["--config", CONFIGS / "schedules" / "ffcv16.yaml"] if "ffcv" in path.stem else []
    cpu = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32"]
    for switch in SWITCHES:
        build("--config", path, *more, *schedule, *cpu, f"--trainer.{switch}")
