"""Count the parameters and operations of a network, by two rules.

The paper counts in units of 2^20 parameters and 2^30 operations, with a counter of 2019 that counts
some layers fully, some partly and some not at all. Its figures are reproduced here beside a plain
count of multiply-adds, which other publications can be compared with.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from eca_lightning.attention.base import ChannelGate
from eca_lightning.attention.cbam import ChannelAttention
from eca_lightning.backbones import BackboneConfig


@dataclass(frozen=True)
class Complexity:
    """The cost of one forward pass of one image.

    Attributes:
        parameters: Number of trainable parameters.
        macs: Multiply-adds of convolutions, linear layers and matrix products.
        paper_flops: Operations by the rules behind the paper's table 3; of a detector, table 5.
    """

    parameters: int
    macs: int
    paper_flops: int

    def __sub__(self, other: "Complexity") -> "Complexity":
        return Complexity(
            self.parameters - other.parameters,
            self.macs - other.macs,
            self.paper_flops - other.paper_flops,
        )


def complexity(backbone: BackboneConfig, image_size: int | tuple[int, int] = 224) -> Complexity:
    """Count a backbone without computing or allocating anything.

    Args:
        backbone: The network.
        image_size: Height and width of the image, in pixels; one number if they are equal.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    with torch.device("meta"):
        network = backbone.build().eval()
        image = torch.empty(1, backbone.in_channels, height, width)
    paper = _PaperCounter(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return Complexity(
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        macs=counter.get_total_flops() // 2,
        paper_flops=paper.total(),
    )


class _PaperCounter:
    """The rules that give every printed digit of the released models' table.

    Convolutions: multiply-adds. Batch norm: 4 an element. ReLU: 1 an element, but of a module that
    is called several times only the last call. Global average pooling, attention's included: inputs
    and outputs. Linear layers: 2 n - 1 an output. All else, max-pooling included: nothing.
    """

    def __init__(self, network: nn.Module) -> None:
        self._operations: dict[nn.Module, int] = {}
        for module in network.modules():
            module.register_forward_hook(self._count)

    def total(self) -> int:
        """Operations of the last forward pass."""
        return sum(self._operations.values())

    def _count(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            self._operations[module] = output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.BatchNorm2d):
            self._operations[module] = 4 * output.numel()
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            self._operations[module] = output.numel()
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            self._operations[module] = inputs[0].numel() + output.numel()
        elif isinstance(module, ChannelGate | ChannelAttention):
            self._operations[module] = output.numel() + output.shape[0] * output.shape[1]
        elif isinstance(module, nn.Linear):
            self._operations[module] = output.numel() * (2 * module.in_features - 1)
