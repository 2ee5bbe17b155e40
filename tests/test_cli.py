"""The program's help, its options in any order, and one clear error for each mistake."""

import os
import subprocess
import sys

import pytest
import torch
import yaml
from command import fails
from small_run import CONFIGS, best, write_images

from eca_lightning.cli import COMMANDS, main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_a_program")]


def test_data_info_and_verify(work, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["data", "info", str(work)])
    main(["data", "verify", str(work / "val.beton")])
    printed = capsys.readouterr().out
    assert "train.beton" in printed
    assert "all 21 samples are good" in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert "usage: eca-lightning" in capsys.readouterr().out


def test_help_lists_the_commands_without_importing_torch():
    code = "import sys; from eca_lightning.cli import main; main(['--help']); "
    code += "sys.exit('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {command} " in shown.stdout for command in COMMANDS)


def test_unknown_command(capsys):
    error = fails(capsys, "tain")
    assert "unknown command 'tain'" in error
    assert "known: fit, validate, test, predict, data, " in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fit", "--model.backbone.atention", "eca"], "--backbone.atention"),
        (["fit", "--data.batch_size", "many"], "batch_size"),
        (["fit", "--trainer.max_epochs", "many"], "trainer.max_epochs"),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["fit", "--data", "ImageFolder"], "ImageFolder"),
        (["fit", "--top", "3"], "unrecognized arguments: --top 3"),
        (["predict", "--annotated", "true"], "--annotated is not for ImageClassifier"),
        (["predict", "--min_score", "0.3"], "--min_score is not for ImageClassifier"),
        (["fit", "--trainer.max_epochs", "null"], "trainer.max_epochs is not set: add a schedule"),
    ],
)
def test_bad_options_are_one_line(work, capsys, options, message):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([options[0], "--config", str(work / "small.yaml"), *options[1:]])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("eca-lightning: error: ")
    assert message in error
    assert len(error) < 300


