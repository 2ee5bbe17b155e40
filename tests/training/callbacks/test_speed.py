"""Images a second and waiting for data, by a clock that the test sets."""

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from eca_lightning import SpeedMonitor
from eca_lightning.training.callbacks import speed

WAIT, WORK, VALIDATION = 3.0, 1.0, 100.0


class Clock(Callback):
    """Time that passes only where it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def on_train_batch_start(self, *_):
        self.now += WORK

    def on_validation_batch_start(self, *_):
        self.now += VALIDATION


class SlowLoader:
    def __init__(self, loader, clock):
        self.loader, self.clock = loader, clock

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            self.clock.now += WAIT
            yield batch


@pytest.fixture
def clock(monkeypatch, tiny_data):
    clock = Clock()
    loader = SlowLoader(tiny_data.train_dataloader(), clock)
    tiny_data.train_dataloader = lambda: loader
    monkeypatch.setattr(speed, "perf_counter", clock)
    return clock


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1, 2, 3])
def test_speed_and_wait_leave_validation_out(fit, clock, interval):
    events = fit(clock, SpeedMonitor(), max_epochs=2, log_every_n_steps=interval)
    logged = 10 // interval
    assert events.scalars("train/images_per_s") == pytest.approx([8 / (WAIT + WORK)] * logged)
    assert events.scalars("train/data_wait") == pytest.approx([WAIT / (WAIT + WORK)] * logged)


def test_accumulated_batches_all_count(fit, clock):
    events = fit(clock, SpeedMonitor(), accumulate_grad_batches=2)
    assert events.scalars("train/images_per_s") == pytest.approx([8 / (WAIT + WORK)] * 3)
    assert events.scalars("train/data_wait") == pytest.approx([WAIT / (WAIT + WORK)] * 3)


@pytest.mark.slow
def test_resumed_run_measures_anew(fit, clock, tmp_path):
    fit(clock, SpeedMonitor(), ModelCheckpoint(tmp_path, "last"))
    clock.now += 1e6  # between the runs
    events = fit(clock, SpeedMonitor(), max_epochs=2, checkpoint=tmp_path / "last.ckpt")
    assert events.scalars("train/images_per_s") == pytest.approx([8 / (WAIT + WORK)] * 5)


@pytest.mark.parametrize("fails", [False, True])
def test_the_profiler_is_left_as_it_was(make_trainer, classifier, tiny_data, fails):
    class Failure(Callback):
        def on_train_batch_end(self, *_):
            if fails:
                raise RuntimeError("as if the network had")

    trainer = make_trainer(SpeedMonitor(), Failure(), profiler="simple", limit_val_batches=0)
    if fails:
        with pytest.raises(RuntimeError, match="as if"):
            trainer.fit(classifier(), datamodule=tiny_data)
    else:
        trainer.fit(classifier(), datamodule=tiny_data)
    assert not {"start", "stop"} & set(vars(trainer.profiler))
    fetches = [a for a in trainer.profiler.recorded_durations if a.endswith(speed.FETCH)]
    assert len(trainer.profiler.recorded_durations[fetches[0]]) == (1 if fails else 5)
