"""Convolutional block attention module.

CBAM: Convolutional Block Attention Module. Sanghyun Woo, Jongchan Park, Joon-Young Lee,
In So Kweon. ECCV 2018, arXiv 1807.06521.

The shared perceptron has no biases, as ECA-Net counts it (arXiv 1910.03151, table 3), and the batch
norm keeps PyTorch's momentum of 0.1. The pooled maps come in the order mean, maximum, as in timm.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eca_lightning.attention.base import Attention, register_attention


class ChannelAttention(nn.Module):
    """Gate the channels by a perceptron shared by their mean and their maximum (Eq. 2)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Gate a (N, C, H, W) tensor."""
        mean, maximum = x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        logits = self.fc2(F.relu(self.fc1(mean))) + self.fc2(F.relu(self.fc1(maximum)))
        return x * logits.sigmoid().to(x.dtype)


class SpatialAttention(nn.Module):
    """Gate the positions by a 7 x 7 convolution over their mean and their maximum (Eq. 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1)

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
    """

    gate_layers = ("channel.fc2", "spatial.bn")

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction)
        self.spatial = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """Gate a (N, C, H, W) tensor; shape, dtype and memory format are kept."""
        return self.spatial(self.channel(x))
