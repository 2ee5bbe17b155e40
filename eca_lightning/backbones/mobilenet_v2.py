"""torchvision's MobileNetV2 (arXiv 1801.04381) with slots for attention."""

from typing import Any

from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2

from eca_lightning.backbones.blocks import AttentionInvertedResidual
from eca_lightning.backbones.network import Layout, Network, Slot, Stem, register_backbone

_ROWS = (  # expansion, channels, blocks, stride, feature level (log2 of the stride so far)
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 2),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 4),
    (6, 96, 3, 1, 4),
    (6, 160, 3, 2, 5),
    (6, 320, 1, 1, 5),
)


# The last blocks at strides 2, 4, 8 and 16, and the last convolution.
_LAYOUT = Layout("features.0.0", ("1", "3", "6", "13", "18"), "classifier", body="features")


@register_backbone("mobilenet_v2")
def mobilenet_v2(num_classes: int, in_channels: int, stem: Stem | None) -> Network:
    """Build MobileNetV2; its seven rows of blocks (table 2 of its paper) are its stages.

    Args:
        num_classes: Width of the classifier.
        in_channels: Channels of the images.
        stem: ``small`` has stride 1 instead of 2 in the first convolution and in the second row,
            for images of 28 to 64 pixels.
    """
    small = stem == "small"
    setting = [[t, c, n, s] for t, c, n, s, _ in _ROWS]
    if small:
        setting[1][3] = 1
    network = MobileNetV2(
        num_classes, inverted_residual_setting=setting, block=AttentionInvertedResidual
    )
    if small or in_channels != 3:
        conv = nn.Conv2d(in_channels, 32, 3, stride=1 if small else 2, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        network.features[0][0] = conv
    blocks: Any = iter(network.features[1:-1])
    slots = [
        Slot(next(blocks), stage, row[4]) for stage, row in enumerate(_ROWS) for _ in range(row[2])
    ]
    return Network(network, slots, _LAYOUT)
