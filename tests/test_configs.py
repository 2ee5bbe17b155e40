"""Every published config, through the program's own parser."""

import csv
from copy import deepcopy
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml

from eca_lightning.backbones import BackboneConfig
from eca_lightning.compare.grid import read_grid
from eca_lightning.lightning_cli import lightning_cli
from eca_lightning.paper.tables import ablation_models, imagenet_models

CONFIGS = Path(__file__).parents[1] / "configs"
QUICKSTART = CONFIGS / "quickstart.yaml"
DETECTION_RUNS = sorted(CONFIGS.glob("coco/*.yaml"))
RUNS = [QUICKSTART, *sorted(CONFIGS.glob("imagenet/*.yaml"))]
SMALL_RUNS = sorted(CONFIGS.glob("fashion_mnist/*.yaml"))
TASKS = sorted(CONFIGS.glob("tasks/*.yaml"))
MODELS = sorted(CONFIGS.glob("models/*.yaml"))
DETECTORS = sorted(CONFIGS.glob("detectors/*.yaml"))
DATA = sorted(CONFIGS.glob("data/*.yaml"))
CALLBACKS = sorted(CONFIGS.glob("trainer/callbacks*.yaml"))
ABLATIONS = {path.stem: read_grid(path) for path in sorted(CONFIGS.glob("ablation/*.yaml"))}
HARDWARE = sorted(set(CONFIGS.glob("trainer/*.yaml")) - set(CALLBACKS))


def build(*arguments):
    with torch.device("meta"):  # the networks' structure matters here, not their weights
        return lightning_cli([str(argument) for argument in arguments], run=False)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["eca-lightning"])


@pytest.fixture
def _eight_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


def test_no_config_is_left_out():
    grids = {CONFIGS / "ablation" / f"{stem}.yaml" for stem in ABLATIONS}
    runs = {*RUNS, *SMALL_RUNS, *DETECTION_RUNS, *grids}
    parts = {*TASKS, *MODELS, *DETECTORS, *DATA, *HARDWARE, *CALLBACKS}
    assert runs | parts == set(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("path", [*RUNS, *SMALL_RUNS], ids=lambda path: path.stem)
def test_run(path):
    check_run(path)


def check_run(path):
    cli = build("--config", path, "--trainer.accelerator", "cpu")
    assert cli.trainer.max_epochs > 0
    folder = f"{path.parent.name}_" if path in SMALL_RUNS else ""
    assert cli.trainer.logger.name == folder + path.stem
    scheduler = cli.config.model.init_args.lr_scheduler
    assert scheduler is not None
    deepcopy(cli.model)  # as averaging the weights does
    return cli


@pytest.mark.parametrize(
    ("stem", "variant"),
    [(stem, name) for stem, grid in ABLATIONS.items() for name in grid.variants],
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
    assert grid.variants["none"] == {}
    assert len(grid.seeds) >= 5


def test_the_comparison_of_table_2_has_all_its_rows():
    with (files("eca_lightning.paper") / "table2_attention_variants.csv").open() as file:
        rows = {row["method"].replace("vanilla", "none") for row in csv.DictReader(file)}
    variants = ABLATIONS["fashion_mnist_table2"].variants
    assert rows | {"cbam", "gc", "a2"} <= variants.keys()
    for name, options in variants.items():
        attention = options.get("model.backbone.attention", "none")
        assert attention == name.removesuffix("_k3").removesuffix("_r4")


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_model(path):
    cli = build("--config", QUICKSTART, "--model.backbone", path, "--trainer.accelerator", "cpu")
    written = yaml.safe_load(path.read_text())
    built = cli.model.hparams["backbone"]
    assert {key: built[key] for key in written} == written
    # Complete, so that nothing of the network that it replaces is left.
    assert {"name", "attention", "attention_options"} <= set(written)


@pytest.mark.parametrize("path", DETECTION_RUNS, ids=lambda path: path.stem)
def test_detection_run(path):
    """Masks are read where they are learned, and the best checkpoint is that of the best boxes."""
    cli = check_run(path)
    name, quickstart = cli.model.hparams["detector"]["name"], "quickstart" in path.stem
    assert name in path.stem
    assert cli.datamodule.masks == (name == "mask_rcnn")
    assert cli.trainer.checkpoint_callback.monitor == "val/box_AP"
    detector = cli.model.hparams["detector"]
    assert detector["num_classes"] == (10 if quickstart else 80)
    if not quickstart:
        written = yaml.safe_load((CONFIGS / "detectors" / path.name).read_text())
        backbone = yaml.safe_load((CONFIGS / "detectors" / written.pop("backbone")).read_text())
        assert {key: detector[key] for key in written} == written
        assert {key: detector["backbone"][key] for key in backbone} == backbone
        assert cli.model.lr_base_batch_size == 8


def test_each_detector_has_its_run():
    names = {path.name for path in DETECTORS}
    assert names == {path.name for path in DETECTION_RUNS if "quickstart" not in path.stem}
    kinds = [f"{a}resnet{n}" for a in ("", "se_", "eca_") for n in (50, 101)]
    detectors = ("faster_rcnn", "mask_rcnn", "retinanet")
    assert names == {f"{name}_{kind}.yaml" for name in detectors for kind in kinds}


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_data(path):
    cli = build("--config", QUICKSTART, "--data", path, "--trainer.accelerator", "cpu")
    assert (
        type(cli.datamodule).__name__
        == yaml.safe_load(path.read_text())["class_path"].split(".")[-1]
    )


@pytest.mark.parametrize("path", HARDWARE, ids=lambda path: path.stem)
@pytest.mark.usefixtures("_eight_gpus")
def test_hardware(path):
    cli = build("--config", QUICKSTART, "--config", path)
    written = yaml.safe_load(path.read_text())["trainer"]
    assert cli.trainer.precision == written["precision"]
    assert cli.trainer.num_devices == written["devices"]
    assert cli.trainer.max_epochs == 1  # the run's own


@pytest.mark.parametrize(
    "model", [*imagenet_models(), *ablation_models()], ids=lambda model: model.name
)
def test_the_papers_models_are_published(model):
    path = CONFIGS / "models" / f"{model.name}.yaml"
    assert BackboneConfig(**yaml.safe_load(path.read_text())) == model.config


def test_print_config_reproduces_the_run(capsys, tmp_path):
    with pytest.raises(SystemExit):
        build("--config", QUICKSTART, "--model.backbone.attention", "se", "--print_config")
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        build("--config", printed, "--print_config")
    assert capsys.readouterr().out == printed.read_text()
