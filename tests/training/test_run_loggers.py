"""Whatever logs a run, it has a folder of its own, is resumed there, and keeps what was logged."""

import csv
import json

import pytest
import torch
import yaml
from command import noise_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eca_lightning.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Train up to an epoch, with a logger."""
    config = noise_run(tmp_path)
    config["trainer"]["log_every_n_steps"] = 1
    config["reports"] = ["ConfusionReport", "BestScores", "RunDescription", "AttentionMonitor"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["eca-lightning"])

    def run(logger, epochs, *options):
        config["trainer"]["max_epochs"] = epochs
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        given = ["--ckpt_path", "auto", "--trainer.logger", logger, *options]
        main(["fit", "--config", "run.yaml", *given])

    return run


def resumed(folder):
    """The loggers of the second attempt went on in the folder of the first."""
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    assert (folder / "config.yaml").is_file()


def test_tensorboard(fit, tmp_path):
    for epochs in (1, 2):
        fit("TensorBoardLogger", epochs, *SAVE_DIR)
    folder = tmp_path / "logs" / "one" / "version_0"
    resumed(folder)
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("val/top1")] == [1, 3]


SAVE_DIR = ["--trainer.logger.save_dir", "logs", "--trainer.logger.name", "one"]


def test_csv(fit, tmp_path):
    for epochs in (1, 2):
        fit("CSVLogger", epochs, *SAVE_DIR)
    folder = tmp_path / "logs" / "one" / "version_0"
    resumed(folder)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, steps in (("val/top1", [1, 3]), ("train/loss", [0, 1, 2, 3])):
        assert [int(row["step"]) for row in rows if row[name]] == steps
    assert any(row["gates_mean/layer1.0"] for row in rows)
    # Killed after a step that no checkpoint has, and while the file was moved.
    with (folder / "metrics.csv").open("a") as file:
        file.write(",".join(["9"] * len(rows[0])))
    (folder / "metrics.csv").rename(folder / ".metrics.csv")
    fit("CSVLogger", 3, *SAVE_DIR)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [0, 1, 2, 3, 4, 5]


def test_no_logger(fit, tmp_path):
    for epochs in (1, 2):
        fit("false", epochs)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 1


def test_mlflow(fit, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    options = ["--trainer.logger.tracking_uri", f"file:{tmp_path / 'store'}"]
    for epochs in (1, 2):
        fit("MLFlowLogger", epochs, *options)
    (folder,) = (tmp_path / "runs").glob("*/version_*")
    resumed(folder)
    client = mlflow.MlflowClient(f"file:{tmp_path / 'store'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "lightning_logs"]
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "val/top1")
    assert [metric.step for metric in history] == [1, 3]
    names = [file.path for file in client.list_artifacts(run.info.run_id, "val/confusion_matrix")]
    assert len(names) == 2


def test_weights_and_biases(fit, tmp_path):
    pytest.importorskip("wandb")
    for epochs in (1, 2):
        fit("WandbLogger", epochs, "--trainer.logger.offline", "true")
    (folder,) = (tmp_path / "runs").glob("*/version_*")
    resumed(folder)
    (name,) = json.loads((folder / "loggers.json").read_text()).values()
    attempts = list(tmp_path.rglob("offline-run-*"))
    assert {path.name.rpartition("-")[2] for path in attempts} == {name}
    assert len(list(tmp_path.rglob("confusion_matrix_*.png"))) == 2
