"""Where there is no terminal, the progress of a run is told in lines."""

import logging
import re

import pytest
from lightning.pytorch import Trainer
from tiny_run import STEPS, Net, NoiseData

from eca_lightning import ProgressBar
from eca_lightning.training.callbacks import progress_bar


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")

    def starting_with(word):
        return [m for m in caplog.messages if re.match(rf"{word}\b.*:", m)]

    return starting_with


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", callbacks=[ProgressBar(["val/loss"])], **quiet, **options)


def test_a_line_at_each_validation_says_how_far_it_is(lines):
    trainer(max_epochs=2, val_check_interval=0.5).fit(Net(), datamodule=NoiseData())
    places = [line.split(":")[0] for line in lines("epoch")]
    assert places == [
        f"epoch {epoch} of 2, batch {batch} of {STEPS}" for epoch in (1, 2) for batch in (3, 6)
    ]
    assert all(re.search(r"val/loss \d\.\d+", line) for line in lines("epoch"))
    assert [line.endswith("left") for line in lines("epoch")] == [True] * 3 + [False]


def test_lines_come_when_they_are_due(lines, monkeypatch):
    monkeypatch.setattr(progress_bar, "perf_counter", lambda: float(run.global_step))
    monkeypatch.setattr(progress_bar, "_FIRST_LINE", 4.0)
    monkeypatch.setattr(progress_bar, "_NEXT_LINES", 7.0)
    run = trainer(max_epochs=4, limit_val_batches=0)
    run.fit(Net(), datamodule=NoiseData())
    places = [re.findall(r"\d+", line) for line in lines("epoch")]
    assert [(int(e) - 1) * STEPS + int(batch) for e, _, batch, *_ in places] == [4, 11, 18]


@pytest.mark.parametrize("limits", [{"max_epochs": -1, "max_steps": 7}, {"max_steps": 7}])
def test_what_is_left_is_counted_in_steps_too(lines, monkeypatch, limits):
    monkeypatch.setattr(progress_bar, "_FIRST_LINE", 0.0)
    monkeypatch.setattr(progress_bar, "_NEXT_LINES", 0.0)
    trainer(limit_val_batches=0, **limits).fit(Net(), datamodule=NoiseData())
    left = [line.endswith(" left") for line in lines("epoch")]
    assert left == [False, *[True] * 5, False]  # the first is no measure, nothing follows the last


def test_evaluation_tells_as_well(lines, monkeypatch):
    monkeypatch.setattr(progress_bar, "_FIRST_LINE", 0.0)
    monkeypatch.setattr(progress_bar, "_NEXT_LINES", 0.0)
    trainer().validate(Net(), NoiseData(), verbose=False)
    assert len(lines("validation")) == STEPS
    assert lines("validation")[-1].startswith(f"validation, batch {STEPS} of {STEPS}")


def test_scores_of_single_classes_do_not_fill_the_lines(lines):
    class OfClasses(Net):
        def on_validation_epoch_end(self):
            self.log_dict({"val/top1": 0.5, "val/recall/cat": 0.5})

    trainer(max_epochs=1).fit(OfClasses(), datamodule=NoiseData())
    assert all("val/top1 0.5" in line and "cat" not in line for line in lines("epoch"))
    assert lines("epoch")
