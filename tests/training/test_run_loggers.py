"""Whatever logs a run, it has a folder of its own, is resumed there, and keeps what was logged."""

import csv
import json
import shutil
from typing import ClassVar

import pytest
import torch
import yaml
from command import error_of, noise_run
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eca_lightning import RunLogger
from eca_lightning.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_a_program")]

VALIDATIONS, STEPS = [1, 3], [0, 1, 2, 3]
"""Logged steps of two epochs of two batches."""

SAVE_DIR = ["--trainer.logger.save_dir", "logs", "--trainer.logger.name", "one"]


class OwnCSVLogger(CSVLogger):
    """A class of the user's own, of Lightning's kind."""


class OwnLogger(DummyLogger):
    """A class of the user's own, of no known kind."""

    logged: ClassVar[list[str]] = []

    def log_metrics(self, metrics, step):
        self.logged.extend(metrics)


@pytest.fixture
def fit(tmp_path):
    """Train up to an epoch, with a logger."""
    config = noise_run(tmp_path)
    config["trainer"]["log_every_n_steps"] = 1
    config["reports"] = ["ConfusionReport", "BestScores", "RunDescription", "AttentionMonitor"]

    def run(logger, epochs, *options, **model):
        config["trainer"]["max_epochs"] = epochs
        config["model"]["init_args"] |= model
        config["trainer"]["logger"] = logger if isinstance(logger, list) else None
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        given = [] if isinstance(logger, list) else ["--trainer.logger", logger]
        main(["fit", "--config", "run.yaml", "--ckpt_path", "auto", *given, *options])

    return run


def resumed(folder):
    """The loggers of the second attempt went on in the folder of the first."""
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    assert (folder / "config.yaml").is_file()


def metrics(folder):
    """Read the rows of a CSVLogger."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def steps(rows, name):
    return [int(row["step"]) for row in rows if row[name]]


def test_tensorboard(fit, tmp_path):
    for epochs in (1, 2):
        fit("TensorBoardLogger", epochs, *SAVE_DIR)
    folder = tmp_path / "logs" / "one" / "version_0"
    resumed(folder)
    events = EventAccumulator(str(folder))
    events.Reload()
    logged = {"val/top1": VALIDATIONS, "val_best/top1": VALIDATIONS, "train/loss": STEPS}
    for name, expected in logged.items():
        assert [event.step for event in events.Scalars(name)] == expected


def test_csv(fit, tmp_path):
    for epochs in (1, 2):
        fit("CSVLogger", epochs, *SAVE_DIR)
    folder = tmp_path / "logs" / "one" / "version_0"
    resumed(folder)
    rows = metrics(folder)
    for name, expected in (("val/top1", VALIDATIONS), ("train/loss", STEPS)):
        assert steps(rows, name) == expected
    assert steps(rows, "val_gates_mean/layer1.0") == VALIDATIONS
    # Killed after a step that no checkpoint has, and while the file was moved.
    with (folder / "metrics.csv").open("a") as file:
        file.write(",".join(["9"] * len(rows[0])))
    (folder / "metrics.csv").rename(folder / ".metrics.csv")
    fit("CSVLogger", 3, *SAVE_DIR)
    assert steps(metrics(folder), "train/loss") == [*STEPS, 4, 5]
    # Validated in the same folder: what training wrote stays.
    config = (folder / "config.yaml").read_text()
    best = str(folder / "checkpoints" / "best.ckpt")
    given = ["--trainer.logger", "CSVLogger", *SAVE_DIR, "--trainer.logger.version", "0"]
    main(["validate", "--config", "run.yaml", "--ckpt_path", best, *given])
    assert steps(metrics(folder), "train/loss") == [*STEPS, 4, 5]
    assert (folder / "config.yaml").read_text() == config


def test_no_logger(fit, tmp_path):
    for epochs in (1, 2):
        fit("false", epochs)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 1


def test_loggers_of_ones_own_beside_others(fit, tmp_path):
    places = [{"save_dir": "logs", "name": "one"}, {"save_dir": "more", "name": "two"}]
    loggers = [
        {"class_path": f"{__name__}.OwnLogger"},
        {"class_path": f"{__name__}.OwnCSVLogger", "init_args": places[0]},
        {"class_path": "CSVLogger", "init_args": places[1]},
    ]
    for epochs in (1, 2):
        fit(loggers, epochs)
    resumed(tmp_path / "logs" / "one" / "version_0")
    folders = [tmp_path / place["save_dir"] / place["name"] for place in places]
    for folder in folders:
        assert steps(metrics(folder / "version_0"), "train/loss") == STEPS
    assert {"train/loss", "val/top1", "val_gates_mean/layer1.0"} <= set(OwnLogger.logged)
    shutil.rmtree(folders[0])  # another run, whose first logger has a folder of its own
    fit(loggers, 1, "--ckpt_path", "null")
    assert steps(metrics(folders[1] / "version_0"), "train/loss") == STEPS
    assert steps(metrics(folders[1] / "version_1"), "train/loss") == STEPS[:2]


def test_a_logger_that_cannot_be_created(capsys):
    given = ["--trainer.logger", "CometLogger"]  # whose package is not installed
    data = ["--data", "conftest.TinyData", "--trainer.max_epochs", "1"]
    model = ["--model", "ImageClassifier", "--model.backbone.name", "resnet20"]
    assert "cannot create CometLogger: " in error_of(capsys, "fit", *model, *data, *given)


@pytest.fixture
def flow(tmp_path, monkeypatch):
    """A client of a store of files, and options to log there."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = f"file:{tmp_path / 'store'}"
    return mlflow.MlflowClient(store), ["--trainer.logger.tracking_uri", store]


