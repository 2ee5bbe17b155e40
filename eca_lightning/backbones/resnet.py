"""ResNets with slots for attention: torchvision's and timm's, and He et al.'s for small images."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from eca_lightning.backbones.blocks import AttentionBasicBlock, AttentionBottleneck
from eca_lightning.backbones.blur_pool import BlurPool2d
from eca_lightning.backbones.network import Layout, Network, Slot, Stem, register_backbone

Pooling = Literal["max", "convolution", "average", "blur"]
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
    deep_stem: tuple[int, int, int] | None = None,
    average_shortcuts: bool = False,
    pooling: Pooling = "max",
) -> Network:
    """Build a ResNet, ResNeXt or Wide ResNet (arXiv 1512.03385, 1611.05431, 1605.07146).

    Args:
        block: Type of the residual blocks.
        layers: Number of blocks of each of the four stages.
        num_classes: Width of the classifier.
        in_channels: Channels of the images.
        stem: ``small``, for images of 28 to 64 pixels, has stride 1 and no max-pooling; a single
            convolution has 3x3 instead of 7x7 weights then.
        groups: Groups of the 3x3 convolutions.
        width_per_group: Width of a group in the first stage.
        width: Channels of the stem and the first stage; they double with each further stage.
        deep_stem: Channels of three 3x3 convolutions in place of the stem's one (Bag of tricks,
            arXiv 1812.01187, ResNet-C).
        average_shortcuts: Let shortcuts average where they stride (Bag of tricks, ResNet-D).
        pooling: What ends the stem: max-pooling or a convolution (ResNet-RS, arXiv 2103.07579) of
            stride 2; or, there and in place of the blocks' strides, averages of 2x2 or blur (arXiv
            1904.11486, as in timm).
    """
    last = deep_stem[-1] if deep_stem else width
    changed = (width, last) != (64, 64)
    network = ResNet(
        block,
        [1] * len(layers) if changed else list(layers),
        num_classes,
        groups=groups,
        width_per_group=width_per_group,
    )
    if changed:
        _change_width(network, block, layers, num_classes, width, last)
    if deep_stem:
        network.conv1 = _deep_stem(in_channels, deep_stem, 1 if stem == "small" else 2)
    elif stem == "small":
        network.conv1 = _convolution(in_channels, width, kernel_size=3, stride=1)
    elif (in_channels, width) != (3, 64):
        network.conv1 = _convolution(in_channels, width, kernel_size=7, stride=2)
    stages = ("layer1", "layer2", "layer3", "layer4")
    slots = _slots(network, stages, first_level=2)
    if pooling != "max":
        _pool_by(network, slots, pooling, last)
    if stem == "small":
        network.maxpool = nn.Identity()
    if average_shortcuts:
        _average_shortcuts(slots)
    layout = Layout("conv1.0" if deep_stem else "conv1", ("maxpool", *stages), "fc")
    return Network(network, slots, layout)


def _change_width(
    network: ResNet, block: Block, layers: Sequence[int], num_classes: int, width: int, stem: int
) -> None:
    """Replace all that follows the first convolution, as torchvision's widths are fixed."""
    network.inplanes = stem
    network.bn1 = nn.BatchNorm2d(stem)
    for stage, blocks in enumerate(layers):
        made = network._make_layer(block, width << stage, blocks, stride=2 if stage else 1)
        _initialize(made)
        setattr(network, f"layer{stage + 1}", made)
    network.fc = nn.Linear(network.inplanes, num_classes)


def _deep_stem(in_channels: int, widths: tuple[int, int, int], stride: int) -> nn.Sequential:
    """Build three convolutions with two norms between them; the third's is the network's own."""
    first, second, third = widths
    return nn.Sequential(
        _convolution(in_channels, first, kernel_size=3, stride=stride),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        _convolution(first, second, kernel_size=3, stride=1),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
        _convolution(second, third, kernel_size=3, stride=1),
    )


def _average_shortcuts(slots: Sequence[Slot]) -> None:
    """Average in place of the strides of shortcuts' convolutions."""
    blocks: list[Any] = [slot.block for slot in slots]
    for block in blocks:
        if block.downsample is None:
            continue
        conv, norm = block.downsample
        stride, conv.stride = conv.stride[0], (1, 1)
        average = _average() if stride > 1 else nn.Identity()
        block.downsample = nn.Sequential(average, conv, norm)


def _average() -> nn.Module:
    """Average 2x2 positions, and at an odd border what there is, as strides end there."""
    return nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)


def _pool_by(network: ResNet, slots: Sequence[Slot], pooling: Pooling, channels: int) -> None:
    """Replace the max-pooling and, but for a convolution there, the strides of blocks."""
    if pooling == "convolution":
        network.maxpool = nn.Sequential(
            _convolution(channels, channels, kernel_size=3, stride=2),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        return
    blurs = pooling == "blur"
    dense_maximum = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    network.maxpool = (
        nn.Sequential(dense_maximum, BlurPool2d(channels)) if blurs else nn.AvgPool2d(2)
    )
    for slot in slots:
        block: Any = slot.block
        conv = block.get_submodule(block.strided)
        if conv.stride[0] > 1:
            block.pool_instead_of_stride(BlurPool2d(conv.out_channels) if blurs else _average())


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
