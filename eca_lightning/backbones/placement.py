"""Attention plugged into the blocks of a network."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

from torch import nn

from eca_lightning.attention.base import (
    Attention,
    ChannelGate,
    Site,
    attention_class,
    create_attention,
)
from eca_lightning.attention.fused.tail import FusedTail
from eca_lightning.backbones.blocks import AttentionSlot
from eca_lightning.backbones.network import Slot

Fused = bool | Literal["auto"]
"""Whether block tails are fused: always, never, or where there is a fused form."""


def plug_in(
    slots: Sequence[Slot], attention: str | type[nn.Module], options: dict[str, Any], fused: Fused
) -> None:
    """Put attention into the blocks of a network, in place, where the mechanism says.

    Args:
        slots: All blocks of the network in forward order.
        attention: See `eca_lightning.attention.attention_class`.
        options: Options of the mechanism; a list gives one value per stage, as the kernels
            ``[3, 5, 5, 7]`` of the released ECA-ResNet-50.
        fused: Whether to fuse the tails of the blocks.

    Raises:
        ValueError: If a list has not one value per stage, or the mechanism does not fit a block or
            has no fused form though it is required.
    """
    stages = slots[-1].stage + 1
    for option, value in options.items():
        if isinstance(value, list | tuple) and len(value) != stages:
            raise ValueError(
                f"attention option {option}={list(value)} has {len(value)} values, "
                f"but the network has {stages} stages: give {stages} values, or one for all"
            )
    # A class that is only an nn.Module states nothing, and is placed as the default says.
    placement = getattr(attention_class(attention), "placement", Attention.placement)
    plugged = 0
    for level, members in groupby(slots, key=lambda slot: slot.level):
        blocks = list(members)
        choose = placement.blocks.get(level)
        for index in choose(len(blocks)) if choose else ():
            block, stage, _ = blocks[index]
            of_stage = {
                option: value[stage] if isinstance(value, list | tuple) else value
                for option, value in options.items()
            }
            _plug_into(block, placement.site, attention, of_stage)
            if fused:
                _fuse(block, attention, required=fused is True)
            plugged += 1
    if not plugged:
        levels = ", ".join(map(str, sorted(placement.blocks)))
        raise ValueError(f"attention '{attention}' works on levels {levels}: the network has none")


def _plug_into(
    block: AttentionSlot, site: Site, attention: str | type[nn.Module], options: dict[str, Any]
) -> None:
    if site != "convolution":
        block.attention = create_attention(attention, block.out_channels, **options)
        block.attention_site = site
        return
    conv: Any = block.get_submodule(block.conv3x3) if block.conv3x3 else None
    if conv is None or conv.groups != 1 or conv.in_channels != conv.out_channels:
        raise ValueError(
            f"attention '{attention}' replaces dense 3x3 convolutions, which this network does not "
            "have: choose a ResNet or Wide ResNet, or another attention"
        )
    replacement = create_attention(attention, conv.out_channels, stride=conv.stride[0], **options)
    block.set_submodule(block.conv3x3, replacement)  # type: ignore[arg-type]


def _fuse(block: AttentionSlot, attention: str | type[nn.Module], required: bool) -> None:
    if isinstance(block.attention, ChannelGate) and block.supports_fused:
        block.fused_tail = FusedTail()
    elif required:
        what = f"attention '{attention}'" if block.supports_fused else "this network's block"
        raise ValueError(f"{what} has no fused form: set fused to auto or false")
