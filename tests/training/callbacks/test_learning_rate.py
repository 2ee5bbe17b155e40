"""The learning rate is logged where there is a logger, and missed nowhere else."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from eca_lightning import LearningRateMonitor


@pytest.fixture
def halving(classifier):
    """A classifier whose learning rate is halved after each epoch, from 0.8."""
    return lambda: classifier(
        optimizer=lambda p: torch.optim.SGD(p, lr=0.8),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
    )


LIMITS = {"limit_train_batches": 1, "limit_val_batches": 0}


def test_a_resumed_run_logs_the_rate_that_it_goes_on_with(fit, halving, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, "last")
    events = fit(LearningRateMonitor(), checkpoint, model=halving(), max_epochs=2, **LIMITS)
    assert events.scalars("train/lr") == pytest.approx([0.8, 0.4])
    again = {"model": halving(), "checkpoint": tmp_path / "last.ckpt", "max_epochs": 4}
    events = fit(LearningRateMonitor(), **again, **LIMITS)
    assert events.scalars("train/lr") == pytest.approx([0.2, 0.1])


def test_a_run_without_logger_is_not_refused(make_trainer, halving, tiny_data):
    trainer = make_trainer(LearningRateMonitor(), logger=False, **LIMITS)
    trainer.fit(halving(), datamodule=tiny_data)
    assert trainer.global_step == 1


def test_groups_of_several_rates_show_the_highest_and_the_lowest(fit, classifier):
    def optimizer(groups):
        first, *others = groups
        return torch.optim.SGD([first | {"lr": 0.4}, *others], lr=0.1)

    model = classifier(optimizer=optimizer, no_decay_norm_bias=True)
    events = fit(LearningRateMonitor(), model=model, **LIMITS)
    assert events.scalars("train/lr") == pytest.approx([0.4])
    assert events.scalars("train/lr_min") == pytest.approx([0.1])
