"""A run of a few milliseconds a step, which goes on in mid-epoch."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn

from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.data.resumable import ResumableDataModule
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.training.task import VisionTask

STEPS = 6
"""Batches of an epoch."""


class NoiseLoader(EpochLoader):
    """Batches that follow from the epoch and the samples."""

    def _open(self, epoch, batches):
        for indices in batches:
            generator = torch.Generator().manual_seed(1000 * epoch + int(indices[0]))
            yield torch.randn(len(indices), 4, generator=generator), torch.from_numpy(indices % 3)


class NoiseData(ResumableDataModule):
    def __init__(self):
        super().__init__(num_workers=0, seed=None, on_unreadable="skip", exif="apply")

    def _loader(self, train):
        return NoiseLoader(DistributedBatchSampler(4 * STEPS, 4, train=train, shuffle=train))

    def train_dataloader(self):
        return self._resumed(self._loader(train=True))

    def val_dataloader(self):
        return self._loader(train=False)


class Net(LightningModule):
    """Remembers its validations: none may be left out, or made twice."""

    def __init__(self):
        super().__init__()
        layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)]
        self.network = nn.Sequential(*layers)
        self.validations = []

    on_train_batch_start = VisionTask.on_train_batch_start

    def training_step(self, batch, batch_index):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_index):
        self.log("val/loss", nn.functional.cross_entropy(self.network(batch[0]), batch[1]))

    def on_validation_end(self):
        if not self.trainer.sanity_checking:
            value = self.trainer.callback_metrics["val/loss"].item()
            self.validations.append((self.global_step, value))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class At(Callback):
    """Does something once, when a hook is called for the nth time."""

    def __init__(self, hook, count, action):
        self.left = count

        def act(trainer, *args, **kwargs):
            if not trainer.sanity_checking:
                self.left -= 1
                if self.left == 0:
                    action()

        setattr(self, hook, act)


def train(folder, *callbacks, checkpoint=None, make=Net, **options):
    """Train two epochs from the start or a checkpoint.

    Returns the trainer, and the exception that ended the run, if one did.
    """
    seed_everything(0, verbose=False)
    defaults = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "val_check_interval": 3,
        "logger": False,
        "default_root_dir": folder,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(**(defaults | options), callbacks=list(callbacks))
    ended_by = None
    try:
        trainer.fit(make(), datamodule=NoiseData(), ckpt_path=checkpoint)
    except BaseException as error:
        ended_by = error
    return trainer, ended_by


def state(trainer):
    """Weights, statistics and momenta."""
    (optimizer,) = trainer.optimizers or [None]
    momenta = optimizer.state_dict()["state"] if optimizer else {}
    return trainer.model.state_dict(), momenta
