"""Grad-CAM: where a classifier looks.

Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization. Ramprasaath R.
Selvaraju, Michael Cogswell, Abhishek Das, Ramakrishna Vedantam, Devi Parikh, Dhruv Batra.
ICCV 2017, arXiv 1610.02391.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eca_lightning.backbones.features import last_stage


@dataclass(frozen=True)
class View:
    """Maps (N, h, w) of a classifier for the true classes, and its probabilities (N, classes)."""

    title: str
    maps: Tensor
    probabilities: Tensor


def grad_cam(network: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weight the maps of the last stage by the mean gradient of a class's logit (Eq. 1 and 2).

    The network, of `create_backbone`, and its float32 inputs (N, C, H, W) are left untouched.

    Returns:
        Maps of the last stage's size, (N, h, w), at least 0, and the logits, (N, num_classes).
    """
    network = deepcopy(network).float().eval()
    maps: list[Tensor] = []
    last_stage(network).register_forward_hook(lambda *call: maps.append(call[2]))
    with torch.enable_grad():
        # The maps need a gradient even if no weight does.
        logits = network(inputs.contiguous(memory_format=torch.channels_last).requires_grad_())
        wanted = logits.gather(1, labels[:, None]).sum()
        (gradients,) = torch.autograd.grad(wanted, maps[0])
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    return F.relu((weights * maps[0]).sum(dim=1)).detach(), logits.detach()


def draw(
    images: Tensor, labels: Tensor, views: Sequence[View], names: Sequence[str] | None
) -> Figure:
    """Draw a column for each uint8 image: the image, and the map of each classifier over it."""

    def name(label: int) -> str:
        return names[label][:18] if names else str(label)

    rows = 1 + len(views)
    figure = Figure((1.6 * len(images) + 0.4, 1.85 * rows), dpi=130, layout="constrained")
    grid = figure.subplots(rows, len(images), squeeze=False)
    for axes in grid.flatten():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, title in zip(grid[:, 0], ("image", *(view.title for view in views)), strict=True):
        axes.set_ylabel(title, fontsize=9)
    for column, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        pixels = image.permute(1, 2, 0).numpy()
        grid[0, column].imshow(pixels)
        grid[0, column].set_title(name(label), fontsize=9)
        for axes, view in zip(grid[1:, column], views, strict=True):
            heat = _enlarged(view.maps[column], image.shape[1:])
            axes.imshow(pixels)
            axes.imshow(heat, cmap="turbo", vmin=0, vmax=1, alpha=0.2 + 0.45 * heat)
            taken = int(view.probabilities[column].argmax())
            axes.set_title(
                f"{name(taken)}, {view.probabilities[column, taken]:.0%}",
                fontsize=9,
                color="black" if taken == label else "tab:red",
            )
    return figure


def _enlarged(heat: Tensor, size: Sequence[int]) -> NDArray[np.float32]:
    """Resize a map (h, w) to its image and scale its maximum to 1."""
    heat = F.interpolate(heat[None, None], tuple(size), mode="bilinear")[0, 0]
    return (heat / heat.max().clamp(min=1e-12)).cpu().numpy()
