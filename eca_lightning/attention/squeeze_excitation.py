"""Squeeze-and-excitation and the ablations of it in ECA-Net's table 2.

Squeeze-and-Excitation Networks. Jie Hu, Li Shen, Gang Sun. CVPR 2018, arXiv 1709.01507. The
ablations: ECA-Net (Wang et al., CVPR 2020, arXiv 1910.03151), section 3.2.

No linear map here has a bias unless asked for: the parameter counts of ECA-Net hold only without.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from eca_lightning.attention.base import ChannelGate


class SqueezeExcitation(ChannelGate):
    """SE: ``sigmoid(W2 relu(W1 y))`` through a bottleneck of C / reduction channels.

    Args:
        channels: Number of channels, C.
        reduction: How many times narrower than C the bottleneck is; it keeps at least one channel.
        bias: Whether both maps have a bias, as timm's have.
    """

    def __init__(self, channels: int, reduction: int = 16, bias: bool = False) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, channels, bias=bias)

    def logits(self, pooled: Tensor) -> Tensor:
        """See `ChannelGate.logits`."""
        return self.fc2(F.relu(self.fc1(pooled)))


class PlainGate(ChannelGate):
    """SE-Var1: ``sigmoid(y)``, without parameters."""

    def logits(self, pooled: Tensor) -> Tensor:
        """See `ChannelGate.logits`."""
        return pooled


class GroupedExcitation(ChannelGate):
    """``sigmoid(W y)`` with a block-diagonal W: full within each group of channels, zero elsewhere.

    One group is SE-Var3 (W full), C groups are SE-Var2 (one weight a channel), and those between
    are SE-GC1 to SE-GC3.

    Args:
        channels: Number of channels, C.
        groups: Number of groups, a divisor of C.

    Raises:
        ValueError: If ``groups`` does not divide ``channels``.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(
                f"{channels} channels do not divide into {groups} equal groups: "
                f"choose channels that are a multiple of {groups}, or another mechanism."
            )
        self.conv = nn.Conv1d(channels, channels, 1, groups=groups, bias=False)

    def logits(self, pooled: Tensor) -> Tensor:
        """See `ChannelGate.logits`."""
        return self.conv(pooled.unsqueeze(2)).squeeze(2)
