"""Backbones by name."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from eca_lightning.backbones.blocks import (
    AttentionBasicBlock,
    AttentionBottleneck,
    add_stochastic_depth,
)
from eca_lightning.backbones.blur_pool import add_blur_pool
from eca_lightning.backbones.features import FeaturePyramid
from eca_lightning.backbones.mobilenet_v2 import mobilenet_v2
from eca_lightning.backbones.placement import Fused, Slot, plug_in
from eca_lightning.backbones.resnet import cifar_resnet, imagenet_resnet

Stem = Literal["imagenet", "small"]

_FULL: dict[str, Callable[..., tuple[nn.Module, list[Slot]]]] = {
    # For data sets so small that a network learns them from scratch in minutes.
    "resnet10_half": partial(imagenet_resnet, AttentionBasicBlock, (1, 1, 1, 1), width=32),
    "resnet18": partial(imagenet_resnet, AttentionBasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(imagenet_resnet, AttentionBasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(imagenet_resnet, AttentionBottleneck, (3, 4, 6, 3)),
    "resnet101": partial(imagenet_resnet, AttentionBottleneck, (3, 4, 23, 3)),
    "resnet152": partial(imagenet_resnet, AttentionBottleneck, (3, 8, 36, 3)),
    "resnext50_32x4d": partial(
        imagenet_resnet, AttentionBottleneck, (3, 4, 6, 3), groups=32, width_per_group=4
    ),
    "resnext101_32x8d": partial(
        imagenet_resnet, AttentionBottleneck, (3, 4, 23, 3), groups=32, width_per_group=8
    ),
    "wide_resnet50_2": partial(
        imagenet_resnet, AttentionBottleneck, (3, 4, 6, 3), width_per_group=128
    ),
    "mobilenet_v2": mobilenet_v2,
}
_CIFAR = {"resnet20": partial(cifar_resnet, 3), "resnet56": partial(cifar_resnet, 9)}

BACKBONE_NAMES = (*_FULL, *_CIFAR)


def create_backbone(
    name: str,
    attention: str | None = None,
    attention_options: dict[str, Any] | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
    stem: Stem | None = None,
    fused: Fused = "auto",
    blur_pool: bool = False,
    stochastic_depth: float = 0.0,
    features_only: bool = False,
) -> nn.Module:
    """Build a classification network, with attention where the mechanism's paper puts it.

    Without attention, state-dict keys and outputs are torchvision's. With it, only keys that hold
    ``attention`` are added; ``aa``, which replaces convolutions, is the one exception. Attention
    is initialized last, so that one seed gives one set of backbone weights whatever the mechanism.

    Args:
        name: A name of :func:`backbone_names`.
        attention: One of `eca_lightning.attention.ATTENTION_NAMES`.
        attention_options: Options of the mechanism; a list gives one value per stage, such as
            ``{"kernel": [3, 5, 5, 7]}``.
        num_classes: Width of the classifier.
        in_channels: Channels of the images.
        stem: ``small`` keeps the resolution in the first layers, for images of 28 to 64 pixels.
            Default: ``imagenet``, but ``small`` for resnet20 and resnet56, which have no other.
        fused: Whether the tails of residual blocks are fused, see
            `FusedTail`: ``auto`` where attention has a fused form,
            ``True`` to insist on it, ``False`` never. Parameters and their names are the same.
        blur_pool: Blur the inputs of strided convolutions, those of the images and of attention
            excepted; see `eca_lightning.backbones.blur_pool`. Parameters and names are the same.
        stochastic_depth: Chance of the last block to drop its residual branch in training; see
            `eca_lightning.backbones.blocks.add_stochastic_depth`.
        features_only: Leave the classifier out and return the maps of the stages; see
            `eca_lightning.backbones.features.FeaturePyramid`.

    Returns:
        A network that maps (N, in_channels, H, W) to logits (N, num_classes), or to an OrderedDict
        of maps.

    Raises:
        ValueError: If a name is unknown or an option does not fit.
    """
    if num_classes < 1 or in_channels < 1:
        raise ValueError(
            f"num_classes and in_channels must be at least 1, got {num_classes} and {in_channels}"
        )
    if fused not in (True, False, "auto"):
        raise ValueError(f"fused must be auto, true or false, got {fused!r}")
    if name in _FULL:
        network, slots = _FULL[name](num_classes, in_channels, small_stem=stem == "small")
    elif name in _CIFAR:
        if stem == "imagenet":
            raise ValueError(f"{name} is made for small images: leave stem out, or set stem: small")
        network, slots = _CIFAR[name](num_classes, in_channels)
    else:
        close = get_close_matches(name, BACKBONE_NAMES, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(f"unknown backbone '{name}'{hint}; known: {', '.join(BACKBONE_NAMES)}")
    if blur_pool:
        add_blur_pool(network)
    if attention not in (None, "none"):
        plug_in(slots, attention, attention_options or {}, fused)
    elif attention_options:
        raise ValueError(
            f"attention_options {attention_options} are given, but no attention: "
            "set attention, or leave the options out"
        )
    elif fused is True:
        raise ValueError("fused: true needs attention: set one, or fused to auto or false")
    if stochastic_depth:
        if fused is True:
            raise ValueError("fused tails know no stochastic_depth: set fused to auto or false")
        add_stochastic_depth([slot.block for slot in slots], stochastic_depth)
    return FeaturePyramid(network) if features_only else network


def stages_of_blocks(name: str) -> dict[str, int]:
    """Map the name of each block of a network to the index of its stage."""
    with torch.device("meta"):
        if name in _CIFAR:
            network, slots = _CIFAR[name](1, 3)
        else:
            network, slots = _FULL[name](1, 3, small_stem=False)
    names = {module: key for key, module in network.named_modules()}
    return {names[slot.block]: slot.stage for slot in slots}


@dataclass
class BackboneConfig:
    """What :func:`create_backbone` takes, as plain data that YAML and checkpoints can hold.

    Args:
        name: Name of the network, such as resnet50 or mobilenet_v2.
        attention: Name of the attention mechanism, such as eca or se; none for the plain network.
        attention_options: Options of the mechanism; a list gives one value per stage.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        stem: ``small`` for images of 28 to 64 pixels, ``imagenet`` for larger ones.
        fused: Whether block tails are computed in fewer passes: ``auto`` where attention has a
            fused form, true to insist on it, false never. Checkpoints are the same either way.
        blur_pool: Blur the inputs of strided convolutions.
        stochastic_depth: Chance of the last block to drop its residual branch in training.
    """

    name: str
    attention: str | None = None
    attention_options: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 1000
    in_channels: int = 3
    stem: Stem | None = None
    fused: Fused = "auto"
    blur_pool: bool = False
    stochastic_depth: float = 0.0

    def build(self) -> nn.Module:
        """Create the network."""
        return create_backbone(**asdict(self))
