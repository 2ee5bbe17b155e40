"""Squeeze-and-excitation and the ablations of it in ECA-Net's table 2.

Squeeze-and-Excitation Networks. Jie Hu, Li Shen, Gang Sun. CVPR 2018, arXiv 1709.01507. The
ablations: ECA-Net (Wang et al., CVPR 2020, arXiv 1910.03151), section 3.2.

No linear map here has a bias unless asked for: the parameter counts of ECA-Net hold only without.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Size, Tensor, nn

from eca_lightning.attention.base import (
    Attention,
    ChannelGate,
    ForeignKey,
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
        ForeignKey(r"(\.attention\.fc[12]\.weight)$", r"\1", is_linear=True),  # timm convolves
    )

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


class GroupedExcitation(ChannelGate):
    """``sigmoid(W y)`` with a block-diagonal W: full within each group of channels, zero elsewhere.

    Args:
        channels: Number of channels, C.
        groups: Number of groups, a divisor of C.

    Raises:
        ValueError: If ``groups`` does not divide ``channels``.
    """

    gate_layers = ("conv",)

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        if groups < 1 or channels % groups:
            raise ValueError(
                f"{channels} channels do not divide into {groups} equal groups: choose channels "
                f"that are a multiple of {groups}, or another attention"
            )
        self.conv = nn.Conv1d(channels, channels, 1, groups=groups, bias=False)

    def logits(self, pooled: Tensor) -> Tensor:
        """See `ChannelGate.logits`."""
        return self.conv(pooled.unsqueeze(2)).squeeze(2)


@register_attention("se_var2")
class SEVar2(GroupedExcitation):
    """SE-Var2: one weight a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, groups=channels)


@register_attention("se_var3")
class SEVar3(GroupedExcitation):
    """SE-Var3: a full matrix, which lets all channels interact."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, groups=1)


@register_attention("se_gc1")
class SEGC1(GroupedExcitation):
    """SE-GC1: 16 groups of channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, groups=16)


@register_attention("se_gc2")
class SEGC2(GroupedExcitation):
    """SE-GC2: groups of 16 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, groups=_groups_of(16, channels))


@register_attention("se_gc3")
class SEGC3(GroupedExcitation):
    """SE-GC3: groups of 8 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, groups=_groups_of(8, channels))


def _groups_of(width: int, channels: int) -> int:
    """Return the number of groups of ``width`` channels."""
    if channels % width:
        raise ValueError(
            f"{channels} channels do not divide into groups of {width}: choose channels that are a "
            f"multiple of {width}, or another attention"
        )
    return channels // width
