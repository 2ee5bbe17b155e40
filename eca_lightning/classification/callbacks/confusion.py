"""Which classes a classifier takes for one another."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from eca_lightning.training.callbacks.summaries import summary_writer
from eca_lightning.utils.tables import Table


class ConfusionReport(Callback):
    """Shows on TensorBoard which classes are confused in validation, over all ranks.

    The pairs that are confused most often as text, ``val/most_confused``; the whole matrix as
    image, ``val/confusion_matrix``, where it can be read.

    Args:
        pairs: How many pairs to list.
        max_drawn: The matrix is drawn for at most so many classes.
    """

    def __init__(self, pairs: int = 20, max_drawn: int = 50) -> None:
        self.pairs = pairs
        self.max_drawn = max_drawn
        self._matrix: MulticlassConfusionMatrix | None = None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch; the step's output are its logits, (N, classes)."""
        if summary_writer(trainer) is None:
            return
        if self._matrix is None:
            self._matrix = MulticlassConfusionMatrix(
                outputs.shape[1], ignore_index=-1, validate_args=False
            ).to(outputs.device)
        self._matrix.update(outputs.argmax(dim=1), batch[1])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add up the ranks' counts and write them."""
        writer = summary_writer(trainer)
        if writer is None or self._matrix is None:
            return
        counts = self._matrix.compute().cpu()
        self._matrix = None
        if not trainer.is_global_zero:
            return
        names = getattr(pl_module, "class_names", None) or list(map(str, range(len(counts))))
        step = trainer.global_step
        writer.add_text("val/most_confused", most_confused(counts, names, self.pairs), step)
        if len(counts) <= self.max_drawn:
            writer.add_figure("val/confusion_matrix", draw(counts, names), step)


def most_confused(counts: Tensor, names: list[str], pairs: int) -> str:
    """The largest entries off the diagonal, as a table.

    Args:
        counts: Images of each true class (row) that were taken for each class (column), int64.
        names: Name of each class.
        pairs: Length of the table.
    """
    errors = counts.clone().fill_diagonal_(0)
    order = errors.flatten().argsort(descending=True, stable=True)[:pairs].tolist()
    places = [divmod(place, len(counts)) for place in order]
    rows = [
        [names[t], names[p], str(int(counts[t, p])), f"{counts[t, p] / counts[t].sum():.0%}"]
        for t, p in places
        if errors[t, p] > 0
    ]
    if not rows:
        return "No image was taken for another class than its own."
    header = ["true class", "predicted class", "images", "fraction of the class"]
    return Table(header, {"": rows}).markdown()


def draw(counts: Tensor, names: list[str]) -> Figure:
    """The matrix, each row in percent of its class.

    Args:
        counts: Images of each true class (row) that were taken for each class (column), int64.
        names: Name of each class.
    """
    shares = 100 * counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    classes = len(counts)
    side = 2 + 0.36 * min(classes, 15) + 0.15 * max(classes - 15, 0)
    figure = Figure((side, side), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=100)
    labels = [name if len(name) <= 18 else name[:17] + "…" for name in names]
    size = 9 if classes <= 25 else 6
    axes.set_xticks(range(classes), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(classes), labels, fontsize=size)
    axes.set_xlabel("taken for")
    axes.set_ylabel("true class")
    axes.set_title("images of each class, in %", fontsize=10)
    if classes <= 15:
        for row, column in torch.nonzero(shares >= 0.5).tolist():
            share = shares[row, column].item()
            color = "white" if share > 50 else "black"
            text = {"ha": "center", "va": "center", "fontsize": 9, "color": color}
            axes.text(column, row, f"{share:.0f}", text)
    return figure
