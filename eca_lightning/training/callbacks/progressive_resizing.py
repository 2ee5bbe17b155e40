"""Small images first."""

from dataclasses import replace
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer


class ProgressiveResizing(Callback):
    """Grows the training images over the epochs: early ones cost less and lose little accuracy.

    FFCV's ImageNet recipe: ``min_size`` up to ``start_epoch``, ``max_size`` from ``end_epoch`` on,
    linear between them, rounded to a multiple. The size follows from the epoch alone, so that a
    resumed run goes on with the right one; nothing is compiled anew. Logs ``train/image_size``.

    Args:
        min_size: First height and width of the images, in pixels.
        max_size: Last height and width, in pixels.
        start_epoch: Epoch, from 0, up to which images have ``min_size``.
        end_epoch: Epoch from which on images have ``max_size``.
        multiple: Sizes between them are rounded to a multiple of this many pixels, half to even.

    Raises:
        ValueError: If sizes or epochs do not rise, or the two sizes are no multiples.
    """

    def __init__(
        self,
        min_size: int = 160,
        max_size: int = 192,
        start_epoch: int = 11,
        end_epoch: int = 13,
        multiple: int = 32,
    ) -> None:
        if not 1 <= min_size <= max_size or not 0 <= start_epoch <= end_epoch:
            raise ValueError(
                "ProgressiveResizing: sizes and epochs must rise, got sizes "
                f"{min_size} to {max_size} in epochs {start_epoch} to {end_epoch}"
            )
        if multiple < 1 or min_size % multiple or max_size % multiple:
            raise ValueError(
                f"ProgressiveResizing: min_size {min_size} and max_size {max_size} must be "
                f"multiples of {multiple}: change them, or multiple"
            )
        self.min_size = min_size
        self.max_size = max_size
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.multiple = multiple

    def size(self, epoch: int) -> int:
        """Height and width of the training images of an epoch, in pixels."""
        if epoch >= self.end_epoch:
            return self.max_size
        ramp = (self.start_epoch, self.end_epoch), (self.min_size, self.max_size)
        return round(float(np.interp(epoch, *ramp)) / self.multiple) * self.multiple

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the size before the first batch of the epoch is asked for."""
        size = self.size(trainer.current_epoch)
        loader: Any = trainer.train_dataloader
        loader.view = replace(loader.view, height=size, width=size)
        pl_module.log("train/image_size", float(size))
