"""ECA-Nets (Efficient Channel Attention, arXiv 1910.03151) and their rivals, on Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eca_lightning.backbones import create_backbone
    from eca_lightning.importing import load_classifier

__all__ = ["create_backbone", "load_classifier"]

_HOMES = {
    "create_backbone": "eca_lightning.backbones",
    "load_classifier": "eca_lightning.importing",
}


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, which `eca-lightning --help` should not.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
