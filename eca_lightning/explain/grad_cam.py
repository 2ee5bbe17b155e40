"""Where a classifier looks: Grad-CAM.

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

from eca_lightning.backbones.features import body_and_stages


@dataclass(frozen=True)
class View:
    """What a classifier makes of some images.

    Attributes:
        title: The classifier.
        maps: Where it looks for their true class, (N, h, w), from 0 on.
        chances: Its probabilities, (N, num_classes).
    """

    title: str
    maps: Tensor
    chances: Tensor


def grad_cam(network: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weigh the maps of the last stage by the mean gradient of a class's logit (Eq. 1 and 2).

    Args:
        network: A classification network of `create_backbone`; it is left untouched.
        inputs: Its input, (N, C, H, W), float32.
        labels: The class of each image to look for, (N,).

    Returns:
        Maps of the last stage's size, (N, h, w), from 0 on, and the logits, (N, num_classes).
    """
    network = deepcopy(network).float().eval()
    body, stages = body_and_stages(network)
    maps: list[Tensor] = []
    stage = body.get_submodule(stages[-1])
    stage.register_forward_hook(lambda module, arguments, output: maps.append(output))
    with torch.enable_grad():
        # The gradient of the maps is asked for, even if that of all weights is switched off.
        logits = network(inputs.contiguous(memory_format=torch.channels_last).requires_grad_())
        wanted = logits.gather(1, labels[:, None]).sum()
        (gradients,) = torch.autograd.grad(wanted, maps[0])
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    return F.relu((weights * maps[0]).sum(dim=1)).detach(), logits.detach()


def draw(
    images: Tensor, labels: Tensor, views: Sequence[View], names: Sequence[str] | None
) -> Figure:
    """A column for each image: it, and where each classifier looks for its true class.

    Args:
        images: (N, 3, H, W), uint8.
        labels: True class of each, (N,).
        views: What the classifiers make of them.
        names: Name of each class, where known.
    """

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
            taken = int(view.chances[column].argmax())
            axes.set_title(
                f"{name(taken)}, {view.chances[column, taken]:.0%}",
                fontsize=9,
                color="black" if taken == label else "tab:red",
            )
    return figure


def _enlarged(heat: Tensor, size: Sequence[int]) -> NDArray[np.float32]:
    """A map (h, w) at the size of its image, its maximum being 1."""
    heat = F.interpolate(heat[None, None], tuple(size), mode="bilinear")[0, 0]
    return (heat / heat.max().clamp(min=1e-12)).cpu().numpy()
