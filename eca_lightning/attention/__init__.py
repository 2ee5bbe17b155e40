"""Attention mechanisms, one a file; they know tensors only."""

from importlib import import_module
from pkgutil import iter_modules

from eca_lightning.attention.base import *  # noqa: F403

for _module in iter_modules(__path__):  # noqa: F405  each file registers its mechanisms
    import_module(f"{__name__}.{_module.name}")
