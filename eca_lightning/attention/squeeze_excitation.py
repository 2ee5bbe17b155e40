"""Squeeze-and-excitation and the ablations of it in ECA-Net's table 2.

Squeeze-and-Excitation Networks. Jie Hu, Li Shen, Gang Sun. CVPR 2018, arXiv 1709.01507. The
ablations: ECA-Net (Wang et al., CVPR 2020, arXiv 1910.03151), section 3.2.

No linear map here has a bias unless asked for: the parameter counts of ECA-Net hold only without.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Size, Tensor, nn

from eca_lightning.attention.base import (
    Attention,
    ChannelGate,
    ForeignKey,
    as_convolution,
    as_linear,
    register_attention,
)


@register_attention("se")
class SqueezeExcitation(ChannelGate):
    """SE: ``sigmoid(W2 relu(W1 y))`` through a bottleneck of C / reduction channels.

    Args:
        channels: Number of channels, C.
        reduction: Divisor of C that gives the bottleneck's channels, at least 1.
        bias: Whether both maps have a bias, as in timm.
    """

    gate_layers = ("fc2",)
    foreign_keys = (
        *Attention.foreign_keys,
        # Of many repositories: Linear, ReLU, Linear and Sigmoid in one nn.Sequential.
        ForeignKey(r"\.attention\.fc\.0\.", ".attention.fc1."),
        ForeignKey(r"\.attention\.fc\.2\.", ".attention.fc2."),
        ForeignKey(r"(\.attention\.fc[12]\.weight)$", r"\1", as_linear),  # timm convolves
    )
    exported_keys: ClassVar[Mapping[str, tuple[ForeignKey, ...]]] = {
        "timm": (ForeignKey(r"\.attention\.", ".se.", as_convolution),)
    }

    def __init__(self, channels: int, reduction: int = 16, bias: bool = False) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, channels, bias=bias)

    def logits(self, pooled: Tensor) -> Tensor:
        """See `ChannelGate.logits`."""
        return self.fc2(F.relu(self.fc1(pooled)))

    @classmethod
    def infer_options(cls, shapes: Mapping[str, Size]) -> dict[str, Any]:
        """See `Attention.infer_options`."""
        if not {"fc1.weight", "fc2.weight"} <= shapes.keys():
            return {}
        hidden, channels = shapes["fc1.weight"][:2]
        return {"reduction": channels // max(1, hidden), "bias": "fc1.bias" in shapes}


@register_attention("se_var1")
class SEVar1(ChannelGate):
    """SE-Var1: ``sigmoid(y)``, without parameters and so without an identity start.

    Args:
        channels: Number of channels, C; it changes nothing.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

    def logits(self, pooled: Tensor) -> Tensor:
        """See `ChannelGate.logits`."""
        return pooled


@register_attention("se_var2", group_width=1)
@register_attention("se_var3", groups=1)
@register_attention("se_gc1", groups=16)
@register_attention("se_gc2", group_width=16)
@register_attention("se_gc3", group_width=8)
class GroupedExcitation(ChannelGate):
    """``sigmoid(W y)`` with a block-diagonal W: full within each group of channels, zero elsewhere.

    One group is SE-Var3 (W full), groups of one channel are SE-Var2 (one weight a channel), and
    those between are SE-GC1 to SE-GC3.

    Args:
        channels: Number of channels, C.
        groups: Number of groups, a divisor of C.
        group_width: Channels of a group, a divisor of C, in place of ``groups``.

    Raises:
        ValueError: If the groups do not divide the channels evenly.
    """

    gate_layers = ("conv",)

    def __init__(self, channels: int, groups: int = 1, group_width: int | None = None) -> None:
        super().__init__()
        divisor = group_width or groups
        if divisor < 1 or channels % divisor:
            parts = f"groups of {group_width}" if group_width else f"{groups} equal groups"
            raise ValueError(
                f"{channels} channels do not divide into {parts}: choose channels that are a "
                f"multiple of {divisor}, or another attention"
            )
        groups = channels // group_width if group_width else groups
        self.conv = nn.Conv1d(channels, channels, 1, groups=groups, bias=False)

    def logits(self, pooled: Tensor) -> Tensor:
        """See `ChannelGate.logits`."""
        return self.conv(pooled.unsqueeze(2)).squeeze(2)
