"""Convolutional block attention module.

CBAM: Convolutional Block Attention Module. Sanghyun Woo, Jongchan Park, Joon-Young Lee,
In So Kweon. ECCV 2018, arXiv 1807.06521.

The shared perceptron has no biases, as ECA-Net counts it (arXiv 1910.03151, table 3), and the batch
norm keeps PyTorch's momentum of 0.1. The pooled maps come in the order mean, maximum, as in timm.
The authors' perceptron has biases; other repositories leave the norm out.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn

from eca_lightning.attention.base import (
    TO_TIMM,
    Attention,
    ForeignKey,
    as_convolution,
    register_attention,
)


class ChannelAttention(nn.Module):
    """Gate the channels by a perceptron shared by their mean and their maximum (Eq. 2)."""

    def __init__(self, channels: int, reduction: int, bias: bool) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Gate a (N, C, H, W) tensor."""
        mean, maximum = x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        logits = self.fc2(F.relu(self.fc1(mean))) + self.fc2(F.relu(self.fc1(maximum)))
        return x * logits.sigmoid().to(x.dtype)


class SpatialAttention(nn.Module):
    """Gate the positions by a 7 x 7 convolution over their mean and their maximum (Eq. 3)."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Gate a (N, C, H, W) tensor."""
        pooled = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * self.bn(self.conv(pooled)).sigmoid().to(x.dtype)


@register_attention("cbam")
class ConvolutionalBlockAttention(Attention):
    """CBAM: channel attention, then spatial attention (Eq. 1).

    Args:
        channels: Number of channels, C.
        reduction: Divisor of C that gives the perceptron's hidden channels, at least 1.
        bias: Whether the perceptron has biases.
        norm: Whether a batch norm follows the 7 x 7 convolution.
    """

    gate_layers = ("channel.fc2", "spatial.bn")
    foreign_keys = (
        *Attention.foreign_keys,
        ForeignKey(r"\.attention\.spatial\.conv\.(conv|bn)\.", r".attention.spatial.\1."),
        # The authors', Jongchan/attention-module, whose maps come in the order maximum, mean.
        ForeignKey(r"\.cbam\.ChannelGate\.mlp\.1\.", ".attention.channel.fc1.", as_convolution),
        ForeignKey(r"\.cbam\.ChannelGate\.mlp\.3\.", ".attention.channel.fc2.", as_convolution),
        ForeignKey(
            r"\.cbam\.SpatialGate\.spatial\.conv\.weight$",
            ".attention.spatial.conv.weight",
            lambda weight: weight.flip(1),
        ),
        ForeignKey(r"\.cbam\.SpatialGate\.spatial\.bn\.", ".attention.spatial.bn."),
        # Of luuuyi/CBAM.PyTorch and others, without a norm.
        ForeignKey(r"^(layer\d+\.\d+)\.ca\.(fc1|fc\.0)\.", r"\1.attention.channel.fc1."),
        ForeignKey(r"^(layer\d+\.\d+)\.ca\.(fc2|fc\.2)\.", r"\1.attention.channel.fc2."),
        ForeignKey(r"^(layer\d+\.\d+)\.sa\.conv1?\.", r"\1.attention.spatial.conv."),
    )
    exported_keys: ClassVar[Mapping[str, tuple[ForeignKey, ...]]] = {
        "timm": (ForeignKey(r"\.spatial\.(conv|bn)\.", r".spatial.conv.\1."), TO_TIMM)
    }

    def __init__(
        self, channels: int, reduction: int = 16, bias: bool = False, norm: bool = True
    ) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction, bias)
        self.spatial = SpatialAttention(norm)
        if not norm:
            self.gate_layers = ("channel.fc2", "spatial.conv")

    def forward(self, x: Tensor) -> Tensor:
        """Gate a (N, C, H, W) tensor; shape, dtype and memory format are kept."""
        return self.spatial(self.channel(x))

    @classmethod
    def infer_options(cls, shapes: Mapping[str, Size]) -> dict[str, Any]:
        """See `Attention.infer_options`."""
        if not {"channel.fc1.weight", "spatial.conv.weight"} <= shapes.keys():
            return {}
        hidden, channels = shapes["channel.fc1.weight"][:2]
        return {
            "reduction": channels // max(1, hidden),
            "bias": "channel.fc1.bias" in shapes,
            "norm": "spatial.bn.weight" in shapes,
        }
