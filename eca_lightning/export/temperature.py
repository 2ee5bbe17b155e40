"""Temperature scaling (Guo et al., ICML 2017, arXiv 1706.04599, section 4.2)."""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from eca_lightning.classification.metrics import ranks
from eca_lightning.classification.task import ImageClassifier

RANGE = (0.05, 20.0)
"""Temperatures that are tried; where all images are classified right, none is the best."""

_STEPS = 60


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature of the lowest negative log likelihood, within `RANGE`.

    Args:
        logits: Of shape ``(N, classes)``.
        labels: Of shape ``(N,)``.
    """
    logits = logits.double()
    right = logits.gather(1, labels[:, None]).squeeze(1)

    def slope(inverse: float) -> float:  # of the mean loss, which is convex in 1 / temperature
        expected = ((logits * inverse).softmax(1) * logits).sum(1)
        return float((expected - right).mean())

    low, high = 1 / RANGE[1], 1 / RANGE[0]
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 2 / (low + high)


def calibrate(model: ImageClassifier, data: Any) -> float:
    """Fit the temperature on validation images, and print the calibration error before and after.

    Args:
        model: The classifier.
        data: A data module with a validation set.

    Raises:
        ValueError: If it has no images.
    """
    collector = _Collector()
    trainer = Trainer(
        logger=False,
        devices=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[collector],
    )
    trainer.validate(model, data, verbose=False)
    model.cpu()
    if not collector.batches:
        raise ValueError("calibrate: the data has no validation images")
    logits, labels = (torch.cat(parts) for parts in zip(*collector.batches, strict=True))
    temperature = fit_temperature(logits, labels)
    before, after = (calibration_error(logits / t, labels) for t in (1.0, temperature))
    print(
        f"temperature {temperature:.4f}, of {len(labels):,} validation images: expected "
        f"calibration error {before:.4f} before, {after:.4f} after"
    )
    return temperature


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error of the most probable class, from 0 to 1."""
    confidence = logits.softmax(1).amax(1)
    return float(binary_calibration_error(confidence, (ranks(logits, labels) == 0).int(), bins))


class _Collector(Callback):
    """Keep the logits and labels of the images that count."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        counted = batch[1] >= 0
        self.batches.append((outputs[counted].cpu(), batch[1][counted].cpu()))
