"""Mistakes of users end in one line and status 2, before training where they can be known."""

import re
import resource

import pytest
import torch
import yaml
from command import error_of, noise_run

from eca_lightning import create_backbone
from eca_lightning.cli import main
from eca_lightning.lightning_cli import lightning_cli

pytestmark = pytest.mark.usefixtures("as_a_program")

BASE = ["--model", "ImageClassifier", "--model.backbone.name", "resnet20"]
BASE += ["--model.backbone.num_classes", "3", "--data", "conftest.TinyData"]
BASE += ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.accelerator", "gpu"], "No supported gpu backend found"),
        (["--trainer.accelerator", "gpuu"], "invalid accelerator name"),
        (["--trainer.strategy", "ddp_spawn", "--trainer.devices", "2"], "take ddp in place of"),
        (["--trainer.strategy", "dpp"], "invalid strategy name"),
        (["--trainer.devices", "0"], "devices"),
        (
            ["--trainer.limit_train_batches", "0"],
            "limit_train_batches is 0: there would be nothing",
        ),
        (["--trainer.accumulate_grad_batches", "0"], "accumulate_grad_batches must be at least 1"),
        (["--trainer.check_val_every_n_epoch", "0"], "check_val_every_n_epoch must be at least 1"),
        (["--trainer.val_check_interval", "100"], "`val_check_interval` (100) must be less"),
        (["--trainer.profiler", "fast"], "profiler"),
        (["--seed_everything", "-1"], "seed_everything: -1 is not in bounds"),
        (["--model.optimizer.lr", "-1"], "model.optimizer: Invalid learning rate: -1"),
        (["--model.optimizer.lr", ".nan"], "model.optimizer.lr must be a number, got nan"),
        (["--model.lr_scheduler", "StepLR"], "step_size"),
        (["--model.optimizer.lr", "abc"], "model.optimizer.lr: expected float, got abc"),
        (["--model.label_smoothing", "2"], "label_smoothing must be from 0 to 1, got 2"),
        (["--trainer.gradient_clip_val", "-1"], "gradient_clip_val must be at least 0, got -1"),
        (["--model.weights", "lost.pth"], "weights not found: lost.pth"),
        (["--model.backbone.num_classes", "2"], "set model.backbone.num_classes to 3"),
        (["--checkpoint.mode", "largest"], "`mode` can be min, max"),
        (["--checkpoint.monitor", "val/acc"], "monitor of ModelCheckpoint: 'val/acc'; known: "),
        (
            ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/los"],
            "unknown metric for the monitor of EarlyStopping: 'val/los' (did you mean 'val/loss'?)",
        ),
        (
            ["--checkpoint.monitor", "train/top1", "--model.mixing.mixup", "0.2"],
            "unknown metric for the monitor of ModelCheckpoint: 'train/top1'",
        ),
    ],
)
def test_options_that_cannot_be(capsys, tmp_path, options, message):
    assert message in error_of(capsys, "fit", *BASE, *options)
    assert not list(tmp_path.iterdir()), "a run that is refused leaves an empty folder"


def test_a_refused_run_keeps_what_its_folder_holds(capsys, tmp_path):
    folder = tmp_path / "runs" / "run" / "version_3"
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    options = ["--model.weights", "lost.pth", "--trainer.logger.version", "3"]
    error_of(capsys, "fit", *BASE, *options)
    error_of(capsys, "fit", *BASE, "--model.weights", "lost.pth")
    assert (folder / "notes.txt").exists()
    assert list(folder.parent.iterdir()) == [folder]


def test_a_schedule_that_cannot_advance_is_named(capsys):
    schedule = ["--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", "0"]
    assert "model.lr_scheduler cannot advance" in error_of(capsys, "fit", *BASE, *schedule)


@pytest.mark.slow
def test_what_reports_log_can_be_monitored():
    reports = ["--reports", "[CalibrationMonitor, GradientNormMonitor]"]
    monitor = ["--checkpoint.monitor", "val/calibration_error", "--checkpoint.mode", "min"]
    run = lightning_cli(["fit", *BASE, *reports, *monitor])
    assert run.trainer.checkpoint_callback.best_model_path


@pytest.fixture
def full_disk():
    """Let no file grow above some kilobytes."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.slow
def test_a_full_disk(capsys, full_disk):
    assert "File too large" in error_of(capsys, "fit", *BASE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "import new.pth full.ckpt",
        "export new.pth full.safetensors",
        "data write image-folder --source images --output full.beton --num-workers 1",
    ],
)
def test_what_a_full_disk_cannot_take_is_named(capsys, tmp_path, request, command):
    torch.save(create_backbone("resnet20", num_classes=3).state_dict(), "new.pth")
    noise_run(tmp_path)
    before = sorted(tmp_path.iterdir())
    request.getfixturevalue("full_disk")
    error = error_of(capsys, *command.split())
    assert re.match(r"cannot write full\.\w+: File too large: free some space, or choose an", error)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("switch", ["enable_progress_bar=false", "enable_checkpointing=false"])
def test_what_is_switched_off_is_left_out(tmp_path, switch):
    reports = tmp_path / "reports.yaml"
    reports.write_text(
        yaml.safe_dump([{"class_path": "lightning.pytorch.callbacks.RichProgressBar"}])
    )
    lightning_cli(["fit", *BASE, "--reports", str(reports), f"--trainer.{switch}"])
    written = list(tmp_path.rglob("*.ckpt"))
    assert bool(written) == (switch == "enable_progress_bar=false")


@pytest.mark.slow
def test_a_bare_run_writes_nothing(tmp_path):
    lightning_cli(["fit", *BASE, "--trainer.barebones"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_tensorboard_is_named_for_its_own_logs_alone(capsys):
    for logger, named in (("TensorBoardLogger", True), ("CSVLogger", False)):
        main(["fit", *BASE, "--trainer.logger", logger])
        assert ("tensorboard --logdir runs" in capsys.readouterr().out) == named


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_network_is_not_scored_as_it_was_initialized(capsys, command):
    weights = ["--model.weights", "torchvision:resnet18"]  # which training alone starts from
    error = error_of(capsys, command, *BASE, *weights)
    assert error.startswith(f"{command} needs the weights of a checkpoint: give --ckpt_path")


def test_predictions_that_cannot_be_written_are_refused_before_they_are_made(capsys, tmp_path):
    (tmp_path / "file").touch()
    trial = ["--trainer.fast_dev_run", "true"]  # which needs no checkpoint
    error = error_of(capsys, "predict", *BASE, *trial, "--output", "file/images.csv")
    assert "cannot write to the run's folder file" in error
    assert "choose another with --output" in error


@pytest.mark.slow
def test_labels_beyond_the_classes_are_refused_without_names(tmp_path, raw_beton, capsys):
    beton = tmp_path / "unnamed.beton"
    beton.write_bytes(raw_beton.read_bytes())
    data = ["--data", "FFCVDataModule", "--data.train", str(beton), "--data.train_crop", "full"]
    error = error_of(capsys, "fit", *BASE[:6], *data, *BASE[-4:])
    assert "the data has 4 classes, but backbone.num_classes is 3" in error
