"""Draw the gates of channel attention."""

from collections.abc import Mapping, Sequence
from itertools import chain
from math import ceil
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from eca_lightning.attention.eca import EfficientChannelAttention
from eca_lightning.classification.callbacks.attention_gates import gates_of
from eca_lightning.classification.task import ImageClassifier
from eca_lightning.training.callbacks.validation_report import ValidationReport


class ClassSample:
    """Collect the first ``images_per_class`` images of some classes, given by their labels."""

    def __init__(self, classes: Sequence[int], images_per_class: int) -> None:
        self.images_per_class = images_per_class
        self._images: dict[int, list[Tensor]] = {label: [] for label in sorted(classes)}

    @property
    def is_complete(self) -> bool:
        """Whether no image is missing."""
        return all(len(taken) == self.images_per_class for taken in self._images.values())

    @property
    def is_empty(self) -> bool:
        """Whether there was no image of the classes."""
        return not any(self._images.values())

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Take from a batch, (N, C, H, W) and (N,), what is still missing."""
        if self.is_complete:  # reading the labels would wait for the GPU
            return
        for image, label in zip(images, labels.tolist(), strict=True):
            taken = self._images.get(label)
            if taken is not None and len(taken) < self.images_per_class:
                taken.append(image.clone())

    def taken(self) -> tuple[Tensor, Tensor]:
        """Return the images, (N, C, H, W), and their labels, (N,), sorted by label."""
        labels = [label for label, images in self._images.items() for _ in images]
        return torch.stack(list(chain(*self._images.values()))), torch.tensor(labels)


class AttentionFigures(ValidationReport):
    """Draw what channel attention has learned, on TensorBoard at each validation.

    ``attention/channel_weights``: the mean gate of each channel for each of a few classes, as in
    the paper's supplement. ``attention/gates``: their distribution by depth, and whether they
    depend on the image. ``attention/kernels``: ECA's weights by depth.

    The images are the first of each class on rank zero.

    Args:
        classes: How many classes to use, evenly spread over all.
        images_per_class: How many images of each.
    """

    task = ImageClassifier

    def __init__(self, classes: int = 4, images_per_class: int = 16) -> None:
        if classes < 1 or images_per_class < 1:
            raise ValueError(
                "AttentionFigures: classes and images_per_class must be at least 1, "
                f"got {classes} and {images_per_class}"
            )
        self.classes = classes
        self.images_per_class = images_per_class

    def collect(self, collected: Any, pl_module: Any, outputs: Any, batch: Any) -> ClassSample:
        """Take the images of a batch that are still missing."""
        if collected is None:
            classes = evenly_spread(pl_module.num_classes, self.classes)
            collected = ClassSample(classes, self.images_per_class)
        collected.add(*batch)
        return collected

    def after_last_batch(self, collected: Any, pl_module: Any) -> Any:
        """Compute the gates, if there are some, and images of the classes."""
        if collected.is_empty:
            return None
        images, labels = collected.taken()
        gates = gates_of(pl_module, images)
        return (gates, labels) if gates else None

    def write(self, writer: Any, gathered: Any, pl_module: ImageClassifier) -> None:
        """Draw the figures."""
        gates, labels = gathered
        for name, figure in figures(pl_module.backbone, gates, labels, pl_module.class_names):
            writer.add_figure(f"attention/{name}", figure)


def evenly_spread(total: int, count: int) -> list[int]:
    """Return at most ``count`` numbers from 0 to ``total`` - 1, with the first and the last."""
    return [round(float(x)) for x in np.linspace(0, total - 1, min(count, total))]


def figures(
    network: nn.Module, gates: Mapping[str, Tensor], labels: Tensor, names: Sequence[str] | None
) -> list[tuple[str, Figure]]:
    """Draw all figures of a network's gates, and return them with their names.

    Args:
        network: The network.
        gates: The gates of each layer, (N, channels), as of `gates_of`.
        labels: Class of each image, (N,).
        names: Name of each class, where known.
    """
    weights = draw_channel_weights(gates, labels, names)
    drawn = [("channel_weights", weights), ("gates", draw_gates(gates))]
    if kernels := kernels_of(network):
        drawn.append(("kernels", draw_kernels(kernels)))
    return drawn


def class_means(gates: Tensor, labels: Tensor) -> dict[int, Tensor]:
    """Return the mean over images, (channels,), of gates (N, channels) for each of labels (N,)."""
    return {label: gates[labels == label].mean(dim=0) for label in labels.unique().tolist()}


def kernels_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of ECA's kernels, (k,), by the name of their layer, on the CPU."""
    return {
        name.removesuffix(".attention"): module.conv.weight.detach().float().flatten().cpu()
        for name, module in network.named_modules()
        if isinstance(module, EfficientChannelAttention)
    }


