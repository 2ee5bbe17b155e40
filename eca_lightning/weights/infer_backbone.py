"""Which network weights belong to, by their names and shapes."""

from collections.abc import Mapping
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Size

from eca_lightning.attention import ATTENTION_NAMES
from eca_lightning.backbones.factory import (
    BACKBONE_NAMES,
    BackboneConfig,
    create_backbone,
    stages_of_blocks,
)
from eca_lightning.weights.match import is_classifier, is_counter
from eca_lightning.weights.read import WeightsFile

_FIRST = ("conv1.weight", "features.0.0.weight")

Shapes = Mapping[str, Size]
Choice = tuple[str | None, dict[str, Any]]
"""An attention and its options."""


def recognize(weights: WeightsFile) -> BackboneConfig:
    """Find the network that weights belong to.

    Names and shapes show depth and width, the classes, the channels of images, a ResNet's small
    stem, attention, and kernel or reduction of each stage. They do not show MobileNetV2's small
    stem, blur pooling, se_var1 and where aa is: name a network with these yourself.

    Args:
        weights: The weights. A few may be missing or in excess: that is for
            `eca_lightning.weights.match.match_weights` to report.

    Raises:
        ValueError: If the network is none of this package, or its attention cannot be told.
    """
    shapes = {key: value.shape for key, value in weights.tensors.items()}
    trunk = _trunk(shapes).items()
    name = min(BACKBONE_NAMES, key=lambda name: len(_trunk(_plain(name)).items() ^ trunk))
    shared = len(_trunk(_plain(name)).items() & trunk)
    if 2 * shared < len(trunk):
        raise ValueError(
            f"{weights.path} is of no network of this package ({', '.join(islice(shapes, 3))}, ...)"
            f": the nearest, {name}, has {shared} of its {len(trunk)} tensors. Give weights of "
            f"{', '.join(BACKBONE_NAMES)}"
        )
    settings: dict[str, Any] = {}
    for key, shape in shapes.items():
        if is_classifier(key):
            settings["num_classes"] = shape[0]
        elif key in _FIRST and len(shape) == 4:
            settings["in_channels"] = shape[1]
            if _plain(name)[key][2] == 7 and shape[2] == 3:
                settings["stem"] = "small"
    choice = _attention(name, shapes)
    if choice is None:
        raise ValueError(
            f"{weights.path} is of a {name}, and its attention cannot be told from the weights: "
            "give the network that they are of as --backbone"
        )
    return BackboneConfig(name, *choice, **settings)


@cache
def _plain(name: str) -> Shapes:
    return _shapes(name)


def _shapes(name: str, attention: str | None = None, options: Any = None) -> Shapes:
    with torch.device("meta"):
        state = create_backbone(name, attention, options).state_dict()
    return {key: value.shape for key, value in state.items()}


def _trunk(shapes: Shapes) -> Shapes:
    """Leave out what classes, images and attention change, and what old files have not."""
    return {
        key: shape
        for key, shape in shapes.items()
        if not (is_classifier(key) or is_counter(key) or key in _FIRST or ".attention." in key)
    }


def _attention(name: str, shapes: Shapes) -> Choice | None:
    """Choose the plainest attention with these shapes; None if there is none."""
    attended = {key: shape for key, shape in shapes.items() if ".attention." in key}
    if not attended:
        return (None, {})
    families = _families(name, attended)
    for attention, options in families or [(other, {}) for other in ATTENTION_NAMES]:
        try:
            ours = _shapes(name, attention, options)
        except ValueError:  # it does not fit this network
            continue
        if attended == {key: shape for key, shape in ours.items() if ".attention." in key}:
            return attention, options
    return families[-1] if families else None


def _families(name: str, attended: Shapes) -> list[Choice]:
    """List the options of ECA, ECA-NS or SE that the shapes may stand for, the plainest first."""
    stages = stages_of_blocks(name)
    first: dict[str, dict[int, Size]] = {}  # of each stage, by the parameter's name in attention
    for key, shape in attended.items():
        block, parameter = key.split(".attention.")
        if block in stages:
            first.setdefault(parameter, {}).setdefault(stages[block], shape)
    count = max(stages.values()) + 1

    def spellings(
        attention: str, option: str, values: dict[int, int], **others: Any
    ) -> list[Choice]:
        each = [values.get(stage, next(iter(values.values()))) for stage in range(count)]
        return [(attention, {**o, **others}) for o in ({}, {option: each[0]}, {option: each})]

    if first.keys() == {"conv.weight"} and all(s[0] == 1 for s in first["conv.weight"].values()):
        return spellings("eca", "kernel", {i: s[-1] for i, s in first["conv.weight"].items()})
    if first.keys() == {"weight"}:
        return spellings("eca_ns", "kernel", {i: s[-1] for i, s in first["weight"].items()})
    if {"fc1.weight", "fc2.weight"} <= first.keys():
        reductions = {i: s[1] // s[0] for i, s in first["fc1.weight"].items()}
        bias = {"bias": True} if "fc1.bias" in first else {}
        return spellings("se", "reduction", reductions, **bias)
    return []
