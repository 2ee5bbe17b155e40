"""ResNets with slots for attention: torchvision's, and He et al.'s for small images."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from eca_lightning.backbones.blocks import AttentionBasicBlock, AttentionBottleneck
from eca_lightning.backbones.network import Layout, Network, Slot, Stem, register_backbone

Block = type[AttentionBasicBlock] | type[AttentionBottleneck]


def imagenet_resnet(
    block: Block,
    layers: Sequence[int],
    num_classes: int,
    in_channels: int,
    stem: Stem | None,
    groups: int = 1,
    width_per_group: int = 64,
    width: int = 64,
) -> Network:
    """Build a ResNet, ResNeXt or Wide ResNet (arXiv 1512.03385, 1611.05431, 1605.07146).

    Args:
        block: Type of the residual blocks.
        layers: Number of blocks of each of the four stages.
        num_classes: Width of the classifier.
        in_channels: Channels of the images.
        stem: ``small`` is a 3x3 convolution of stride 1 without max-pooling in place of the 7x7 one
            of stride 2 with max-pooling, for images of 28 to 64 pixels.
        groups: Groups of the 3x3 convolutions.
        width_per_group: Width of a group in the first stage.
        width: Channels of the stem and the first stage; they double with each further stage.
    """
    network = ResNet(
        block, list(layers), num_classes, groups=groups, width_per_group=width_per_group
    )
    if width != 64:
        _change_width(network, block, layers, num_classes, width)
    if stem == "small":
        network.conv1 = _convolution(in_channels, width, kernel_size=3, stride=1)
        network.maxpool = nn.Identity()
    elif (in_channels, width) != (3, 64):
        network.conv1 = _convolution(in_channels, width, kernel_size=7, stride=2)
    stages = ("layer1", "layer2", "layer3", "layer4")
    layout = Layout("conv1", ("maxpool", *stages), "fc")
    return Network(network, _slots(network, stages, first_level=2), layout)


def _change_width(
    network: ResNet, block: Block, layers: Sequence[int], num_classes: int, width: int
) -> None:
    """Replace all that follows the first convolution, as torchvision's widths are fixed."""
    network.inplanes = width
    network.bn1 = nn.BatchNorm2d(width)
    for stage, blocks in enumerate(layers):
        made = network._make_layer(block, width << stage, blocks, stride=2 if stage else 1)
        _initialize(made)
        setattr(network, f"layer{stage + 1}", made)
    network.fc = nn.Linear(network.inplanes, num_classes)


_VARIANTS: dict[str, tuple[Block, Sequence[int], dict[str, Any]]] = {
    # Small enough to learn a small data set from scratch in minutes.
    "resnet10_half": (AttentionBasicBlock, (1, 1, 1, 1), {"width": 32}),
    "resnet18": (AttentionBasicBlock, (2, 2, 2, 2), {}),
    "resnet34": (AttentionBasicBlock, (3, 4, 6, 3), {}),
    "resnet50": (AttentionBottleneck, (3, 4, 6, 3), {}),
    "resnet101": (AttentionBottleneck, (3, 4, 23, 3), {}),
    "resnet152": (AttentionBottleneck, (3, 8, 36, 3), {}),
    "resnext50_32x4d": (AttentionBottleneck, (3, 4, 6, 3), {"groups": 32, "width_per_group": 4}),
    "resnext101_32x8d": (AttentionBottleneck, (3, 4, 23, 3), {"groups": 32, "width_per_group": 8}),
    "wide_resnet50_2": (AttentionBottleneck, (3, 4, 6, 3), {"width_per_group": 128}),
}
for _name, (_block, _layers, _options) in _VARIANTS.items():
    register_backbone(_name)(partial(imagenet_resnet, _block, _layers, **_options))


class CifarResNet(nn.Module):
    """The 6n+2-layer ResNet for images of about 32 pixels (arXiv 1512.03385, section 4.2).

    Three stages of n basic blocks with 16, 32 and 64 channels at strides 1, 2 and 4. Shortcuts that
    change shape are 1x1 convolutions, as in torchvision, where He et al. pad with zeros: 272,474
    parameters for 20 layers and 10 classes against their 269,722.
    """

    def __init__(self, blocks: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, 16, kernel_size=3, stride=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def cifar_resnet(blocks: int, num_classes: int, in_channels: int, stem: Stem | None) -> Network:
    """Build a `CifarResNet`; its stages count as levels C3 to C5, a ResNet's last three.

    Raises:
        ValueError: If ``stem`` is ``imagenet``.
    """
    if stem == "imagenet":
        raise ValueError(
            f"resnet{6 * blocks + 2} is made for small images: leave stem out, or set stem: small"
        )
    network = CifarResNet(blocks, num_classes, in_channels)
    stages = ("layer1", "layer2", "layer3")
    layout = Layout("conv1", ("relu", *stages), "fc")
    return Network(network, _slots(network, stages, first_level=3), layout)


register_backbone("resnet20")(partial(cifar_resnet, 3))
register_backbone("resnet56")(partial(cifar_resnet, 9))


def _slots(network: nn.Module, stages: Sequence[str], first_level: int) -> list[Slot]:
    named: list[Any] = [network.get_submodule(stage) for stage in stages]
    return [
        Slot(block, stage, first_level + stage)
        for stage, blocks in enumerate(named)
        for block in blocks
    ]


def _stage(inplanes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    downsample = None
    if stride != 1 or inplanes != planes:
        downsample = nn.Sequential(
            nn.Conv2d(inplanes, planes, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(planes),
        )
    first = AttentionBasicBlock(inplanes, planes, stride, downsample)
    return nn.Sequential(first, *(AttentionBasicBlock(planes, planes) for _ in range(1, blocks)))


def _convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
    )
    _initialize(conv)
    return conv


def _initialize(network: nn.Module) -> None:
    """Draw the weights of convolutions as torchvision does for its ResNets."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
