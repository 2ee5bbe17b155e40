"""Base of the callbacks that report on a validation."""

from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer

from eca_lightning.training.callbacks.summaries import summary_writer


class ValidationReport(Callback):
    """Collect what is needed of each validation batch, and report at the end of the validation.

    Attributes:
        task: Class of the modules it reports on; of others it reports nothing.
        all_ranks: Whether all ranks collect and report, or only rank zero.
    """

    task: ClassVar[type[LightningModule]]
    all_ranks: ClassVar[bool] = False

    def is_on(self, trainer: Trainer, pl_module: Any) -> bool:
        """Whether to report: to TensorBoard, and not on the sanity check before training."""
        here = self.all_ranks or trainer.is_global_zero
        return here and isinstance(pl_module, self.task) and summary_writer(trainer) is not None

    def reset(self, pl_module: Any) -> None:
        """Forget what was collected before."""
        raise NotImplementedError

    def collect(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any) -> None:
        """Collect from a batch and the outputs of the validation step."""
        raise NotImplementedError

    def after_last_batch(self, pl_module: Any) -> None:
        """Use the weights that were validated: at the end of the epoch averages may be gone."""

    def report(self, trainer: Trainer, pl_module: Any) -> None:
        """Report what was collected; called on all ranks that collect."""
        raise NotImplementedError

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew, also after a validation that was interrupted."""
        if self.is_on(trainer, pl_module):
            self.reset(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect from a batch."""
        if self.is_on(trainer, pl_module):
            self.collect(trainer, pl_module, outputs, batch)
            if batch_idx + 1 == trainer.num_val_batches[dataloader_idx]:
                self.after_last_batch(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and free the memory of what was collected."""
        if self.is_on(trainer, pl_module):
            self.report(trainer, pl_module)
            self.reset(pl_module)