def draw_channel_weights(
    gates: Mapping[str, Tensor], labels: Tensor, names: Sequence[str] | None
) -> Figure:
    """Draw a panel per layer: the mean gate of each channel, one line per class.

    Of more than 16 layers, 16 are drawn, evenly spread over the depth.
    """
    layers = [list(gates)[place] for place in evenly_spread(len(gates), 16)]
    columns = min(4, ceil(len(layers) ** 0.5))
    rows = ceil(len(layers) / columns)
    figure = Figure((3.6 * columns, 1.9 * rows + 0.6), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels[len(layers) :]:
        axes.set_axis_off()
    for axes, layer in zip(panels, layers, strict=False):
        means = class_means(gates[layer], labels)
        width = 0.9 if gates[layer].shape[1] <= 128 else 0.4
        for label, mean in means.items():
            name = names[label] if names else str(label)
            axes.plot(mean.numpy(), linewidth=width, alpha=0.85, label=name[:24])
        channels = torch.stack(list(means.values()))
        between, along = (channels.std(dim=dim, correction=0).mean() for dim in (0, 1))
        axes.set_title(f"{layer}: ±{along:.3f}, classes ±{between:.3f}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.margins(x=0.01)
    shown = panels[0].get_legend_handles_labels()
    columns = min(4, len(shown[1]))
    legend = figure.legend(*shown, loc="outside upper center", ncols=columns, frameon=False)
    for line in legend.get_lines():
        line.set_linewidth(2)
    figure.supxlabel("channel; title: deviation over channels, and between classes", fontsize=9)
    figure.supylabel("mean gate", fontsize=9)
    return figure


def draw_gates(gates: Mapping[str, Tensor]) -> Figure:
    """Draw the distribution of each layer's gates, and what they vary with, by depth."""
    figure = Figure((2.5 + 0.36 * max(len(gates), 8), 6), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    places = list(range(len(gates)))
    flat = [layer.flatten().numpy() for layer in gates.values()]
    options = {"widths": 0.85, "showextrema": False, "showmedians": True, "points": 60}
    drawn = upper.violinplot(flat, places, **options)
    for body in drawn["bodies"]:
        body.set(facecolor="tab:blue", alpha=0.6)
    upper.axhline(0.5, color="0.5", linewidth=0.8, linestyle=":")
    upper.set(ylim=(0, 1), ylabel="gates")
    upper.set_title("distribution over channels and images, with medians", fontsize=10)
    over_channels = [layer.mean(dim=0).std(correction=0).item() for layer in gates.values()]
    over_images = [layer.std(dim=0, correction=0).mean().item() for layer in gates.values()]
    lower.plot(places, over_channels, marker="o", label="between channels, mean over images")
    lower.plot(places, over_images, marker="o", label="between images, mean over channels")
    lower.set(ylim=(0, None), ylabel="standard deviation")
    lower.set_title("what the gates vary with", fontsize=10)
    lower.grid(axis="y", alpha=0.25)
    lower.legend(fontsize=9)
    lower.set_xticks(places, list(gates), rotation=90, fontsize=8)
    return figure


def draw_kernels(kernels: Mapping[str, Tensor]) -> Figure:
    """Draw the weights of ECA's kernels, one column per layer, blue below zero and red above."""
    reach = max(len(kernel) // 2 for kernel in kernels.values())
    padded = [F.pad(k, 2 * [reach - len(k) // 2], value=torch.nan) for k in kernels.values()]
    image = torch.stack(padded, dim=1).numpy()
    limit = np.nanmax(np.abs(image))
    height = 2 + 0.36 * (2 * reach + 1)
    figure = Figure((2.5 + 0.42 * max(len(kernels), 8), height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), weight in np.ndenumerate(image):
        if not np.isnan(weight):
            text = {"ha": "center", "va": "center", "fontsize": 7}
            color = "white" if abs(weight) > 0.6 * limit else "black"
            axes.text(column, row, f"{weight:.2f}", text, color=color)
    offsets = [f"{offset:+d}" if offset else "0" for offset in range(-reach, reach + 1)]
    axes.set(yticks=range(2 * reach + 1), yticklabels=offsets, ylabel="neighboring channel")
    axes.set_xticks(range(len(kernels)), list(kernels), rotation=90, fontsize=8)
    axes.set_title("weights of ECA's kernels", fontsize=10)
    figure.colorbar(shown, ax=axes, pad=0.02)
    return figure
