"""Log statistics of the gates of channel attention."""

from collections.abc import Callable
from copy import deepcopy
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eca_lightning.attention.base import ChannelGate
from eca_lightning.classification.task import ImageClassifier
from eca_lightning.training.callbacks.validation_report import ValidationReport


class AttentionMonitor(ValidationReport):
    """Log the gates of every layer with channel attention, such as ECA and SE, to TensorBoard.

    Of all gates of a layer, over its channels and a few validation images: ``val_gates_mean``,
    ``val_gates_spread`` (standard deviation), ``val_gates_saturation`` (fraction below 0.05 or
    above 0.95, where the gradient of the sigmoid nearly vanishes), and their histogram,
    ``val_gates``. With a
    standard deviation of 0 the attention of a layer only scales its features.

    The images are taken evenly from the validation batches of rank zero.

    Args:
        images: How many images to use.
    """

    task = ImageClassifier

    def __init__(self, images: int = 64) -> None:
        if images < 1:
            raise ValueError(f"AttentionMonitor: images must be at least 1, got {images}")
        self.images = images

    def collect(self, collected: Any, pl_module: Any, outputs: Any, batch: Any) -> list[Tensor]:
        """Take the first images of a batch."""
        per_batch = ceil(self.images / int(pl_module.trainer.num_val_batches[0]))
        return [*(collected or []), batch[0][:per_batch].clone()]

    def after_last_batch(self, collected: Any, pl_module: Any) -> dict[str, Tensor]:
        """Compute the gates."""
        return gates_of(pl_module, torch.cat(collected)[: self.images])

    def write(self, writer: Any, gathered: Any, pl_module: ImageClassifier) -> None:
        """Write the statistics and the histogram of each layer."""
        bins = np.linspace(0, 1, 51)  # TensorBoard's own are for any number, and coarse here
        for layer, gates in gathered.items():
            saturated = (gates < 0.05) | (gates > 0.95)
            scalars = {"mean": gates.mean(), "spread": gates.std()}
            scalars["saturation"] = saturated.float().mean()
            writer.add_scalars({f"val_gates_{key}/{layer}": v for key, v in scalars.items()})
            writer.add_histogram(f"val_gates/{layer}", gates, bins)


def gates_of(model: ImageClassifier, images: Tensor) -> dict[str, Tensor]:
    """Compute the gates of each layer with a `ChannelGate`.

    The images, (N, C, H, W) uint8, go through a copy of the network in float32: training is not
    affected, and it does not matter whether the network is compiled or its attention fused.

    Returns:
        The gates of each layer by its name, in forward order: (N, channels), from 0 to 1, float32,
        on the CPU; empty without such layers.
    """
    network = deepcopy(model.backbone).float().eval()  # copies are not compiled
    gates: dict[str, list[Tensor]] = {}
    found = [(n, m) for n, m in network.named_modules() if isinstance(m, ChannelGate)]
    for name, module in found:
        # Not a hook on forward, which a fused block does not call; all blocks call logits.
        layer = name.removesuffix(".attention")
        module.logits = _recorded(module.logits, gates, layer)  # type: ignore[assignment]
    if not found:
        return {}
    with torch.no_grad():
        for some in images.split(32):
            inputs = model.normalize(some).float()
            network(inputs.contiguous(memory_format=torch.channels_last))
    return {layer: torch.cat(parts) for layer, parts in gates.items()}


def _recorded(
    logits: Callable[[Tensor], Tensor], gates: dict[str, list[Tensor]], layer: str
) -> Callable[[Tensor], Tensor]:
    """Wrap a gate's ``logits`` so that the gates are recorded."""

    def recorded(pooled: Tensor) -> Tensor:
        values = logits(pooled)
        gates.setdefault(layer, []).append(values.float().sigmoid().cpu())
        return values

    return recorded
