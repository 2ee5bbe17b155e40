"""Backbones with attention by name."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from eca_lightning.backbones.blocks import add_stochastic_depth
from eca_lightning.backbones.blur_pool import add_blur_pool
from eca_lightning.backbones.features import FeaturePyramid
from eca_lightning.backbones.network import Network, Stem, build_network
from eca_lightning.backbones.placement import Fused, plug_in
from eca_lightning.backbones.pruned import prune


def create_backbone(
    name: str,
    attention: str | type[nn.Module] | None = None,
    attention_options: dict[str, Any] | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
    stem: Stem | None = None,
    fused: Fused = "auto",
    blur_pool: bool = False,
    stochastic_depth: float = 0.0,
    pruned: dict[str, list[int]] | None = None,
    features_only: bool = False,
) -> nn.Module:
    """Build a classification network, with attention where the mechanism's paper puts it.

    Without attention, state-dict keys and outputs are torchvision's or timm's. With it, only keys
    that hold ``attention`` are added; ``aa``, which replaces convolutions, is the one exception.
    Attention is initialized last, so that one seed gives one set of backbone weights whatever the
    mechanism.

    Args:
        name: A name of `backbone_names`, of a ResNet as timm names it, or the dotted path of a
            function that builds a `Network`.
        attention: A name of `attention_names`, the dotted path of a class of your own package, or
            a class; None or "none" for the plain network.
        attention_options: Options of the mechanism; a list gives one value per stage, such as
            ``{"kernel": [3, 5, 5, 7]}``.
        num_classes: Width of the classifier.
        in_channels: Channels of the images.
        stem: ``small`` keeps the resolution in the first layers, for images of 28 to 64 pixels.
            Default: ``imagenet``, but ``small`` for resnet20 and resnet56, which have no other.
        fused: Whether the tails of residual blocks are fused, see `FusedTail`: ``auto`` where
            attention has a fused form, ``True`` to require it, ``False`` never. Parameters and
            their names are the same.
        blur_pool: Blur the inputs of strided convolutions, those of the images and of attention
            excepted; see `eca_lightning.backbones.blur_pool`. Parameters and names are the same.
        stochastic_depth: Probability of the last block to drop its residual branch in training;
            see `add_stochastic_depth`.
        pruned: Output and input channels, ``[out, in]``, of convolutions of which channels were
            pruned, by name.
        features_only: Leave the classifier out and return the maps of the stages; see
            `FeaturePyramid`.

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
    built = build_network(name, num_classes, in_channels, stem)
    network, slots, _ = built
    if pruned:
        prune(built, pruned)
    if blur_pool:
        add_blur_pool(network)
    if attention is not None and attention != "none":
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
            raise ValueError("fused tails exclude stochastic_depth: set fused to auto or false")
        add_stochastic_depth([slot.block for slot in slots], stochastic_depth)
    return FeaturePyramid(network) if features_only else network


_KINDS: dict[str, Any] = {
    "name": str,
    "attention": str | None,
    "attention_options": dict,
    "num_classes": int | None,
    "in_channels": int,
    "stem": str | None,
    "fused": bool | str,
    "blur_pool": bool,
    "stochastic_depth": float | int,
    "pruned": dict,
}


@dataclass
class BackboneConfig:
    """Options of `create_backbone`, as plain data that YAML and checkpoints can hold.

    Args:
        name: Name of the network, such as resnet50 or mobilenet_v2. ResNets have timm's forms as
            well, such as resnet50d, resnet26t, resnetaa50, resnetblur50, resnetrs50 and
            resnext50d_32x4d.
        attention: Name of the attention mechanism, such as eca or se, or the dotted path of a class
            of your own package; none for the plain network.
        attention_options: Options of the mechanism; a list gives one value per stage.
        num_classes: Number of classes. Default: 1000, and in training those of the data.
        in_channels: Channels of the images.
        stem: ``small`` for images of 28 to 64 pixels, ``imagenet`` for larger ones.
        fused: Whether block tails are computed in fewer passes: ``auto`` where attention has a
            fused form, true to require it, false never. Checkpoints are the same either way.
        blur_pool: Blur the inputs of strided convolutions.
        stochastic_depth: Probability of the last block to drop its residual branch in training.
        pruned: Output and input channels of convolutions of which channels were pruned, by name, as
            import reads them from weights.
    """

    name: str
    attention: str | None = None
    attention_options: dict[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    in_channels: int = 3
    stem: Stem | None = None
    fused: Fused = "auto"
    blur_pool: bool = False
    stochastic_depth: float = 0.0
    pruned: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.attention == "none":
            self.attention = None

    def require_imported(self) -> "BackboneConfig":
        """Check a config that a file holds, and return it: it must not name code to be imported.

        Raises:
            ValueError: If it names code that the program has not imported by itself.
            TypeError: If a value is of another type.
        """
        for name, kind in _KINDS.items():
            if not isinstance(value := getattr(self, name), kind):
                raise TypeError(f"backbone.{name} is no {kind}: {value!r:.60}")
        _require_imported("backbone", self.name, _builds_network)
        _require_imported("attention", self.attention or "", _is_module)
        return self

    def build(self) -> nn.Module:
        """Create the network."""
        options = asdict(self)
        return create_backbone(**options | {"num_classes": self.num_classes or 1000})


def _require_imported(what: str, name: str, is_kind: Callable[[Any], bool]) -> None:
    """Raise a ValueError if a dotted name is of a module that is not imported yet."""
    module, dot, attribute = name.rpartition(".")
    # Not getattr, by which some modules import others.
    if dot and not is_kind(vars(sys.modules.get(module, object)).get(attribute)):
        raise ValueError(
            f"{what} '{name}' is code of another package, which is not imported because a file "
            f"says so: if you trust it, import {module} first (export and attention have "
            "--modules), or name it as the backbone yourself"
        )


def _builds_network(value: Any) -> bool:
    return getattr(value, "__annotations__", {}).get("return") in (Network, "Network")


def _is_module(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)
