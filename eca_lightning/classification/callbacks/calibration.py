"""Whether a classifier is as sure as it is right."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError


class CalibrationMonitor(Callback):
    """Logs ``val/calibration_error``: how far confidence and accuracy are apart, from 0 to 1.

    The expected calibration error of the most probable class (Guo et al., ICML 2017, arXiv
    1706.04599, Eq. 3), each image counted once, over all ranks. A probability that is not a number
    counts as 0, as a run that diverges shall say so by its loss rather than end here.

    Args:
        bins: Number of intervals of equal width into which confidences are sorted.
    """

    def __init__(self, bins: int = 15) -> None:
        if bins < 1:
            raise ValueError(f"CalibrationMonitor: bins must be at least 1, got {bins}")
        self.bins = bins
        self._error: MulticlassCalibrationError | None = None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch; the step's output are its logits, (N, classes)."""
        if self._error is None:
            self._error = MulticlassCalibrationError(
                outputs.shape[1], self.bins, ignore_index=-1, validate_args=False
            ).to(outputs.device)
        self._error.update(outputs.softmax(dim=1).nan_to_num(), batch[1])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the ranks' values and log the error."""
        if self._error is not None:
            # Equal on all ranks already; sync_dist keeps Lightning from asking for it.
            pl_module.log("val/calibration_error", self._error.compute(), sync_dist=True)
            self._error = None
