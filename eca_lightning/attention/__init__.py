"""Attention mechanisms, one a file; they know tensors only."""

from importlib import import_module
from pkgutil import iter_modules

from eca_lightning.attention.base import (
    Attention,
    ChannelGate,
    ForeignKey,
    Placement,
    attention_class,
    attention_names,
    create_attention,
    evenly_spaced,
    every,
    register_attention,
    second_to_last,
)

for _module in iter_modules(__path__):  # each file registers its mechanisms
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Attention",
    "ChannelGate",
    "ForeignKey",
    "Placement",
    "attention_class",
    "attention_names",
    "create_attention",
    "evenly_spaced",
    "every",
    "register_attention",
    "second_to_last",
]
