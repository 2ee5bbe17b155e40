"""torchvision's residual blocks with a slot for attention.

The slot holds ``nn.Identity`` until a mechanism is plugged in, and the arithmetic around it is
torchvision's, so that an empty slot changes neither the state dict nor a single bit of the output.
"""

from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

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

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        identity = x if self.downsample is None else self.downsample(x)
        return _tail(self, branch, identity)


class AttentionBottleneck(Bottleneck):
    """ResNet-50/101/152's, ResNeXt's and Wide ResNet's block; attention follows ``bn3``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.out_channels: int = self.conv3.out_channels
        self.attention: nn.Module = nn.Identity()
        self.attention_site: Site = "branch"

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        identity = x if self.downsample is None else self.downsample(x)
        return _tail(self, branch, identity)


class AttentionInvertedResidual(InvertedResidual):
    """MobileNetV2's block; attention follows the batch norm of the linear projection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attention: nn.Module = nn.Identity()
        self.attention_site: Site = "branch"

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        branch = self.conv(x)
        if self.attention_site == "branch":
            branch = self.attention(branch)
        out = x + branch if self.use_res_connect else branch
        return self.attention(out) if self.attention_site == "output" else out


AttentionBlock = AttentionBasicBlock | AttentionBottleneck | AttentionInvertedResidual


def _tail(
    block: AttentionBasicBlock | AttentionBottleneck, branch: Tensor, identity: Tensor
) -> Tensor:
    """Finish a block after its last batch norm: attention, residual sum and ReLU."""
    if block.attention_site == "branch":
        branch = block.attention(branch)
    branch += identity  # in place, as torchvision's: no second activation is allocated
    out = block.relu(branch)
    return block.attention(out) if block.attention_site == "output" else out
