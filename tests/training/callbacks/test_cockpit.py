"""All callbacks of configs/reports/classification.yaml together, in runs of every kind."""

import json
from pathlib import Path

import cockpit_ranks
import pytest
import torch
import yaml
from forked import run_forked
from lightning.pytorch.loggers import CSVLogger
from thorough import thorough

import eca_lightning as callbacks

CONFIG = Path(__file__).parents[3] / "configs" / "reports" / "classification.yaml"


def cockpit():
    """All but the progress bar, which trainers of tests switch off."""
    paths = [entry["class_path"] for entry in yaml.safe_load(CONFIG.read_text())]
    names = [path.removeprefix("eca_lightning.") for path in paths]
    names.remove("ProgressBar")
    assert len(names) == 9
    return [getattr(callbacks, name)() for name in names]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"logger": False},
        {"fast_dev_run": True},
        {},
        *thorough(
            {"logger": "csv"},
            {"limit_val_batches": 0},
            {"limit_val_batches": 1, "num_sanity_val_steps": 2},
            {"log_every_n_steps": 0},
            {"overfit_batches": 2},
        ),
    ],
    ids=lambda options: ", ".join(f"{k}: {v}" for k, v in options.items()) or "plain",
)
def test_a_run_trains_as_it_would_without_them(
    make_trainer, classifier, tiny_data, tmp_path, options
):
    if options.get("logger") == "csv":
        options = {"logger": CSVLogger(tmp_path)}
    ends = []
    for added in ([], cockpit()):
        trainer = make_trainer(*added, max_epochs=2, **options)
        model = classifier()
        trainer.fit(model, datamodule=tiny_data)
        ends.append(({k: v.clone() for k, v in model.state_dict().items()}, torch.rand(1)))
    (without, drawn_without), (with_them, drawn_with) = ends
    assert all(torch.equal(without[key], with_them[key]) for key in without)
    assert drawn_without == drawn_with  # no random number was taken from training
    written = {path.name.partition(".")[0] for path in tmp_path.rglob("*") if path.is_file()}
    if "logger" in options:
        assert "events" not in written


def test_a_run_without_validation_set(make_trainer, classifier, tiny_data):
    def no_batches():
        return []

    tiny_data.val_dataloader = no_batches
    make_trainer(*cockpit()).fit(classifier(), datamodule=tiny_data)


@pytest.mark.slow
def test_validation_alone_is_reported(make_trainer, classifier, tiny_data):
    trainer = make_trainer(*cockpit())
    (scores,) = trainer.validate(classifier(), datamodule=tiny_data, verbose=False)
    assert "val/calibration_error" in scores


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What one and two ranks have reported on the same images."""
    found = {}
    for ranks in (1, 2):
        folder = tmp_path_factory.mktemp(f"{ranks}_ranks")
        run = cockpit_ranks.validate_and_train
        run_forked(folder / "logs", run, folder, ranks, ranks=ranks)
        found[ranks] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.slow
def test_two_ranks_report_what_one_does(reports):
    alone, two = reports[1], reports[2]
    assert two["calibration"] == pytest.approx(alone["calibration"], rel=1e-5)
    assert two["confused"] == alone["confused"]
    assert two["worst losses"] == pytest.approx(alone["worst losses"], rel=1e-5)
    assert two["worst labels"] == alone["worst labels"]


@pytest.mark.slow
def test_only_the_first_of_two_ranks_writes(reports):
    assert reports[2]["event files"] == reports[1]["event files"]


@pytest.mark.slow
def test_speed_counts_all_ranks_and_the_longest_wait(reports):
    """Each step of 8 images takes 2 s, of which rank zero waits for 1 s and the other for 1.5."""
    assert reports[2]["speeds"] == [8.0, 8.0]
    assert reports[2]["waits"] == [0.75, 0.75]
