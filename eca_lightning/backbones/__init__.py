"""torchvision's networks with attention plugged in where the papers put it."""

from eca_lightning.backbones.factory import BACKBONE_NAMES, BackboneConfig, create_backbone

__all__ = ["BACKBONE_NAMES", "BackboneConfig", "create_backbone"]
