"""Report which classes are confused in validation."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from eca_lightning.classification.task import ImageClassifier
from eca_lightning.training.callbacks.validation_report import ValidationReport
from eca_lightning.utils.tables import Table


class ConfusionReport(ValidationReport):
    """Write to TensorBoard which classes are confused in validation, over all ranks.

    The pairs that are confused most often as text, ``val/most_confused``, and the recall and
    precision of each class, ``val/recall_by_class``; the confusion matrix as image,
    ``val/confusion_matrix``, where it is small enough to be read. Predictions that are
    NaN or infinite are counted apart.

    Args:
        pairs: How many pairs to list.
        max_drawn: Maximum number of classes for which the matrix is drawn.
    """

    task = ImageClassifier
    all_ranks = True

    def __init__(self, pairs: int = 20, max_drawn: int = 50) -> None:
        self.pairs, self.max_drawn = pairs, max_drawn

    def collect(self, collected: Any, pl_module: Any, outputs: Any, batch: Any) -> Tensor:
        """Count a batch, whose logits the step returns: the true classes are the rows.

        Behind the matrix is the number of images whose logits are not all finite.
        """
        labels, classes = batch[1], pl_module.num_classes
        if collected is None:
            collected = labels.new_zeros(classes * classes + 1)
        # Not torch.bincount, which waits for the GPU to know how many classes there are.
        places = classes * labels.clamp(min=0) + outputs.argmax(dim=1)
        places = places.where(outputs.isfinite().all(dim=1), classes * classes)
        return collected.scatter_add_(0, places, (labels >= 0).long())

    def gather(self, collected: Any, pl_module: Any) -> Tensor | None:
        """Add up the counts of all ranks."""
        if collected is None:
            return None
        counts: Any = pl_module.trainer.strategy.reduce(collected, reduce_op="sum")
        return counts.cpu()

    def write(self, writer: Any, gathered: Tensor, pl_module: ImageClassifier) -> None:
        """Write the pairs and the matrix."""
        counts = gathered[:-1].view(pl_module.num_classes, -1)
        names = pl_module.class_names or list(map(str, range(len(counts))))
        text = most_confused(counts, names, self.pairs)
        if left_out := int(gathered[-1]):
            text += f"\n\nLeft out: {left_out} images whose predictions are NaN or infinite."
        writer.add_text("val/most_confused", text)
        writer.add_text("val/recall_by_class", by_class(counts, names))
        if len(counts) <= self.max_drawn:
            writer.add_figure("val/confusion_matrix", draw(counts, names))


def most_confused(counts: Tensor, names: list[str], pairs: int) -> str:
    """Format the ``pairs`` largest entries off the diagonal as a table.

    ``counts``, int64, are the images of each true class (row) predicted as each class (column).
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
        return "No image was predicted as another class than its own."
    header = ["true class", "predicted class", "images", "fraction of the class"]
    return Table(header, {"": rows}).markdown()


def by_class(counts: Tensor, names: list[str]) -> str:
    """Format the images, recall and precision of each class as a table, the worst recall first."""
    images, predictions, right = counts.sum(dim=1), counts.sum(dim=0), counts.diagonal()
    recall, precision = right / images, right / predictions
    order = recall.nan_to_num(2).argsort(stable=True).tolist()  # those without images last
    values = [(k, images[k], recall[k], precision[k]) for k in order]
    rows = [
        [names[k], str(int(n)), *("-" if v.isnan() else f"{v:.1%}" for v in (r, p))]
        for k, n, r, p in values
    ]
    return Table(["class", "images", "recall", "precision"], {"": rows}).markdown()


def draw(counts: Tensor, names: list[str]) -> Figure:
    """Draw the matrix: the number of images, colored by their fraction of the true class."""
    share = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    classes = len(counts)
    side = 2 + 0.36 * min(classes, 15) + 0.15 * max(classes - 15, 0)
    figure = Figure((side, side), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    labels = [name if len(name) <= 18 else name[:17] + "…" for name in names]
    size = 9 if classes <= 25 else 6
    axes.set_xticks(range(classes), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(classes), labels, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true class")
    axes.set_title("number of images; color: fraction of the true class", fontsize=10)
    if classes <= 15:
        for row, column in torch.nonzero(counts).tolist():
            text = {"ha": "center", "va": "center", "fontsize": 9 if counts.max() < 10_000 else 6}
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]}", text, color=color)
    return figure
