"""What a backbone family states about its networks, and the registry of networks by name.

A family is one file with a function that builds a `Network`. Features, detectors, Grad-CAM, weights
of other projects and attention take hold of a network by the names in its layout alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from eca_lightning.backbones.blocks import AttentionSlot
from eca_lightning.utils.checks import require_known

Stem = Literal["imagenet", "small"]


@dataclass(frozen=True)
class Layout:
    """Names of the parts of a classification network.

    Attributes:
        stem: The convolution that sees the image, such as "conv1".
        stages: The modules within `body` that end the stem and each stage, such as "layer1".
        classifier: The module that holds the last layer, such as "fc".
        body: The module that holds the stages; "" is the network itself.
    """

    stem: str
    stages: tuple[str, ...]
    classifier: str
    body: str = ""

    def is_classifier(self, key: str) -> bool:
        """Whether a weight belongs to the classifier."""
        return key.startswith(f"{self.classifier}.")

    def of_body(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of the body under its own names, without the classifier's."""
        prefix = f"{self.body}." if self.body else ""
        return {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if not self.is_classifier(key)
        }


class Slot(NamedTuple):
    """One block of a network, with the index of its stage and its feature level."""

    block: AttentionSlot
    stage: int
    level: int


class Network(NamedTuple):
    """A network, all of its blocks in forward order, and the names of its parts."""

    module: nn.Module
    slots: list[Slot]
    layout: Layout


Builder = Callable[[int, int, Stem | None], Network]
"""Builds a network for a number of classes and of image channels, with a stem."""

Shapes = Mapping[str, torch.Size]


@dataclass(frozen=True)
class Family:
    """Networks of which there are too many to list.

    Attributes:
        find: Returns the builder of a network by its name, None if it is of no such network.
        read_name: Returns the name of the network that shapes of weights are of, as far as they
            show it, None if they are of no such network. Some weights may be missing.
    """

    find: Callable[[str], Builder | None]
    read_name: Callable[[Shapes], str | None]


_REGISTRY: dict[str, Builder] = {}
_FAMILIES: list[Family] = []


def register_backbone(name: str) -> Callable[[Builder], Builder]:
    """Register a function that builds a network under a name, as a decorator."""
    if name in _REGISTRY:
        raise ValueError(f"backbone '{name}' is registered already: choose another name")
    return lambda builder: _REGISTRY.setdefault(name, builder)


def register_family(family: Family, *listed: str) -> None:
    """Register a family, of which some names are to be listed."""
    _FAMILIES.append(family)
    for name in listed:
        if builder := family.find(name):
            register_backbone(name)(builder)


def backbone_names() -> tuple[str, ...]:
    """List the registered networks; families have more, see `find_backbone`."""
    return tuple(_REGISTRY)


def find_backbone(name: str) -> Builder | None:
    """Return the builder of a registered network or one of a family; None if there is none."""
    of_families = (family.find(name) for family in _FAMILIES)
    return _REGISTRY.get(name) or next((found for found in of_families if found), None)


def candidates(shapes: Shapes) -> list[str]:
    """List the networks that weights may be of: all that are listed, and one a family."""
    read = (family.read_name(shapes) for family in _FAMILIES)
    return list(dict.fromkeys([*_REGISTRY, *(name for name in read if name)]))


def build_network(name: str, num_classes: int, in_channels: int, stem: Stem | None) -> Network:
    """Build a network without attention.

    Args:
        name: A registered name, or the dotted path of a function that builds a `Network`.
        num_classes: Width of the classifier.
        in_channels: Channels of the images.
        stem: ``small`` for images of 28 to 64 pixels, ``imagenet`` for larger ones. Default: the
            network's own.

    Raises:
        ValueError: If the name is unknown, or the network does not have the stem.
    """
    if "." in name:
        module, _, function = name.rpartition(".")
        try:
            builder = getattr(import_module(module), function)
        except (ModuleNotFoundError, AttributeError) as error:
            raise ValueError(
                f"backbone '{name}': {error}; install the package, or set PYTHONPATH to its folder"
            ) from error
    else:
        found = find_backbone(name)
        if found is None:
            require_known(name, _REGISTRY, "backbone")
        builder = found
    network = builder(num_classes, in_channels, stem)
    network.module.layout = network.layout
    return network


def layout_of(network: Any) -> Layout:
    """Return the layout of a network of `create_backbone`."""
    return network.layout


class Outline(NamedTuple):
    """The layout of a network, the shapes of its weights, and the stage of each block."""

    layout: Layout
    shapes: dict[str, torch.Size]
    stages: dict[str, int]


@cache
def outline(name: str) -> Outline:
    """Describe a plain network by name, without allocating it."""
    with torch.device("meta"):
        module, slots, layout = build_network(name, 1000, 3, None)
    names = {child: key for key, child in module.named_modules()}
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    return Outline(layout, shapes, {names[slot.block]: slot.stage for slot in slots})
