"""A loss that is no number ends the run, and what it takes to make it again is kept."""

import json

import pytest
import torch
from tiny_run import STEPS, Net, state, train

from eca_lightning import LastCheckpoint, LossGuard
from eca_lightning.training.resuming import newest_checkpoint


class Failing(Net):
    """Its loss is no number, or infinite, at a batch of the second epoch and ever after."""

    def __init__(self, batch, value):
        super().__init__()
        self.batch, self.value = batch, value
        self.samples = None

    def training_step(self, batch, batch_index):
        loss = super().training_step(batch, batch_index)
        if self.current_epoch == 0 or batch_index < self.batch:
            return loss
        if self.samples is None:
            self.samples = self.trainer.train_dataloader.batch_indices(batch_index).tolist()
        return loss * self.value


@pytest.mark.parametrize(
    ("value", "batch", "interval"),
    [("nan", 0, 50), ("inf", 1, 1), ("-inf", 2, 50), ("nan", 4, 50), ("inf", 5, 2)],
)
def test_the_run_ends_before_its_weights_are_saved_and_can_go_on(tmp_path, value, batch, interval):
    stopped, ended_by = train(
        tmp_path,
        LastCheckpoint(),
        LossGuard(),
        make=lambda: Failing(batch, float(value)),
        log_every_n_steps=interval,
    )
    assert isinstance(ended_by, FloatingPointError)
    assert f"the loss is {value} at batch {batch} of epoch 1" in str(ended_by)
    (report,) = json.loads((tmp_path / "non_finite_loss.json").read_text())
    assert report["samples"] == stopped.model.samples
    assert (report["epoch"], report["batch"], report["seed"]) == (1, batch, 0)
    saved = newest_checkpoint(tmp_path / "checkpoints")
    checkpoint = torch.load(saved, weights_only=True)
    assert checkpoint["global_step"] <= STEPS + batch
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    straight, _ = train(tmp_path / "straight", LastCheckpoint(), LossGuard())
    resumed, ended_by = train(tmp_path, LastCheckpoint(), LossGuard(), checkpoint=saved)
    assert ended_by is None
    torch.testing.assert_close(state(resumed), state(straight), rtol=0, atol=0)


def test_a_run_whose_losses_are_finite_is_left_alone(tmp_path):
    guarded, ended_by = train(tmp_path, LossGuard(), log_every_n_steps=0)
    assert ended_by is None
    assert not (tmp_path / "non_finite_loss.json").exists()
    alone, _ = train(tmp_path)
    torch.testing.assert_close(state(guarded), state(alone), rtol=0, atol=0)
