"""Log the expected calibration error on the validation set."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torchmetrics.classification import BinaryCalibrationError

from eca_lightning.classification.metrics import ranks
from eca_lightning.classification.task import ImageClassifier
from eca_lightning.training.callbacks.validation_report import ValidationReport


class CalibrationMonitor(ValidationReport):
    """Log ``val/calibration_error``: the mean gap between confidence and accuracy, from 0 to 1.

    The expected calibration error of the most probable class (Guo et al., ICML 2017, arXiv
    1706.04599, Eq. 3), each image counted once, over all ranks. A prediction that is NaN or
    infinite is wrong, with a confidence of 0.

    Args:
        bins: Number of intervals of equal width into which confidences are sorted.
    """

    task = ImageClassifier
    logged_metrics = ("val/calibration_error",)

    def __init__(self, bins: int = 15) -> None:
        if bins < 1:
            raise ValueError(f"CalibrationMonitor: bins must be at least 1, got {bins}")
        self.bins = bins

    def is_on(self, trainer: Trainer, pl_module: Any) -> bool:
        """Whether to log: with any logger or none, on all ranks."""
        return isinstance(pl_module, self.task) and not trainer.sanity_checking

    def collect(self, collected: Any, pl_module: Any, outputs: Any, batch: Any) -> Any:
        """Keep the confidence of each image, whether it is right and whether it counts."""
        confidence = outputs.softmax(dim=1).nan_to_num().amax(dim=1)
        scored = (confidence, ranks(outputs, batch[1]) == 0, batch[1] >= 0)
        return [*(collected or []), scored]

    def gather(self, collected: Any, pl_module: Any) -> None:
        """Log the error of all ranks."""
        if collected is not None:
            confidence, right, counted = map(torch.cat, zip(*collected, strict=True))
            # A classifier's confidence that it is right has two outcomes.
            error = BinaryCalibrationError(self.bins).to(confidence.device)
            error.update(confidence[counted], right[counted].int())
            # Equal on all ranks already; sync_dist keeps Lightning from asking for it.
            pl_module.log("val/calibration_error", error.compute(), sync_dist=True)
