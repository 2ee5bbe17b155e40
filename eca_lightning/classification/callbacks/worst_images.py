"""Show the validation images with the highest losses."""

from math import ceil
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from eca_lightning.classification.task import ImageClassifier
from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.training.callbacks.validation_report import ValidationReport
from eca_lightning.utils.distributed import gather_objects


class Scored(NamedTuple):
    """Images and their scores, each of length N."""

    losses: Tensor  # cross-entropy, float32; minus infinity for rows that only fill up a batch
    labels: Tensor  # true class, int64
    predicted: Tensor  # most probable class, int64; -1 if a logit is NaN or infinite
    images: Tensor  # (N, C, H, W), uint8
    samples: Tensor  # place in the order of the rank's validation, from 0; gathered: sample index


def highest_losses(parts: list[Scored], count: int) -> Scored:
    """Return the ``count`` images with the highest losses, in descending order; NaN comes first."""
    together = Scored(*(torch.cat(column) for column in zip(*parts, strict=True)))
    order = together.losses.topk(min(count, len(together.losses))).indices
    return Scored(*(tensor[order] for tensor in together))


class WorstImages(ValidationReport):
    """Show on TensorBoard the validation images with the highest losses, over all ranks.

    They are often mislabeled, ambiguous, or of a kind that training did not see. The image
    ``val/worst`` has their files (of a ``.beton`` their indices), true and predicted classes.

    Args:
        images: How many images to show.
    """

    task = ImageClassifier
    all_ranks = True
    _seen = 0

    def __init__(self, images: int = 16) -> None:
        if images < 1:
            raise ValueError(f"WorstImages: images must be at least 1, got {images}")
        self.images = images

    def collect(self, collected: Any, pl_module: Any, outputs: Any, batch: Any) -> Scored:
        """Keep the worst so far on the device; the step returns the logits."""
        images, labels = batch
        losses = F.cross_entropy(outputs, labels, reduction="none", ignore_index=-1)
        losses = losses.masked_fill(labels < 0, -torch.inf)
        predicted = outputs.argmax(dim=1).where(outputs.isfinite().all(dim=1), -1)
        if collected is None:
            self._seen = 0
        places = torch.arange(self._seen, self._seen + len(labels), device=labels.device)
        self._seen += len(labels)
        scored = Scored(losses, labels, predicted, images, places)
        return highest_losses([scored] if collected is None else [collected, scored], self.images)

    def gather(self, collected: Any, pl_module: ImageClassifier) -> Scored | None:
        """Gather the worst of all ranks."""
        own = Scored(*(tensor.cpu() for tensor in collected)) if collected else None
        loader = pl_module.trainer.val_dataloaders
        if own and isinstance(loader, EpochLoader):
            size = loader.index_sampler.batch_size
            rows = (divmod(place, size) for place in own.samples.tolist())
            indices = [loader.batch_indices(batch)[row] for batch, row in rows]
            own = own._replace(samples=torch.tensor(indices))
        parts = [part for part in gather_objects(pl_module.trainer, own) if part is not None]
        if not parts:
            return None
        worst = highest_losses(parts, self.images)
        counted = worst.labels >= 0
        return Scored(*(tensor[counted] for tensor in worst)) if counted.any() else None

    def write(self, writer: Any, gathered: Scored, pl_module: ImageClassifier) -> None:
        """Draw the images."""
        loader, files = pl_module.trainer.val_dataloaders, None
        if isinstance(loader, EpochLoader):
            files = [loader.sample_name(index) for index in gathered.samples.tolist()]
        figure = draw(gathered, pl_module.class_names, files)
        writer.add_figure("val/worst", figure)


def draw(worst: Scored, names: list[str] | None, files: list[str] | None = None) -> Figure:
    """Draw a grid of images with their file, true class, predicted class and loss."""
    columns = min(4, len(worst.losses))
    rows = ceil(len(worst.losses) / columns)
    figure = Figure((1.6 * columns, 2.2 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    scores = (tensor.tolist() for tensor in worst[:3])
    titles = [f"{file[-24:]}\n" for file in files] if files else [""] * len(worst.losses)
    cells = zip(grid, titles, *scores, worst.images, strict=False)
    for axes, title, loss, label, other, image in cells:
        true, predicted = (names[k][:20] if names else str(k) for k in (label, other))
        predicted = predicted if other >= 0 else "no class"
        axes.imshow(image.permute(1, 2, 0).numpy())
        axes.set_title(f"{title}{true}\npredicted {predicted}\nloss {loss:.2f}", fontsize=8)
    return figure
