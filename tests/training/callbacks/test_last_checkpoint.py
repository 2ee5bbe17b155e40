"""A run that a signal stops, wherever it finds it, ends as if nothing had happened."""

import os
import signal
from datetime import timedelta

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from tiny_run import STEPS, At, state, train

from eca_lightning import ExponentialMovingAverage, LastCheckpoint
from eca_lightning.training.checkpoint_io import AtomicCheckpointIO
from eca_lightning.training.resuming import newest_checkpoint


def send(number):
    return lambda: os.kill(os.getpid(), number)


def saved_step(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def ends_alike(folder, stopped, straight, *callbacks, **options):
    """Resume a run and compare it with one that was left alone."""
    checkpoint = newest_checkpoint(folder / "checkpoints")
    resumed, _ = train(folder, LastCheckpoint(), *callbacks, checkpoint=checkpoint, **options)
    torch.testing.assert_close(state(resumed), state(straight), rtol=0, atol=0)
    together = stopped.model.validations + resumed.model.validations
    assert together == straight.model.validations


MOMENTS = {
    # Where it is, and the step that is saved then: a validation comes after steps 3, 6, 9 and 12.
    "first batch": ("on_train_batch_start", 1, 1),
    "before a step": ("on_before_optimizer_step", 5, 5),
    "step before a validation": ("on_train_batch_start", 3, 3),
    "validation in mid-epoch": ("on_validation_batch_start", 4, 3),
    "end of a validation": ("on_validation_epoch_end", 1, 4),
    "last batch of an epoch": ("on_train_batch_start", 6, 6),
    "validation after an epoch": ("on_validation_batch_start", 8, 6),
    "end of an epoch": ("on_train_epoch_end", 1, 6),
    "start of an epoch": ("on_train_epoch_start", 2, 7),
    "saving": ("on_save_checkpoint", 2, 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_run_goes_on_with_no_step_and_no_validation_lost(tmp_path, moment):
    straight, _ = train(tmp_path / "straight", LastCheckpoint())
    assert len(straight.model.validations) == 4
    hook, count, expected = MOMENTS[moment]
    trap = At(hook, count, send(signal.SIGTERM))
    stopped, ended_by = train(tmp_path, LastCheckpoint(), trap)
    assert isinstance(ended_by, SystemExit)
    assert ended_by.code == 143
    assert stopped.global_step == saved_step(tmp_path) == expected
    ends_alike(tmp_path, stopped, straight)


@pytest.mark.parametrize("moment", ["before a step", "validation in mid-epoch"])
def test_an_average_of_the_weights_goes_on_too(tmp_path, moment):
    straight, _ = train(tmp_path / "straight", LastCheckpoint(), ExponentialMovingAverage(0.8))
    hook, count, _ = MOMENTS[moment]
    trap = At(hook, count, send(signal.SIGTERM))
    average = ExponentialMovingAverage(0.8)
    stopped, _ = train(tmp_path, LastCheckpoint(), average, trap)
    ends_alike(tmp_path, stopped, straight, ExponentialMovingAverage(0.8))


def test_accumulated_gradients_are_waited_for(tmp_path):
    options = {"accumulate_grad_batches": 3}
    straight, _ = train(tmp_path / "straight", LastCheckpoint(), **options)
    trap = At("on_train_batch_start", 4, send(signal.SIGTERM))
    hourly = LastCheckpoint(train_time_interval=timedelta(0))  # at each opportunity, that is
    stopped, _ = train(tmp_path, hourly, trap, val_check_interval=1.0, **options)
    assert stopped.global_step == saved_step(tmp_path) == 2
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")
    resumed, _ = train(tmp_path, LastCheckpoint(), checkpoint=checkpoint, **options)
    assert resumed.global_step == straight.global_step == 2 * STEPS / 3


@pytest.mark.parametrize("interval", [1.0, 2, 4, 6])
def test_accumulated_gradients_go_on_exactly(tmp_path, interval):
    options = {"accumulate_grad_batches": 2, "val_check_interval": interval}
    straight, _ = train(tmp_path / "straight", LastCheckpoint(), **options)
    trap = At("on_train_batch_start", 7, send(signal.SIGTERM))
    stopped, _ = train(tmp_path, LastCheckpoint(), trap, **options)
    ends_alike(tmp_path, stopped, straight, **options)


@pytest.mark.parametrize("interval", [1, 3, 5, 0.5])
def test_a_validation_amid_accumulated_gradients_is_refused(tmp_path, interval):
    options = {"accumulate_grad_batches": 2, "val_check_interval": interval}
    _, ended_by = train(tmp_path, LastCheckpoint(), **options)
    assert isinstance(ended_by, ValueError)
    assert "a multiple of 2" in str(ended_by)


def test_sigusr1_requeues_a_slurm_job(tmp_path, monkeypatch):
    asked = tmp_path / "asked"
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    trap = At("on_train_batch_start", 2, send(signal.SIGTERM))
    _, ended_by = train(tmp_path / "cancelled", LastCheckpoint(), trap)
    assert ended_by.code == 143
    assert not asked.exists()
    for array in ({}, {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "5"}):
        for name, value in array.items():
            monkeypatch.setenv(name, value)
        trap = At("on_train_batch_start", 2, send(signal.SIGUSR1))
        _, ended_by = train(tmp_path / f"requeued{len(array)}", LastCheckpoint(), trap)
        assert ended_by.code == 138
    assert asked.read_text() == "requeue 17\nrequeue 12_5\n"


def test_sigusr1_before_training_ends_a_rank_under_slurm(tmp_path, monkeypatch):
    ranks = ("NTASKS", "NTASKS_PER_NODE", "NNODES", "JOB_ID")
    for name in (*ranks, "PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", str(int(name in ranks)))
    monkeypatch.setenv("SLURM_JOB_NAME", "eca-lightning")
    found = []
    probe = At("on_train_start", 1, lambda: found.append(signal.getsignal(signal.SIGUSR1)))
    train(tmp_path, probe, LastCheckpoint(), num_sanity_val_steps=0)
    assert found == [signal.SIG_DFL]  # not Lightning's handler, which would save elsewhere


def test_a_second_run_in_one_process_does_not_stop_and_signals_are_given_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    last = LastCheckpoint()
    train(tmp_path, last, At("on_train_batch_start", 2, send(signal.SIGTERM)))
    finished, ended_by = train(tmp_path, last)
    assert ended_by is None
    assert finished.global_step == 2 * STEPS
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


class Saved(LastCheckpoint):
    """Remembers the steps at which it saved."""

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        self.steps = [*getattr(self, "steps", []), trainer.global_step]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [6, 6, 12, 12]),
        ({"every_n_train_steps": 4}, [4, 6, 6, 8, 12, 12]),
        ({"every_n_train_steps": 6}, [6, 6, 12, 12]),
        ({"train_time_interval": timedelta(0)}, [*range(1, 6), 6, 6, *range(7, 12), 12, 12]),
        ({"train_time_interval": timedelta(hours=1)}, [6, 6, 12, 12]),
    ],
)
def test_saves_before_validations_after_epochs_and_as_asked(tmp_path, options, steps):
    last = Saved(**options)
    train(tmp_path, last, val_check_interval=1.0)
    assert last.steps == steps
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["last.ckpt"]  # without our plugin


