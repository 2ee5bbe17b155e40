"""Progressive resizing: small training images in early epochs, larger ones later."""

from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from eca_lightning.data.epoch_loader import ResizableLoader
from eca_lightning.utils.checks import require


class ProgressiveResizing(Callback):
    """Increase the size of the training images over the epochs, so that early epochs cost less.

    FFCV's ImageNet recipe: ``min_size`` until ``start_epoch``, ``max_size`` from ``end_epoch``,
    linear in between, rounded to a multiple. The size follows from the epoch alone, so that a
    resumed run continues with the right one; FFCV's pipeline is not recompiled. Logs
    ``train/image_size``.

    Args:
        min_size: Height and width of the images in the first epochs, in pixels.
        max_size: Height and width of the images in the last epochs, in pixels; ``min_size`` if
            None.
        start_epoch: Last epoch, from 0, of size ``min_size``.
        end_epoch: First epoch of size ``max_size``.
        multiple: Sizes in between are rounded to a multiple of this many pixels, half to even.

    Raises:
        ValueError: If sizes or epochs decrease, or a size is not such a multiple.
    """

    logged_metrics = ("train/image_size",)

    def __init__(
        self,
        min_size: int,
        max_size: int | None = None,
        start_epoch: int = 0,
        end_epoch: int = 0,
        multiple: int = 32,
    ) -> None:
        max_size = min_size if max_size is None else max_size
        option = "ProgressiveResizing: "
        require(min_size >= 1, option + "min_size", "at least 1", min_size)
        require(max_size >= min_size, option + "max_size", f"at least {min_size}", max_size)
        require(start_epoch >= 0, option + "start_epoch", "at least 0", start_epoch)
        increasing = end_epoch >= start_epoch
        require(increasing, option + "end_epoch", f"at least {start_epoch}", end_epoch)
        if multiple < 1 or min_size % multiple or max_size % multiple:
            raise ValueError(
                f"{option}min_size {min_size} and max_size {max_size} must be multiples of "
                f"{multiple}: change them, or multiple"
            )
        self.min_size, self.max_size = min_size, max_size
        self.start_epoch, self.end_epoch = start_epoch, end_epoch
        self.multiple = multiple

    def size(self, epoch: int) -> int:
        """Compute the height and width of the training images of an epoch, in pixels."""
        if epoch >= self.end_epoch:
            return self.max_size
        ramp = (self.start_epoch, self.end_epoch), (self.min_size, self.max_size)
        return round(float(np.interp(epoch, *ramp)) / self.multiple) * self.multiple

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the size of the first epoch, whose start Lightning does not announce if resumed."""
        loader: object = trainer.train_dataloader
        if not isinstance(loader, ResizableLoader):
            raise ValueError(
                f"ProgressiveResizing needs a training loader with set_image_size(size), which "
                f"{type(loader).__name__} lacks: remove the callback, or use FFCVDataModule or "
                "ImageFolderDataModule"
            )
        # The largest size too: an impossible one is an error now and not in a later epoch.
        for size in (self.max_size, self.size(trainer.current_epoch)):
            loader.set_image_size(size)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the size before the first batch of the epoch is requested, and log it."""
        size = self.size(trainer.current_epoch)
        loader: Any = trainer.train_dataloader
        loader.set_image_size(size)
        pl_module.log("train/image_size", float(size))
