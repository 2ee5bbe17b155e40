"""Infer the network that weights belong to from their names and shapes."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Size

from eca_lightning.attention.base import attention_class, attention_names
from eca_lightning.backbones.blur_pool import BlurPoolConv2d
from eca_lightning.backbones.factory import BackboneConfig, create_backbone
from eca_lightning.backbones.network import (
    Layout,
    Shapes,
    backbone_names,
    candidates,
    find_backbone,
    outline,
)
from eca_lightning.backbones.resnet_names import pooling, with_pooling
from eca_lightning.weights import look_alikes
from eca_lightning.weights.match import is_counter
from eca_lightning.weights.read import WeightsFile

Choice = tuple[str | None, dict[str, Any]]
"""An attention and its options."""


def infer_backbone(weights: WeightsFile) -> BackboneConfig:
    """Infer the network that weights belong to.

    Names and shapes show depth and width, a ResNet's stem and shortcuts, the classes, the channels
    of images, the small stem of one convolution, attention, and kernel or reduction of each stage.
    What replaces strides and whether ECA is circular is taken from what the file is called. Other
    small stems, blur pooling without FFCV's buffers, se_var1 and the site of aa show nowhere:
    networks with these must be given by name.

    Args:
        weights: The weights. A few may be missing or in excess, which
            `eca_lightning.weights.match.match_weights` reports.

    Raises:
        ValueError: If the network is none of this package, by its weights or by what the file says
            of it, or its attention cannot be inferred.
    """
    require_alike(weights)
    shapes = {key: value.shape for key, value in weights.tensors.items()}
    name = min(candidates(shapes), key=lambda name: _distance(name, shapes))
    layout, plain, _ = outline(name)
    trunk = _trunk(shapes, layout)
    shared = len(_trunk(plain, layout).items() & trunk.items())
    why = look_alikes.family(shapes)
    pruned = _pruned(name, shapes)
    if why or (2 * shared < len(trunk) and not pruned):
        raise ValueError(
            f"{weights.path} is of no network of this package ({', '.join(islice(shapes, 3))}, ...)"
            f"{why and ': ' + why}. The nearest, {name}, has {shared} of its {len(trunk)} tensors: "
            f"give weights of {', '.join(backbone_names())}, or of a ResNet of timm's"
        )
    settings: dict[str, Any] = {"pruned": pruned} if pruned else {}
    stem = f"{layout.stem}.weight"
    for key, shape in shapes.items():
        if layout.is_classifier(key):
            settings["num_classes"] = shape[0]
        elif key == stem and len(shape) == 4:
            settings["in_channels"] = shape[1]
            if plain[key][2] == 7 and shape[2] == 3:
                settings["stem"] = "small"
    choice = _infer_attention(name, shapes, pruned)
    if choice is None:
        raise ValueError(
            f"{weights.path} is of a {name}, and its attention cannot be inferred from the "
            "weights: give their network as --backbone"
        )
    attention, options = choice
    if weights.told.get("circular") and attention == "eca":
        options = options | {"circular": True}
    if pool := weights.told.get("pooling"):
        name = with_pooling(name, pool)
        if find_backbone(name) is None:
            raise ValueError(f"{weights.path} is of no network of this package: {name}")
    if blurred := weights.told.get("blur_pool"):
        settings["blur_pool"] = True
        _require_blurred(weights, name, blurred)
    return BackboneConfig(name, attention, options, **settings)


def _require_blurred(weights: WeightsFile, name: str, blurred: Sequence[str]) -> None:
    """Raise a ValueError if a file blurs before other convolutions than blur pooling does."""
    with torch.device("meta"):
        network = create_backbone(name, blur_pool=True)
    ours = {key for key, child in network.named_modules() if isinstance(child, BlurPoolConv2d)}
    if others := sorted(ours.symmetric_difference(blurred)):
        raise ValueError(f"{weights.path} blurs before some strides alone, or others: {others[0]}")


def require_alike(weights: WeightsFile, config: BackboneConfig | None = None) -> None:
    """Raise a ValueError if a file says that its network is another.

    Args:
        weights: The file.
        config: The network that the weights are for. Default: any of this package.
    """
    if weights.unlike:
        raise ValueError(
            f"{weights.path} is of a network that only looks like one of this package "
            f"({weights.unlike}). If that is wrong, import it with --backbone"
        )
    if config is None:
        return
    ours: dict[str, Any] = {"pooling": pooling(config.name), "blur_pool": config.blur_pool}
    if config.attention == "eca":
        ours["circular"] = bool(config.attention_options.get("circular"))
    for key, told in weights.told.items():
        if ours.get(key) is not None and ours[key] != (bool(told) if key != "pooling" else told):
            set_name = with_pooling(config.name, told) if key == "pooling" else ""
            remedy = {
                "pooling": f"set the backbone's name to {set_name}",
                "blur_pool": "set the backbone's blur_pool to true",
                "circular": "set the backbone's attention_options.circular to true",
            }
            raise ValueError(
                f"{weights.path} is of another network, by what the file says: {remedy[key]}"
            )


def _distance(name: str, shapes: Shapes) -> tuple[int, int]:
    """Count the weights of the trunk that differ from a plain network's by name, and by shape."""
    layout, plain, _ = outline(name)
    ours, theirs = _trunk(plain, layout), _trunk(shapes, layout)
    return len(ours.keys() ^ theirs.keys()), len(ours.items() ^ theirs.items())