def test_mlflow(fit, tmp_path, flow, capsys):
    client, options = flow
    fit("MLFlowLogger", 1, *options)
    # MLflow lets no option of a run change; what it is now stands in the text of the config.
    fit("MLFlowLogger", 2, *options, label_smoothing=0.1)
    (folder,) = (tmp_path / "runs").glob("*/version_*")
    resumed(folder)
    (experiment,) = [e for e in client.search_experiments() if e.name == "lightning_logs"]
    (run,) = client.search_runs([experiment.experiment_id])
    name = run.info.run_id
    for tag, expected in (("val/top1", VALIDATIONS), ("train/loss", STEPS)):
        assert [metric.step for metric in client.get_metric_history(name, tag)] == expected
    assert len(client.list_artifacts(name, "val/confusion_matrix")) == 2
    assert len(client.list_artifacts(name, "val/most_confused")) == 2
    assert len(client.list_artifacts(name, "run/config")) == 2
    assert run.data.params["label_smoothing"] == "0.0"
    assert run.info.status == "FINISHED"
    options[-1] = f"file:{tmp_path / 'other'}"
    given = ["--trainer.logger", "MLFlowLogger", *options, "--ckpt_path", "auto"]
    error = error_of(capsys, "fit", "--config", "run.yaml", *given)
    assert f"cannot start MLFlowLogger: Run '{name}' not found" in error
    assert "loggers.json: remove it" in error


def test_two_stores_of_mlflow(fit, tmp_path, flow):
    stores = [f"file:{tmp_path / name}" for name in ("store", "other")]
    kind = "MLFlowLogger"
    loggers = [{"class_path": kind, "init_args": {"tracking_uri": store}} for store in stores]
    for epochs in (1, 2):
        fit(loggers, epochs)
    for store in stores:
        (metric,) = (tmp_path / store.removeprefix("file:")).glob("*/*/metrics/val/top1")
        assert [int(line.split()[-1]) for line in metric.read_text().splitlines()] == VALIDATIONS


def test_weights_and_biases(fit, tmp_path):
    wandb = pytest.importorskip("wandb")
    for epochs in (1, 2):
        fit("WandbLogger", epochs, "--trainer.logger.offline", "true")
        wandb.finish()  # as at the end of a process
    (folder,) = (tmp_path / "runs").glob("*/version_*")
    resumed(folder)
    ((name,),) = json.loads((folder / "loggers.json").read_text()).values()
    attempts = sorted(tmp_path.rglob("offline-run-*"))
    assert {path.name.rpartition("-")[2] for path in attempts} == {name}
    assert len(list(tmp_path.rglob("confusion_matrix_*.png"))) == 2
    assert len(list(tmp_path.rglob("config_*.html"))) == 2


def test_the_logger_of_runs_draws_no_chart_of_epochs(make_trainer, classifier, tiny_data, tmp_path):
    logger = RunLogger(tmp_path, name="", version="")
    make_trainer(logger=logger, max_epochs=2).fit(classifier(), datamodule=tiny_data)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"train/loss", "val/top1"} <= set(events.Tags()["scalars"])
    assert "epoch" not in events.Tags()["scalars"]
