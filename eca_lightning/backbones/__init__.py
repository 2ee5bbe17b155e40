"""torchvision's networks with attention plugged in where the papers put it."""

from eca_lightning.backbones import mobilenet_v2, resnet_names  # noqa: F401  they register networks
from eca_lightning.backbones.factory import BackboneConfig, create_backbone
from eca_lightning.backbones.network import Layout, Network, Slot, backbone_names, register_backbone

__all__ = ["BackboneConfig", "Layout", "Network", "Slot"]
__all__ += ["backbone_names", "create_backbone", "register_backbone"]
