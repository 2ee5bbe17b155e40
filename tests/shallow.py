"""ResNets of a few narrow blocks: all that deeper and wider networks repeat.

Their names as backbones are ``shallow.basic_blocks``, ``shallow.bottlenecks`` and
``shallow.grouped_bottlenecks``.
"""

from functools import partial

from eca_lightning.backbones.blocks import AttentionBasicBlock, AttentionBottleneck
from eca_lightning.backbones.resnet import imagenet_resnet

basic_blocks = partial(imagenet_resnet, AttentionBasicBlock, (1, 1, 1, 1), width=16)
"""ResNet-18, with a quarter of its channels."""

bottlenecks = partial(imagenet_resnet, AttentionBottleneck, (2, 1, 1, 1), width=16)
"""ResNet-50, with a quarter of its channels."""

grouped_bottlenecks = partial(bottlenecks, groups=8, width_per_group=16)
"""ResNeXt-50, with a quarter of its groups."""
