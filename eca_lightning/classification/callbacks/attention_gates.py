"""What the attention of each layer does."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from math import ceil
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from eca_lightning.attention.base import ChannelGate
from eca_lightning.classification.task import ImageClassifier
from eca_lightning.training.callbacks.summaries import summary_writer

_EDGE = 0.05


class AttentionMonitor(Callback):
    """Shows on TensorBoard the gates of every layer with channel attention: ECA, SE and their kin.

    Of all gates of a layer, over its channels and a few validation images: ``gates_mean``,
    ``gates_spread`` (standard deviation), ``gates_saturation`` (share below 0.05 or above 0.95,
    where sigmoid hardly learns any more), and their histogram, ``gates``. A spread of 0 means that
    the layer's attention does nothing but scale.

    The images are rank zero's, taken evenly from its validation batches, and go through a copy of
    the network in float32, once a validation: training is not touched, and it does not matter
    whether the network is compiled or its attention fused with other layers.

    Args:
        images: How many images to look at.
    """

    def __init__(self, images: int = 64) -> None:
        if images < 1:
            raise ValueError(f"AttentionMonitor: images must be at least 1, got {images}")
        self.images = images
        self._images: list[Tensor] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take some images of each batch; after the last one, write what the gates make of them.

        Not at the end of the epoch, when weights that were averaged for validation may be gone.
        """
        writer = summary_writer(trainer)
        if writer is None or not trainer.is_global_zero:
            return
        if not isinstance(pl_module, ImageClassifier) or not has_gates(pl_module.backbone):
            return
        batches = int(trainer.num_val_batches[dataloader_idx])
        self._images.append(batch[0][: ceil(self.images / batches)].clone())
        if batch_idx + 1 < batches:
            return
        images = torch.cat(self._images)[: self.images]
        self._images = []
        step = trainer.global_step
        inputs = ((images - pl_module.mean) / pl_module.std).float()
        for layer, gates in gates_of(pl_module.backbone, inputs):
            saturated = (gates < _EDGE) | (gates > 1 - _EDGE)
            writer.add_scalar(f"gates_mean/{layer}", gates.mean(), step)
            writer.add_scalar(f"gates_spread/{layer}", gates.std(), step)
            writer.add_scalar(f"gates_saturation/{layer}", saturated.float().mean(), step)
            bins = np.linspace(0, 1, 51)  # the default ones are for any number, and coarse here
            writer.add_histogram(f"gates/{layer}", gates, step, bins=bins)


def gates_of(network: nn.Module, inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The gates of each layer with a `ChannelGate`, in the order of the layers.

    Args:
        network: It is left untouched.
        inputs: Its input, (N, C, H, W), float32.

    Yields:
        The name of the layer and its gates, (N, channels), between 0 and 1, on the CPU.
    """
    network = deepcopy(network).float().eval()  # copies are not compiled
    seen: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, ChannelGate):
            # Not a hook on forward, which a fused block does without; no block can without logits.
            module.logits = _recorded(module.logits, seen, name)  # type: ignore[assignment]
    with torch.no_grad():
        network(inputs.contiguous(memory_format=torch.channels_last))
    for name, gates in seen.items():
        yield name.removesuffix(".attention"), gates


def _recorded(
    logits: Callable[[Tensor], Tensor], seen: dict[str, Tensor], name: str
) -> Callable[[Tensor], Tensor]:
    """The same map, which notes the gates that follow from what it returns."""

    def recorded(pooled: Tensor) -> Tensor:
        values = logits(pooled)
        seen[name] = values.float().sigmoid().cpu()
        return values

    return recorded


def has_gates(network: nn.Module) -> bool:
    """Whether a network has a `ChannelGate`."""
    return any(isinstance(module, ChannelGate) for module in network.modules())
