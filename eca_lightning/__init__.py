"""ECA-Nets (Efficient Channel Attention, arXiv 1910.03151) and their rivals, on Lightning."""

from eca_lightning.backbones import create_backbone

__all__ = ["create_backbone"]
