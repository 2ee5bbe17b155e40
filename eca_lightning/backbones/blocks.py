"""torchvision's residual blocks with a slot for attention.

The slot holds ``nn.Identity`` until a mechanism is plugged in, and the arithmetic around it is
torchvision's, so that an empty slot changes neither the state dict nor a single bit of the output.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import StochasticDepth

from eca_lightning.attention.fused.tail import FusedTail

Site = Literal["branch", "output", "convolution"]
"""Where a mechanism works: on the residual branch, before the sum (ECA, SE, ...); on the block's
output, after the sum (non-local blocks); or in place of the block's 3x3 convolution (AA)."""


class AttentionBasicBlock(BasicBlock):
    """ResNet-18/34's block; attention follows ``bn2``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.out_channels: int = self.conv2.out_channels
        self.attention: nn.Module = nn.Identity()
        self.attention_site: Site = "branch"
        self.stochastic_depth: nn.Module = nn.Identity()
        self.fused_tail: FusedTail | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.conv2(branch)
        identity = x if self.downsample is None else self.downsample(x)
        return _tail(self, branch, self.bn2, identity)


class AttentionBottleneck(Bottleneck):
    """ResNet-50/101/152's, ResNeXt's and Wide ResNet's block; attention follows ``bn3``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.out_channels: int = self.conv3.out_channels
        self.attention: nn.Module = nn.Identity()
        self.attention_site: Site = "branch"
        self.stochastic_depth: nn.Module = nn.Identity()
        self.fused_tail: FusedTail | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.conv3(branch)
        identity = x if self.downsample is None else self.downsample(x)
        return _tail(self, branch, self.bn3, identity)


class AttentionInvertedResidual(InvertedResidual):
    """MobileNetV2's block; attention follows the batch norm of the linear projection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attention: nn.Module = nn.Identity()
        self.attention_site: Site = "branch"
        self.stochastic_depth: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        branch = self.conv(x)
        if self.attention_site == "branch":
            branch = self.attention(branch)
        out = x + self.stochastic_depth(branch) if self.use_res_connect else branch
        return self.attention(out) if self.attention_site == "output" else out


AttentionBlock = AttentionBasicBlock | AttentionBottleneck | AttentionInvertedResidual


def _tail(
    block: AttentionBasicBlock | AttentionBottleneck,
    branch: Tensor,
    norm: nn.Module,
    identity: Tensor,
) -> Tensor:
    """Finish a block after its last convolution: batch norm, attention, residual sum and ReLU."""
    if block.fused_tail is not None:
        return block.fused_tail(branch, identity, norm, block.attention, block.relu)
    branch = norm(branch)
    if block.attention_site == "branch":
        branch = block.attention(branch)
    branch = block.stochastic_depth(branch)
    branch += identity  # in place, as torchvision's: no second activation is allocated
    out = block.relu(branch)
    return block.attention(out) if block.attention_site == "output" else out


def add_stochastic_depth(blocks: Sequence[AttentionBlock], rate: float) -> None:
    """Let blocks drop their residual branches at random in training, sample by sample, in place.

    Deep Networks with Stochastic Depth (Huang et al., arXiv 1603.09382): the chance rises linearly,
    here from 0 at the first block to the rate at the last, as in timm. Branches that are kept are
    scaled up, so that their mean stays. Fused tails give way to plain ones.

    Args:
        blocks: All blocks of the network in forward order.
        rate: Chance of the last block, from 0 and below 1.

    Raises:
        ValueError: If the rate is out of range.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"stochastic_depth must be at least 0 and below 1, got {rate}")
    for number, block in enumerate(blocks):
        chance = rate * number / max(1, len(blocks) - 1)
        if chance > 0:
            block.stochastic_depth = StochasticDepth(chance, "row")
            if not isinstance(block, AttentionInvertedResidual):
                block.fused_tail = None


def describe_tails(network: nn.Module) -> str:
    """Say in one line how the blocks of a network join attention, residual sum and ReLU."""
    blocks = [m for m in network.modules() if isinstance(m, AttentionBlock)]
    fused = sum(isinstance(m, FusedTail) for m in network.modules())
    return f"block tails: {fused} of {len(blocks)} fused"
