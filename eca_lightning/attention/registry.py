"""From the name of an attention mechanism to a module."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from eca_lightning.attention.attention_augmented import AttentionAugmentedConv2d
from eca_lightning.attention.cbam import ConvolutionalBlockAttention
from eca_lightning.attention.double_attention import DoubleAttention
from eca_lightning.attention.eca import EfficientChannelAttention, EfficientChannelAttentionNS
from eca_lightning.attention.global_context import GlobalContext
from eca_lightning.attention.non_local import NonLocal
from eca_lightning.attention.second_order_pooling import SecondOrderPooling
from eca_lightning.attention.squeeze_excitation import (
    GroupedExcitation,
    PlainGate,
    SqueezeExcitation,
)


def _in_groups_of(width: int) -> Callable[[int], nn.Module]:
    def create(channels: int) -> nn.Module:
        if channels % width:
            raise ValueError(
                f"{channels} channels do not divide into groups of {width}: "
                f"choose channels that are a multiple of {width}, or another mechanism."
            )
        return GroupedExcitation(channels, channels // width)

    return create


# The parameters of a constructor, after the channels, are the options of its mechanism.
_CONSTRUCTORS: dict[str, Callable[..., nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "eca": EfficientChannelAttention,
    "eca_ns": EfficientChannelAttentionNS,
    "se": SqueezeExcitation,
    "se_var1": lambda channels: PlainGate(),
    "se_var2": _in_groups_of(1),
    "se_var3": lambda channels: GroupedExcitation(channels, groups=1),
    "se_gc1": lambda channels: GroupedExcitation(channels, groups=16),
    "se_gc2": _in_groups_of(16),
    "se_gc3": _in_groups_of(8),
    "cbam": ConvolutionalBlockAttention,
    "gc": GlobalContext,
    "a2": DoubleAttention,
    "nl": NonLocal,
    "gsop": SecondOrderPooling,
    "aa": AttentionAugmentedConv2d,
}

ATTENTION_NAMES = tuple(_CONSTRUCTORS)


def create_attention(name: str, channels: int, **options: Any) -> nn.Module:
    """Create an attention mechanism.

    Args:
        name: One of `ATTENTION_NAMES`.
        channels: Number of channels of the tensors that it is going to see.
        **options: Options of the mechanism, such as ``kernel`` of ECA or ``reduction`` of SE.

    Returns:
        A module that maps (N, C, H, W) to (N, C, H, W) of the same dtype and memory format.

    Raises:
        ValueError: If the name, an option or the number of channels is not possible.
    """
    if name not in _CONSTRUCTORS:
        close = difflib.get_close_matches(name, ATTENTION_NAMES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"Unknown attention mechanism {name!r}; choose from {', '.join(ATTENTION_NAMES)}.{hint}"
        )
    if channels < 1:
        raise ValueError(f"Attention {name!r} needs at least one channel, got {channels}.")
    constructor = _CONSTRUCTORS[name]
    valid = [option for option in inspect.signature(constructor).parameters if option != "channels"]
    unknown = [option for option in options if option not in valid]
    if unknown:
        raise ValueError(
            f"Attention {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"its options: {', '.join(valid) or 'none'}."
        )
    return constructor(channels, **options)
