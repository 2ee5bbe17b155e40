"""The best scores, and the options beside which they stand."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from eca_lightning import BestScores, CalibrationMonitor
from eca_lightning.training.callbacks import best_scores
from eca_lightning.training.callbacks.best_scores import flat_options


@pytest.fixture
def script(monkeypatch):
    """Let BestScores see given accuracies."""

    def set_them(*accuracies):
        given, metrics = iter(accuracies), best_scores._metrics

        def scripted(trainer, prefix, new_prefix):
            return metrics(trainer, prefix, new_prefix) | {f"{new_prefix}top1": next(given)}

        monkeypatch.setattr(best_scores, "_metrics", scripted)

    return set_them


def options(events):
    """The HPARAMS page's options and metrics."""
    metadata = events.events.SummaryMetadata
    start = HParamsPluginData.FromString(
        metadata("_hparams_/session_start_info").plugin_data.content
    )
    experiment = HParamsPluginData.FromString(metadata("_hparams_/experiment").plugin_data.content)
    names = [info.name.tag for info in experiment.experiment.metric_infos]
    return dict(start.session_start_info.hparams), names


@pytest.mark.slow
def test_best_scores_belong_to_one_validation(fit, script):
    script(0.25, 0.75, 0.5)
    events = fit(BestScores(), CalibrationMonitor(), max_epochs=3, limit_train_batches=2)
    assert events.scalars("val_best/top1") == [0.25, 0.75, 0.75]
    assert events.scalars("val_best/epoch") == [0, 1, 1]
    losses = events.scalars("val/loss")
    assert events.scalars("val_best/loss") == [losses[0], losses[1], losses[1]]
    shown, metrics = options(events)
    assert shown["attention"].string_value == "eca"
    assert shown["backbone"].string_value == "resnet20"
    assert metrics[0] == "val_best/top1"
    assert {"val_best/loss", "val_best/top5", "val_best/calibration_error"} <= set(metrics)


def test_a_resumed_run_goes_on_from_the_best(fit, script, tmp_path):
    script(0.75, 0.5, 1.0)
    limits = {"limit_train_batches": 1, "limit_val_batches": 1}
    fit(BestScores(), ModelCheckpoint(tmp_path, "last"), **limits)
    checkpoint = tmp_path / "last.ckpt"
    events = fit(BestScores(), max_epochs=3, checkpoint=checkpoint, **limits)
    assert events.scalars("val_best/top1") == [0.75, 1.0]
    assert events.scalars("val_best/epoch") == [0, 2]
    assert options(events)[1][0] == "val_best/top1"


def test_without_validation_the_last_of_training_stands_in(fit):
    events = fit(BestScores(), limit_val_batches=0, limit_train_batches=1)
    assert events.scalars("train_last/loss") == events.scalars("train/loss")
    assert set(options(events)[1]) >= {"train_last/loss", "train_last/top1"}


def test_options_have_short_names():
    config = {
        "seed_everything": 7,
        "model": {
            "class_path": "eca_lightning.ImageClassifier",
            "init_args": {
                "backbone": {"name": "resnet50", "attention": "eca", "stem": None},
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
                "loss": {"class_path": "a.Loss", "init_args": {"name": "x", "gamma": 2}},
                "lr_scheduler": {"class_path": "a.Schedule", "init_args": {"name": "y"}},
                "mean": [0.1, 0.2],
            },
        },
        "data": {"class_path": "a.Folder", "init_args": {"batch_size": 64, "num_workers": 8}},
        "trainer": {"max_epochs": 90, "enable_progress_bar": True, "precision": None},
    }
    assert flat_options(config) == {
        "model": "ImageClassifier",
        "backbone": "resnet50",
        "attention": "eca",
        "optimizer": "SGD",
        "base_lr": 0.1,
        "loss": "Loss",
        "loss.name": "x",
        "gamma": 2,
        "lr_scheduler": "Schedule",
        "lr_scheduler.name": "y",
        "mean": "0.1, 0.2",
        "data": "Folder",
        "batch_size": 64,
        "max_epochs": 90,
        "seed": 7,
    }
