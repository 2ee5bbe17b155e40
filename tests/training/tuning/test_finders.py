"""What finders find is what the run then trains with, also when it resumes."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint

from eca_lightning import ImageClassifier, WarmupThenDecay
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.finetuning import FineTuning
from eca_lightning.training.tuning import finders
from eca_lightning.training.tuning.finders import BatchSizeSearch, LearningRateSearch, steepest


class OneEpoch(Callback):
    """Ends the run after its first epoch."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


@pytest.fixture
def train(make_trainer, tiny_data, tmp_path):
    def run(*callbacks, lr=0.1, checkpoint=None, epochs=20, base=None, kind=ImageClassifier):
        torch.manual_seed(0)
        model = kind(
            BackboneConfig("resnet20", num_classes=3),
            optimizer=lambda groups: torch.optim.SGD(groups, lr=lr),
            lr_scheduler=lambda optimizer, **horizon: WarmupThenDecay(optimizer, **horizon),
            lr_interval="step",
            lr_base_batch_size=base,
            finetuning=FineTuning(head_lr_factor=2.0),
        )
        trainer = make_trainer(
            *callbacks,
            OneEpoch(),
            ModelCheckpoint(tmp_path, "last", enable_version_counter=False),
            logger=False,
            max_epochs=epochs,
            limit_val_batches=1,
        )
        trainer.fit(model, datamodule=tiny_data, ckpt_path=checkpoint)
        return model, trainer

    return run


class Rates(ImageClassifier):
    """Notes the ratio of its two rates in each step, searches included."""

    def on_before_zero_grad(self, optimizer):
        one, other = sorted(group["lr"] for group in optimizer.param_groups)
        self.ratios = {*getattr(self, "ratios", ()), round(other / one, 6)}


def test_the_rate_of_the_steepest_descent():
    generator = np.random.default_rng(0)
    exponents = np.linspace(-6, 0, 100)
    losses = 2 - 1 / (1 + np.exp(-6 * (exponents + 2))) + np.exp(8 * (exponents + 0.4))
    losses += generator.normal(0, 1e-4, 100)
    losses[-5:] = np.nan
    assert 3e-3 < steepest(list(10**exponents), list(losses)) < 3e-2
    with pytest.raises(ValueError, match="falls at no learning rate"):
        steepest(list(10**exponents), list(exponents))


def test_a_run_with_a_search_is_one_with_the_rate_that_it_found(train, tmp_path):
    search = LearningRateSearch()
    model, _ = train(search, kind=Rates)
    assert model.ratios == {2.0}
    assert 1e-5 < search.found < 1
    assert not list(tmp_path.glob(".lr_find*"))
    resumed = LearningRateSearch()
    _, trainer = train(resumed, checkpoint=tmp_path / "last.ckpt", lr=0.0)
    assert resumed.found == search.found
    peaks = trainer.lr_scheduler_configs[0].scheduler.base_lrs
    assert sorted(peaks) == pytest.approx([search.found, 2 * search.found])

    given, _ = train(lr=search.found)
    for key, value in given.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_searches_of_runs_that_are_too_short_or_under_way_are_refused(train, tmp_path):
    with pytest.raises(ValueError, match="must be at least 100, got 50"):
        train(LearningRateSearch(), epochs=10)
    train(epochs=20)
    with pytest.raises(ValueError, match="--find_lr searches in a new run"):
        train(LearningRateSearch(), checkpoint=tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="LearningRateFinder would search again"):
        train(LearningRateFinder(), checkpoint=tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="the device must be a GPU, got cpu"):
        train(BatchSizeSearch())


def test_lightnings_rate_finder_sets_the_rate_of_a_schedule(train):
    finder = LearningRateFinder(num_training_steps=20)
    model, trainer = train(finder)
    assert model.lr == finder.optimal_lr.suggestion()
    peaks = sorted(trainer.lr_scheduler_configs[0].scheduler.base_lrs)
    assert peaks == pytest.approx([model.lr, 2 * model.lr])


def test_lightnings_batch_size_finder_sets_the_length_of_a_schedule(train):
    finder = BatchSizeFinder(max_trials=3, steps_per_trial=1)
    _, trainer = train(finder, base=8)
    assert trainer.datamodule.batch_size == finder.optimal_batch_size == 8
    finder = BatchSizeFinder(max_trials=2, steps_per_trial=1)
    _, trainer = train(finder, base=8)
    assert trainer.datamodule.batch_size == 4
    assert trainer.global_step == 10
    schedule = trainer.lr_scheduler_configs[0].scheduler
    assert schedule.total_steps == 200
    assert min(schedule.base_lrs) == pytest.approx(0.05)


class SmallMemory(ImageClassifier):
    """Two images fill its memory."""

    def training_step(self, batch, batch_index):
        if len(batch[0]) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().training_step(batch, batch_index)


@pytest.mark.parametrize(("kind", "expected"), [(ImageClassifier, 4), (SmallMemory, 2)])
def test_the_largest_batch_that_fits(train, monkeypatch, tmp_path, kind, expected):
    monkeypatch.setattr(finders, "_device", lambda trainer: "cuda")
    search = BatchSizeSearch()
    _, trainer = train(search, kind=kind)
    assert trainer.datamodule.batch_size == search.found == expected
    trainer.datamodule.batch_size = 8
    _, trainer = train(BatchSizeSearch(), kind=kind, checkpoint=tmp_path / "last.ckpt")
    assert trainer.datamodule.batch_size == expected