def _pruned(name: str, shapes: Shapes) -> dict[str, list[int]]:
    """Return the channels of convolutions with fewer than the network's; empty if that is all."""
    layout, plain, _ = outline(name)
    ours, theirs = _trunk(plain, layout), _trunk(shapes, layout)
    if ours.keys() != theirs.keys():
        return {}
    found = {}
    for key, shape in ours.items():
        other = theirs[key]
        if len(shape) != len(other) or any(n > m for n, m in zip(other, shape, strict=True)):
            return {}
        if len(shape) == 4 and shape != other:
            if shape[2:] != other[2:]:
                return {}
            found[key.removesuffix(".weight")] = list(other[:2])
    return found


def _trunk(shapes: Shapes, layout: Layout) -> Shapes:
    """Drop what classes, images and attention change, and the counters that old files lack."""
    return {
        key: shape
        for key, shape in shapes.items()
        if not (
            layout.is_classifier(key)
            or is_counter(key)
            or key == f"{layout.stem}.weight"
            or ".attention." in key
        )
    }


def _infer_attention(name: str, shapes: Shapes, pruned: dict[str, list[int]]) -> Choice | None:
    """Choose the attention with the fewest options that has these shapes; None if there is none."""
    attended = {key: shape for key, shape in shapes.items() if ".attention." in key}
    if not attended:
        return None, {}
    nearest: Choice | None = None
    for attention in attention_names():
        options = _infer_options(name, attention, attended)
        if _attention_shapes(name, attention, options, pruned) == attended:
            for option in list(options):
                fewer = {key: value for key, value in options.items() if key != option}
                if _attention_shapes(name, attention, fewer, pruned) == attended:
                    options = fewer
            return attention, options
        if options:  # the mechanism knows these weights, of which some are missing or in excess
            nearest = attention, options
    return nearest


def _infer_options(name: str, attention: str, attended: Shapes) -> dict[str, Any]:
    """Ask a mechanism for its options, stage by stage; those that differ become lists."""
    stages = outline(name).stages
    blocks: dict[int, dict[str, dict[str, Size]]] = {}
    for key, shape in attended.items():
        block, _, parameter = key.partition(".attention.")
        if block in stages:
            blocks.setdefault(stages[block], {}).setdefault(block, {})[parameter] = shape
    mechanism: Any = attention_class(attention)
    inferred = {
        stage: mechanism.infer_options(next(iter(found.values())))
        for stage, found in blocks.items()
    }
    known = [options for options in inferred.values() if options]
    if not known:
        return {}
    # A stage without the mechanism takes the first one's options.
    each = [inferred.get(stage) or known[0] for stage in range(max(stages.values()) + 1)]
    options = {}
    for option in known[0]:
        values = [of_stage[option] for of_stage in each]
        options[option] = values[0] if len(set(values)) == 1 else values
    return options


def _attention_shapes(
    name: str, attention: str, options: dict[str, Any], pruned: dict[str, list[int]]
) -> Shapes | None:
    """Return the shapes of attention's weights in a network; None if it does not fit there."""
    try:
        with torch.device("meta"):
            state = create_backbone(name, attention, options, pruned=pruned).state_dict()
    except ValueError:
        return None
    return {key: value.shape for key, value in state.items() if ".attention." in key}
