"""The images that a classifier gets most wrong."""

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from eca_lightning.training.callbacks.summaries import summary_writer
from eca_lightning.utils.distributed import gather_objects


@dataclass
class Scored:
    """Images and what was made of them, the highest loss first.

    Attributes:
        losses: Cross-entropy, (N,), float32; minus infinity for rows that only fill up a batch.
        labels: True class, (N,), int64.
        predicted: Most probable class, (N,), int64.
        images: (N, C, H, W), uint8.
    """

    losses: Tensor
    labels: Tensor
    predicted: Tensor
    images: Tensor

    def worst(self, count: int) -> "Scored":
        """Those with the highest losses; what is not a number counts as highest."""
        order = self.losses.topk(min(count, len(self.losses))).indices
        return Scored(*(tensor[order] for tensor in vars(self).values()))

    def of_images(self) -> "Scored":
        """Without the rows that only fill up a batch, on the CPU."""
        kept = (self.labels >= 0).cpu()
        return Scored(*(tensor.cpu()[kept] for tensor in vars(self).values()))


def together(parts: list[Scored]) -> Scored:
    """All of them as one."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Scored(*(torch.cat(column) for column in columns))


class WorstImages(Callback):
    """Shows on TensorBoard the validation images with the highest losses, over all ranks.

    They are often mislabeled, ambiguous, or of a kind that training did not see. The image
    ``val/worst`` has their true and predicted classes as well.

    Args:
        images: How many images to show.
    """

    def __init__(self, images: int = 16) -> None:
        if images < 1:
            raise ValueError(f"WorstImages: images must be at least 1, got {images}")
        self.images = images
        self._worst: Scored | None = None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the worst so far, on the device; the step's output are its logits, (N, classes)."""
        if summary_writer(trainer) is None:
            return
        images, labels = batch
        losses = F.cross_entropy(outputs, labels, reduction="none", ignore_index=-1)
        losses = losses.masked_fill(labels < 0, -torch.inf)
        worst = Scored(losses, labels, outputs.argmax(dim=1), images).worst(self.images)
        if self._worst is not None:
            worst = together([self._worst, worst]).worst(self.images)
        self._worst = worst

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the worst of all ranks and draw them."""
        writer = summary_writer(trainer)
        if writer is None or self._worst is None:
            return
        worst = self._worst.of_images()
        self._worst = None
        worst = together(gather_objects(trainer, worst)).worst(self.images)
        if trainer.is_global_zero and len(worst.losses):
            names = getattr(pl_module, "class_names", None)
            writer.add_figure("val/worst", draw(worst, names), trainer.global_step)


def draw(worst: Scored, names: list[str] | None) -> Figure:
    """A grid of images with their true class, predicted class and loss."""
    columns = min(4, len(worst.losses))
    rows = ceil(len(worst.losses) / columns)
    figure = Figure((1.5 * columns, 2 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, loss, label, predicted, image in zip(
        grid,
        *(tensor.tolist() for tensor in (worst.losses, worst.labels, worst.predicted)),
        worst.images,
        strict=False,
    ):
        true, taken = (names[k][:20] if names else str(k) for k in (label, predicted))
        axes.imshow(image.permute(1, 2, 0).numpy())
        axes.set_title(f"{true}\ntaken for {taken}\nloss {loss:.2f}", fontsize=8)
    return figure
