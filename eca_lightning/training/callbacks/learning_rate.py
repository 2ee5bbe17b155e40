"""Log the learning rate, if there is a logger; without one Lightning's callback raises an error."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor as LightningsLearningRateMonitor


class LearningRateMonitor(LightningsLearningRateMonitor):
    """Log the learning rate of each parameter group as ``lr-SGD/pg1`` and so on."""

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Find the names of the optimizers and schedules."""
        if trainer.loggers:
            super().on_train_start(trainer, *args, **kwargs)

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Log the learning rates of schedules that advance per step."""
        if trainer.loggers:
            super().on_train_batch_start(trainer, *args, **kwargs)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Log the learning rates of schedules that advance per epoch."""
        if trainer.loggers:
            super().on_train_epoch_start(trainer, *args, **kwargs)