def test_lies_beside_the_other_checkpoints_or_where_it_is_told(tmp_path):
    best = ModelCheckpoint(tmp_path / "best", "best")
    train(tmp_path, best, LastCheckpoint(), max_epochs=1)
    assert (tmp_path / "best" / "last.ckpt").exists()
    train(tmp_path, best, LastCheckpoint(tmp_path / "elsewhere"), max_epochs=1)
    assert (tmp_path / "elsewhere" / "last.ckpt").exists()


def test_a_run_that_fails_says_from_where_it_goes_on(tmp_path, caplog):
    def fail():
        raise KeyError("power cut")

    caplog.set_level("INFO", "lightning.pytorch.utilities.rank_zero")
    trap = At("on_train_batch_start", 5, fail)
    train(tmp_path, LastCheckpoint(every_n_train_steps=2), trap)
    assert "ended at step 4" in caplog.text
    assert "is of step 4: resume from it with --ckpt_path auto" in caplog.text


def test_a_checkpoint_written_in_the_background_is_waited_for(tmp_path):
    straight, _ = train(tmp_path / "straight", LastCheckpoint())
    trap = At("on_train_batch_start", 5, send(signal.SIGTERM))
    writer = AsyncCheckpointIO(AtomicCheckpointIO())
    stopped, ended_by = train(tmp_path, LastCheckpoint(), trap, plugins=writer)
    assert ended_by.code == 143
    assert saved_step(tmp_path) == 5
    ends_alike(tmp_path, stopped, straight)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="every_n_train_steps must be at least 1"):
        LastCheckpoint(every_n_train_steps=0)


def test_dry_runs_leave_nothing(tmp_path):
    _, ended_by = train(tmp_path, LastCheckpoint(), fast_dev_run=True)
    assert ended_by is None
    assert not list(tmp_path.rglob("*.ckpt"))
