"""Which blocks of a network a mechanism goes into.

ECA, SE, their variants and CBAM gate the residual branch of every block. The others go where their
own papers put them on ResNet-50, and to the same feature levels of other networks. Level l is the
part of a network whose features lie at stride 2^l, as in feature pyramids: C2 to C5 are the four
stages of an ImageNet ResNet.

=====  ===========  ==============================================================================
name   site         blocks
=====  ===========  ==============================================================================
gc     branch       all of C3 to C5 (Cao et al., 2019)
a2     output       two of C3 and three of C4, evenly spread (Chen et al., 2018)
nl     output       the one before the last of C4 (Wang et al., 2018)
gsop   branch       the last of C3, C4 and C5. GSoP-Net1 (Gao et al., 2019) also drops the stride of
                    C5; that is a change of the backbone, not of attention, and is left out
aa     convolution  every 3x3 convolution of C3 to C5 (Bello et al., 2019)
=====  ===========  ==============================================================================
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from eca_lightning.attention import create_attention
from eca_lightning.attention.base import ChannelGate
from eca_lightning.attention.fused.tail import FusedTail
from eca_lightning.backbones.blocks import AttentionBlock, AttentionInvertedResidual, Site

Fused = bool | Literal["auto"]
"""Whether block tails are fused: always, never, or where there is a fused form and it pays."""

Choice = Callable[[int], Sequence[int]]
"""Maps the number of blocks of a level to the indices of the chosen ones."""


@dataclass(frozen=True)
class Placement:
    """Where a mechanism goes: ``choice`` per feature level; levels not named get nothing."""

    site: Site
    choice: dict[int, Choice]


@dataclass(frozen=True)
class Slot:
    """One block of a network, with the index of its stage and its feature level."""

    block: AttentionBlock
    stage: int
    level: int


def _every(blocks: int) -> Sequence[int]:
    return range(blocks)


def _before_last(blocks: int) -> Sequence[int]:
    return [max(0, blocks - 2)]


def _spread(count: int) -> Choice:
    """Evenly spread, ending with the last: 2 of 4 are 1 and 3, 3 of 6 are 1, 3 and 5."""
    return lambda blocks: sorted(
        {(i + 1) * blocks // min(count, blocks) - 1 for i in range(min(count, blocks))}
    )


_EVERYWHERE = Placement("branch", dict.fromkeys(range(1, 6), _every))
_PLACEMENTS = {
    "gc": Placement("branch", dict.fromkeys((3, 4, 5), _every)),
    "a2": Placement("output", {3: _spread(2), 4: _spread(3)}),
    "nl": Placement("output", {4: _before_last}),
    "gsop": Placement("branch", dict.fromkeys((3, 4, 5), _spread(1))),
    "aa": Placement("convolution", dict.fromkeys((3, 4, 5), _every)),
}


def plug_in(
    slots: Sequence[Slot], attention: str, options: dict[str, Any], fused: Fused = "auto"
) -> None:
    """Put attention into the blocks of a network, in place.

    Args:
        slots: All blocks of the network in forward order.
        attention: One of `eca_lightning.attention.ATTENTION_NAMES`.
        options: Options of the mechanism; a list gives one value per stage, as the kernels
            ``[3, 5, 5, 7]`` of the released ECA-ResNet-50.
        fused: Whether to fuse the tails of the blocks.

    Raises:
        ValueError: If a list has not one value per stage, or the mechanism does not fit a block or
            has no fused form though it is asked for.
    """
    stages = slots[-1].stage + 1
    for option, value in options.items():
        if isinstance(value, list | tuple) and len(value) != stages:
            raise ValueError(
                f"attention option {option}={list(value)} has {len(value)} values, "
                f"but the network has {stages} stages: give {stages} values, or one for all"
            )
    placement = _PLACEMENTS.get(attention, _EVERYWHERE)
    for level, members in groupby(slots, key=lambda slot: slot.level):
        blocks = list(members)
        choose = placement.choice.get(level)
        for index in choose(len(blocks)) if choose else ():
            slot = blocks[index]
            of_stage = {
                option: value[slot.stage] if isinstance(value, list | tuple) else value
                for option, value in options.items()
            }
            _plug_into(slot.block, placement.site, attention, of_stage)
            if fused:
                _fuse(slot.block, attention, required=fused is True)


def _plug_into(block: AttentionBlock, site: Site, attention: str, options: dict[str, Any]) -> None:
    if site == "convolution":
        if isinstance(block, AttentionInvertedResidual) or block.conv2.groups != 1:
            raise ValueError(
                f"attention '{attention}' replaces dense 3x3 convolutions, and this network's are "
                "grouped or depthwise: choose a ResNet or Wide ResNet, or another attention"
            )
        channels, stride = block.conv2.out_channels, block.conv2.stride[0]
        block.conv2 = create_attention(attention, channels, stride=stride, **options)
    else:
        block.attention = create_attention(attention, block.out_channels, **options)
        block.attention_site = site


def _fuse(block: AttentionBlock, attention: str, required: bool) -> None:
    inverted = isinstance(block, AttentionInvertedResidual)
    if isinstance(block.attention, ChannelGate) and not inverted:
        block.fused_tail = FusedTail()
    elif required:
        what = "MobileNetV2's block" if inverted else f"attention '{attention}'"
        raise ValueError(f"{what} has no fused form: set fused to auto or false")
