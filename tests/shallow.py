"""ResNets of a few narrow blocks: all that deeper and wider networks repeat.

Their names as backbones are ``shallow.basic_blocks``, ``shallow.bottlenecks`` and
``shallow.grouped_bottlenecks``.
"""

from eca_lightning.backbones.blocks import AttentionBasicBlock, AttentionBottleneck
from eca_lightning.backbones.network import Network
from eca_lightning.backbones.resnet import imagenet_resnet


def basic_blocks(*arguments, **options) -> Network:
    """ResNet-18, with a quarter of its channels."""
    return imagenet_resnet(AttentionBasicBlock, (1, 1, 1, 1), *arguments, width=16, **options)


def bottlenecks(*arguments, **options) -> Network:
    """ResNet-50, with a quarter of its channels."""
    return imagenet_resnet(AttentionBottleneck, (2, 1, 1, 1), *arguments, width=16, **options)


def grouped_bottlenecks(*arguments, **options) -> Network:
    """ResNeXt-50, with a quarter of its groups."""
    return bottlenecks(*arguments, groups=8, width_per_group=16, **options)
