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
        min_size: First height and width of the images, in pixels. Default: images keep the size
            that the data module gives them.
        max_size: Last height and width, in pixels; ``min_size`` by default.
        start_epoch: Epoch, from 0, up to which images have ``min_size``.
        end_epoch: Epoch from which on images have ``max_size``.
        multiple: Sizes between them are rounded to a multiple of this many pixels, half to even.

    Raises:
        ValueError: If sizes or epochs do not rise, or the two sizes are no multiples.
    """

    def __init__(
        self,
        min_size: int | None = None,
        max_size: int | None = None,
        start_epoch: int = 0,
        end_epoch: int = 0,
        multiple: int = 32,
    ) -> None:
        if min_size is None and max_size is not None:
            raise ValueError(f"progressive_resizing: max_size {max_size} needs a min_size as well")
        self.is_on = min_size is not None
        least = multiple if min_size is None else min_size
        greatest = least if max_size is None else max_size
        if not 1 <= least <= greatest or not 0 <= start_epoch <= end_epoch:
            raise ValueError(
                "progressive_resizing: sizes and epochs must rise, got sizes "
                f"{min_size} to {max_size} in epochs {start_epoch} to {end_epoch}"
            )
        if multiple < 1 or least % multiple or greatest % multiple:
            raise ValueError(
                f"progressive_resizing: min_size {min_size} and max_size {max_size} must be "
                f"multiples of {multiple}: change them, or multiple"
            )
        self.min_size = least
        self.max_size = greatest
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.multiple = multiple

    def size(self, epoch: int) -> int:
        """Height and width of the training images of an epoch, in pixels."""
        if epoch >= self.end_epoch:
            return self.max_size
        ramp = (self.start_epoch, self.end_epoch), (self.min_size, self.max_size)
        return round(float(np.interp(epoch, *ramp)) / self.multiple) * self.multiple

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the size of an epoch that is resumed, whose start Lightning does not announce."""
        self._set_size(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the size before the first batch of the epoch is asked for."""
        if self.is_on:
            self._set_size(trainer)
            pl_module.log("train/image_size", float(self.size(trainer.current_epoch)))

    def _set_size(self, trainer: Trainer) -> None:
        if self.is_on:
            size = self.size(trainer.current_epoch)
            loader: Any = trainer.train_dataloader
            loader.view = replace(loader.view, height=size, width=size)
