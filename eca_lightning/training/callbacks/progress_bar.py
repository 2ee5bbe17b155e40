"""Show the progress of a run."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from eca_lightning.training.callbacks.summaries import is_logging_step


class ProgressBar(RichProgressBar):
    """Lightning's RichProgressBar with metrics of training, read at the steps that are logged.

    Lightning reads what is logged with ``prog_bar`` at every step, for which the host waits for the
    GPU.

    Args:
        metrics: Names of metrics of training to show.
    """

    def __init__(self, metrics: Sequence[str] = ("train/loss", "train/data_wait")) -> None:
        super().__init__()
        self.metrics = tuple(metrics)
        self._shown: dict[str, float] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Return the metrics of training and validation."""
        if trainer.training and is_logging_step(trainer, trainer.global_step):
            logged = trainer.callback_metrics
            self._shown = {name: logged[name].item() for name in self.metrics if name in logged}
        shown = {**self._shown, **super().get_metrics(trainer, pl_module)}
        shown.pop("v_num", None)  # cut short, "version_0" would be "on_0"
        return shown

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read no metrics: rank zero alone would gather from the others, and wait for ever."""
        self.refresh()
