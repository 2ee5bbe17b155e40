"""The stages of a network, and their maps for other people's heads."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.mobilenetv2 import MobileNetV2

_MOBILENET_V2_STAGES = ("1", "3", "6", "13", "18")


class FeaturePyramid(IntermediateLayerGetter):
    """The maps at the end of a network's stages, finest first.

    It maps (N, in_channels, H, W) to an OrderedDict with the keys "0", "1" and so on, as
    torchvision's pyramids name their levels. Their strides are 4, 8, 16 and 32; 1, 2, 4 and 8 with
    the small stem; 1, 2 and 4 in resnet20 and resnet56. The state dict has the keys of the
    classification network but the classifier's, and MobileNetV2's without their ``features.``.

    Args:
        network: A classification network of `create_backbone`, which gives its modules away.

    Attributes:
        out_channels: Channels of the maps; what torchvision's ``FeaturePyramidNetwork`` calls
            ``in_channels_list``.
    """

    def __init__(self, network: nn.Module) -> None:
        body, stages = body_and_stages(network)
        super().__init__(body, {stage: str(level) for level, stage in enumerate(stages[1:])})
        self.out_channels = [stage_channels(self[stage]) for stage in stages[1:]]


def body_and_stages(network: nn.Module) -> tuple[nn.Module, Sequence[str]]:
    """The features of a network, and the names of its children that end its stages, stem first.

    MobileNetV2 ends them with the last blocks at strides 4, 8 and 16 and its last convolution.
    """
    if isinstance(network, MobileNetV2):
        return network.features, _MOBILENET_V2_STAGES
    names = [name for name, _ in network.named_children()]
    stem = names[names.index("layer1") - 1]
    return network, [stem, *(name for name in names if name.startswith("layer"))]


def stage_channels(stage: Any) -> int:
    """Channels of the map that a stage ends with, which is one block or several."""
    return stage.out_channels if hasattr(stage, "out_channels") else stage[-1].out_channels
