"""ResNets of a few narrow blocks: all that deeper and wider networks repeat.

Their names as backbones are ``shallow.basic_blocks``, ``shallow.bottlenecks``, and so on.
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


def blurred(*arguments, **options) -> Network:
    """timm's forms t and blur: a deep stem, averaging shortcuts, blur in place of strides."""
    forms = {"deep_stem": (6, 8, 16), "average_shortcuts": True, "pooling": "blur"}
    return bottlenecks(*arguments, **forms, **options)


def averaged(*arguments, **options) -> Network:
    """timm's forms s and aa: a wide deep stem, averages in place of strides."""
    forms = {"deep_stem": (16, 16, 32), "pooling": "average"}
    return basic_blocks(*arguments, **forms, **options)


def convolved(*arguments, **options) -> Network:
    """timm's form rs: a fourth convolution in the stem."""
    return bottlenecks(*arguments, deep_stem=(8, 8, 16), pooling="convolution", **options)