def printed(capsys, *arguments):
    """The resolved options of a run."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


FFCV = ["--config", str(CONFIGS / "imagenet" / "resnet50_ffcv.yaml")]


FFCV40 = ["--config", str(CONFIGS / "schedules" / "ffcv40.yaml")]


GPU8 = ["--config", str(CONFIGS / "trainer" / "gpu8.yaml")]


ECA = ["--model.backbone.attention", "eca"]


@pytest.mark.parametrize("last", [[*ECA, *GPU8, *FFCV40], [*FFCV40, *GPU8, *ECA]])
def test_axes_compose_in_any_order(capsys, last):
    run = printed(capsys, *FFCV, *last)
    assert run["model"]["init_args"]["backbone"]["attention"] == "eca"
    assert (run["trainer"]["devices"], run["trainer"]["max_epochs"]) == (8, 40)
    (resizing,) = run["trainer"]["callbacks"]
    assert resizing["class_path"] == "eca_lightning.ProgressiveResizing"
    logger = run["trainer"]["logger"]["init_args"]
    assert (logger["save_dir"], logger["name"]) == ("runs", "resnet50_ffcv-ffcv40-eca")


@pytest.mark.parametrize("option", ["--trainer.logger.name", "--trainer.logger.init_args.name"])
def test_another_name_and_logger(capsys, option):
    run = printed(capsys, *FFCV, option, "mine")
    assert run["trainer"]["logger"]["init_args"]["name"] == "mine"
    assert run["trainer"]["logger"]["class_path"].endswith(".RunLogger")
    run = printed(capsys, *FFCV, "--trainer.logger", "CSVLogger")
    assert run["trainer"]["logger"]["class_path"].endswith(".CSVLogger")
    assert run["trainer"]["logger"]["init_args"]["name"] == "resnet50_ffcv"
    assert printed(capsys, *FFCV, "--trainer.logger", "false")["trainer"]["logger"] is False


def test_callbacks_are_appended_to_those_of_files_before(capsys):
    v2 = ["--config", str(CONFIGS / "imagenet" / "resnet50_v2.yaml")]
    callback = ["--trainer.callbacks+=ProgressiveResizing", "--trainer.callbacks.min_size=64"]
    for last, size in ((FFCV40, 160), (callback, 64)):
        callbacks = printed(capsys, *v2, *last)["trainer"]["callbacks"]
        names = [c["class_path"].rpartition(".")[2] for c in callbacks]
        assert names == ["ProgressiveResizing", "ExponentialMovingAverage", "ProgressiveResizing"]
        assert callbacks[2]["init_args"]["min_size"] == size


def test_hyphens_are_underscores_and_short_names_classes(capsys):
    options = ["--data", "ImageFolderDataModule", "--data.batch-size", "9", "--seed-everything=3"]
    run = printed(capsys, *FFCV, *options)
    assert run["data"]["class_path"] == "eca_lightning.ImageFolderDataModule"
    assert run["data"]["init_args"]["batch_size"] == 9
    assert run["seed_everything"] == 3


@pytest.mark.parametrize("option", ["--data.train", "--data.val"])
def test_missing_data_set(work, capsys, option):
    error = fails(capsys, "fit", "--config", work / "small.yaml", option, "nowhere.beton")
    assert "nowhere.beton" in error
    assert "eca-lightning data write" in error


def test_truncated_beton(work, capsys, tmp_path):
    broken = tmp_path / "broken.beton"
    broken.write_bytes((work / "train.beton").read_bytes()[:-1000])
    error = fails(capsys, "fit", "--config", work / "small.yaml", "--data.train", broken)
    assert str(broken) in error


def test_empty_class_folder(work, capsys, tmp_path):
    write_images(tmp_path / "images", 2)
    (tmp_path / "images" / "yellow").mkdir()
    options = ["--source", tmp_path / "images", "--output", tmp_path / "out.beton"]
    error = fails(capsys, "data", "write", "image-folder", *options)
    assert "yellow" in error
    assert not list(tmp_path.glob("out*"))


def test_file_that_is_no_image(work, capsys, tmp_path):
    write_images(tmp_path / "images", 2)
    (tmp_path / "images" / "red" / "notes.jpg").write_text("not a picture")
    options = ["--source", tmp_path / "images", "--output", tmp_path / "out.beton"]
    error = fails(capsys, "data", "write", "image-folder", *options)
    assert "notes.jpg" in error
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.backbone.attention", "ecaa"], "did you mean 'eca'?"),
        (["--model.backbone.name", "resnet51"], "resnet18, resnet34, resnet50"),
        (["--model.backbone.attention_options.kernel", "4"], "odd"),
        (["--data.batch_size", "0"], "batch_size must be at least 1"),
        (["--model.backbone.num_classes", "5"], "num_classes to 3"),
        (["--ckpt_path", "nowhere.ckpt"], "checkpoint not found: nowhere.ckpt"),
    ],
)
def test_bad_options(work, capsys, options, message):
    assert message in fails(capsys, "fit", "--config", work / "small.yaml", *options)


def test_checkpoint_of_another_architecture(work, capsys):
    options = ["--model.backbone.attention", "se", "--ckpt_path", best(work)]
    error = fails(capsys, "validate", "--config", work / "small.yaml", *options)
    assert "attention is 'eca' in the checkpoint and 'se' here" in error


def test_damaged_checkpoint(work, capsys, tmp_path):
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(best(work).read_bytes()[:5000])
    error = fails(capsys, "validate", "--config", work / "small.yaml", "--ckpt_path", damaged)
    assert "damaged.ckpt is damaged or not a checkpoint" in error


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("command", ["validate", "predict", "import", "export"])
def test_code_in_a_checkpoint_is_not_run(work, capsys, tmp_path, command):
    trap, sprung = tmp_path / "trap.ckpt", tmp_path / "sprung"
    torch.save({"state_dict": {"fc.bias": torch.zeros(3)}, "args": Trap(sprung)}, trap)
    run = [command, "--config", work / "small.yaml", "--ckpt_path", trap]
    if command in ("import", "export"):
        run = [command, trap, tmp_path / ("new.ckpt" if command == "import" else "new.pt2")]
    assert "trap.ckpt" in fails(capsys, *run, *["--data.predict", work] * (command == "predict"))
    assert [path.name for path in tmp_path.iterdir()] == ["trap.ckpt"]


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken():
        int("seven")

    monkeypatch.setattr("eca_lightning.paper.command.models", broken)
    with pytest.raises(ValueError, match="seven"):
        main(["models"])
