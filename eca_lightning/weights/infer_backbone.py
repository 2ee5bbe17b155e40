"""Infer the network that weights belong to from their names and shapes."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Size

from eca_lightning.attention.base import attention_class, attention_names
from eca_lightning.backbones.factory import BackboneConfig, create_backbone
from eca_lightning.backbones.network import Layout, backbone_names, outline
from eca_lightning.weights.match import is_counter
from eca_lightning.weights.read import WeightsFile

Shapes = Mapping[str, Size]
Choice = tuple[str | None, dict[str, Any]]
"""An attention and its options."""


def infer_backbone(weights: WeightsFile) -> BackboneConfig:
    """Infer the network that weights belong to.

    Names and shapes show depth and width, the classes, the channels of images, a ResNet's small
    stem, attention, and kernel or reduction of each stage. They do not show MobileNetV2's small
    stem, blur pooling, se_var1 and the site of aa: networks with these must be given by name.

    Args:
        weights: The weights. A few may be missing or in excess, which
            `eca_lightning.weights.match.match_weights` reports.

    Raises:
        ValueError: If the network is none of this package, by its weights or by what the file says
            of it, or its attention cannot be inferred.
    """
    require_alike(weights)
    shapes = {key: value.shape for key, value in weights.tensors.items()}
    name = min(backbone_names(), key=lambda name: _distance(name, shapes))
    layout, plain, _ = outline(name)
    trunk = _trunk(shapes, layout)
    shared = len(_trunk(plain, layout).items() & trunk.items())
    if 2 * shared < len(trunk):
        raise ValueError(
            f"{weights.path} is of no network of this package ({', '.join(islice(shapes, 3))}, ...)"
            f": the nearest, {name}, has {shared} of its {len(trunk)} tensors. Give weights of "
            f"{', '.join(backbone_names())}"
        )
    settings: dict[str, Any] = {}
    stem = f"{layout.stem}.weight"
    for key, shape in shapes.items():
        if layout.is_classifier(key):
            settings["num_classes"] = shape[0]
        elif key == stem and len(shape) == 4:
            settings["in_channels"] = shape[1]
            if plain[key][2] == 7 and shape[2] == 3:
                settings["stem"] = "small"
    choice = _infer_attention(name, shapes)
    if choice is None:
        raise ValueError(
            f"{weights.path} is of a {name}, and its attention cannot be inferred from the "
            "weights: give their network as --backbone"
        )
    return BackboneConfig(name, *choice, **settings)


def require_alike(weights: WeightsFile) -> None:
    """Raise a ValueError if a file says that its network only looks like one of this package."""
    if weights.unlike:
        raise ValueError(
            f"{weights.path} is of a network that only looks like one of this package "
            f"({weights.unlike}). If that is wrong, import it with --backbone"
        )


def _distance(name: str, shapes: Shapes) -> int:
    """Count the weights of the trunk by which a plain network and weights differ."""
    layout, plain, _ = outline(name)
    return len(_trunk(plain, layout).items() ^ _trunk(shapes, layout).items())


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


def _infer_attention(name: str, shapes: Shapes) -> Choice | None:
    """Choose the attention with the fewest options that has these shapes; None if there is none."""
    attended = {key: shape for key, shape in shapes.items() if ".attention." in key}
    if not attended:
        return None, {}
    nearest: Choice | None = None
    for attention in attention_names():
        options = _infer_options(name, attention, attended)
        if _attention_shapes(name, attention, options) == attended:
            for option in list(options):
                fewer = {key: value for key, value in options.items() if key != option}
                if _attention_shapes(name, attention, fewer) == attended:
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


def _attention_shapes(name: str, attention: str, options: dict[str, Any]) -> Shapes | None:
    """Return the shapes of attention's weights in a network; None if it does not fit there."""
    try:
        with torch.device("meta"):
            state = create_backbone(name, attention, options).state_dict()
    except ValueError:
        return None
    return {key: value.shape for key, value in state.items() if ".attention." in key}
