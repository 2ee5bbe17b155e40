"""Log the learning rate."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from eca_lightning.training.callbacks.summaries import is_logging_step


class LearningRateMonitor(Callback):
    """Log the learning rate as ``train/lr``.

    Where groups of parameters have different rates, as with a rate for each layer, it is the
    highest, and ``train/lr_min`` the lowest.
    """

    logged_metrics = ("train/lr", "train/lr_min")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        """Log the rate of the step that this batch belongs to."""
        if not trainer.loggers or not is_logging_step(trainer, trainer.global_step + 1):
            return
        rates = [
            group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups
        ]
        pl_module.log("train/lr", max(rates))
        if min(rates) < max(rates):
            pl_module.log("train/lr_min", min(rates))
