"""Residual blocks with a slot for attention.

The slot holds ``nn.Identity`` until a mechanism is plugged in, and the arithmetic around it is
torchvision's, so that an empty slot changes neither the state dict nor a single bit of the output.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import StochasticDepth

from eca_lightning.attention.base import Site
from eca_lightning.attention.fused.tail import FusedTail


class AttentionSlot(nn.Module):
    """Mixin of residual blocks that attention can be plugged into; it goes first among the bases.

    A block defines `last_norm`, and its forward ends with `join`.

    Attributes:
        out_channels: Channels of the block's output. Default: those of `last_norm`.
        attention, attention_site: The mechanism, and where in the block it works.
        stochastic_depth: The module that drops the residual branch in training.
        fused_tail: The module that computes the tail in fewer passes, if any.
        supports_fused: Whether the block's forward calls `fused_tail`.
        conv3x3: Name of the 3x3 convolution that the site "convolution" replaces, if there is one.
    """

    supports_fused: ClassVar[bool] = False
    conv3x3: ClassVar[str | None] = None

    out_channels: int
    attention_site: Site
    fused_tail: FusedTail | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not hasattr(self, "out_channels"):
            self.out_channels = self.last_norm.num_features
        self.attention: nn.Module = nn.Identity()
        self.attention_site = "branch"
        self.stochastic_depth: nn.Module = nn.Identity()
        self.fused_tail = None

    @property
    @abstractmethod
    def last_norm(self) -> Any:
        """The batch norm at the end of the residual branch, which attention on it follows."""

    def join(
        self,
        branch: Tensor,
        identity: Tensor | None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Finish the block after `last_norm`: attention, residual sum and activation, if any.

        ``branch``, (N, C, H, W), is overwritten; ``identity`` is None without a shortcut.
        """
        if self.attention_site == "branch":
            branch = self.attention(branch)
        if identity is not None:
            branch = self.stochastic_depth(branch)
            branch += identity  # in place, as in torchvision: no second activation is allocated
        out = branch if activation is None else activation(branch)
        return self.attention(out) if self.attention_site == "output" else out


class _ResidualBlock(AttentionSlot):
    """What torchvision's two residual blocks share."""

    supports_fused = True
    conv3x3 = "conv2"
    strided: ClassVar[str]

    conv1: Any  # torchvision has no types
    bn1: Any
    conv2: Any
    bn2: Any
    relu: Any
    downsample: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.anti_aliasing: nn.Module = nn.Identity()

    def pool_instead_of_stride(self, pool: nn.Module) -> None:
        """Let a module that lowers the resolution follow the strided convolution's activation."""
        conv: Any = self.get_submodule(self.strided)
        conv.stride = (1, 1)
        self.anti_aliasing = pool

    def tail(self, branch: Tensor, x: Tensor) -> Tensor:
        """Finish the block after its last convolution; ``x`` is the block's input."""
        identity = x if self.downsample is None else self.downsample(x)
        if self.fused_tail is not None:
            return self.fused_tail(branch, identity, self.last_norm, self.attention, self.relu)
        return self.join(self.last_norm(branch), identity, self.relu)


class AttentionBasicBlock(_ResidualBlock, BasicBlock):
    """ResNet-18/34's block; attention follows ``bn2``."""

    strided = "conv1"

    @property
    def last_norm(self) -> Any:
        """See `AttentionSlot.last_norm`."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        branch = self.anti_aliasing(self.relu(self.bn1(self.conv1(x))))
        return self.tail(self.conv2(branch), x)


class AttentionBottleneck(_ResidualBlock, Bottleneck):
    """ResNet-50/101/152's, ResNeXt's and Wide ResNet's block; attention follows ``bn3``."""

    strided = "conv2"

    conv3: Any
    bn3: Any

    @property
    def last_norm(self) -> Any:
        """See `AttentionSlot.last_norm`."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.anti_aliasing(self.relu(self.bn2(self.conv2(branch))))
        return self.tail(self.conv3(branch), x)


class AttentionInvertedResidual(AttentionSlot, InvertedResidual):
    """MobileNetV2's block; attention follows the batch norm of the linear projection."""

    conv: Any

    @property
    def last_norm(self) -> Any:
        """See `AttentionSlot.last_norm`."""
        return self.conv[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        return self.join(self.conv(x), x if self.use_res_connect else None)


def describe_tails(network: nn.Module) -> str:
    """Return one line on how the blocks of a network compute attention, residual sum and ReLU."""
    blocks = [m for m in network.modules() if isinstance(m, AttentionSlot)]
    fused = sum(block.fused_tail is not None for block in blocks)
    return f"block tails: {fused} of {len(blocks)} fused"


def parameter_depths(network: nn.Module) -> dict[str, int]:
    """Return the depth of each parameter: 0 in the stem, 1 and up in the blocks.

    What follows the last block, the classifier for one, is a block deeper.
    """
    blocks = [f"{name}." for name, m in network.named_modules() if isinstance(m, AttentionSlot)]
    depths, seen = {}, 0
    for name, _ in network.named_parameters():
        inside = [depth for depth, block in enumerate(blocks, 1) if name.startswith(block)]
        seen = max(seen, *inside, 0)
        depths[name] = inside[0] if inside else 0 if not seen else len(blocks) + 1
    return depths


def add_stochastic_depth(blocks: Sequence[AttentionSlot], rate: float) -> None:
    """Let blocks drop their residual branches at random in training, sample by sample, in place.

    Deep Networks with Stochastic Depth (Huang et al., arXiv 1603.09382): the probability rises
    linearly from 0 at the first block to the rate at the last, as in timm. No such tail is fused.

    Args:
        blocks: All blocks of the network in forward order.
        rate: Probability of the last block, from 0 and below 1.

    Raises:
        ValueError: If the rate is out of range.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"stochastic_depth must be at least 0 and below 1, got {rate}")
    for number, block in enumerate(blocks):
        probability = rate * number / max(1, len(blocks) - 1)
        if probability > 0:
            block.stochastic_depth = StochasticDepth(probability, "row")
            block.fused_tail = None
