"""ECA-Nets (Efficient Channel Attention, arXiv 1910.03151) and their rivals, on Lightning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eca_lightning.backbones import create_backbone

__all__ = ["create_backbone"]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, which `eca-lightning --help` should not.
    if name in __all__:
        from eca_lightning import backbones

        return getattr(backbones, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
