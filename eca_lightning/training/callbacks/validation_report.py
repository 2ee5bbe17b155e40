"""Base of the callbacks that report on a validation."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer

from eca_lightning.training.callbacks.summaries import summary_writer


class ValidationReport(Callback, ABC):
    """Collect what is needed of each validation batch, and report at the end of the validation.

    Attributes:
        task: Class of the modules it reports on; of others it reports nothing.
        all_ranks: Whether all ranks collect and report, or only rank zero.
    """

    task: ClassVar[type[LightningModule]]
    all_ranks: ClassVar[bool] = False
    _collected: Any = None

    def is_on(self, trainer: Trainer, pl_module: Any) -> bool:
        """Whether to report: to loggers, and not on the sanity check before training."""
        here = self.all_ranks or trainer.is_global_zero
        return here and isinstance(pl_module, self.task) and summary_writer(trainer) is not None

    @abstractmethod
    def collect(self, collected: Any, pl_module: Any, outputs: Any, batch: Any) -> Any:
        """Return what was collected before, None at first, with what is needed of a batch."""

    def after_last_batch(self, collected: Any, pl_module: Any) -> Any:
        """Evaluate what was collected; at the end of the epoch averaged weights may be gone."""
        return collected

    def gather(self, collected: Any, pl_module: Any) -> Any:
        """Combine what the ranks have collected; None if there is nothing to write."""
        return collected

    def write(self, writer: Any, gathered: Any, pl_module: Any) -> None:
        """Write what was gathered to the loggers, on rank zero."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew, also after a validation that was interrupted."""
        self._collected = None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect from a batch and from the outputs of its validation step."""
        if self.is_on(trainer, pl_module):
            self._collected = self.collect(self._collected, pl_module, outputs, batch)
            if batch_idx + 1 == trainer.num_val_batches[dataloader_idx]:
                self._collected = self.after_last_batch(self._collected, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and free the memory of what was collected."""
        collected, self._collected = self._collected, None
        if self.is_on(trainer, pl_module):
            gathered = self.gather(collected, pl_module)
            writer = summary_writer(trainer)
            if gathered is not None and writer is not None and trainer.is_global_zero:
                self.write(writer, gathered, pl_module)
