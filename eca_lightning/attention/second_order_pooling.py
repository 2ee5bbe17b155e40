"""Global second-order pooling block, in the channel form of GSoP-Net1.

Global Second-order Pooling Convolutional Networks. Zilin Gao, Jiangtao Xie, Qilong Wang, Peihua Li.
CVPR 2019, arXiv 1811.12006.

The covariance has 128 channels as in the paper, but never more than the input. GSoP-Net1 also drops
the stride of the last stage; that changes the backbone, not the attention, and is left out.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from eca_lightning.attention.base import Attention, Placement, evenly_spaced, register_attention

_COVARIANCE_CHANNELS = 128
_FILTERS_PER_ROW = 4


@register_attention("gsop")
class SecondOrderPooling(Attention):
    """GSoP: gate the channels by a map of the covariance of a reduced input.

    It follows the last block of C3, C4 and C5, as in GSoP-Net1.

    Args:
        channels: Number of channels, C.
    """

    placement = Placement("branch", dict.fromkeys((3, 4, 5), evenly_spaced(1)))
    gate_layers = ("expand",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = min(_COVARIANCE_CHANNELS, channels)
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.row_bn = nn.BatchNorm2d(width)
        self.row_conv = nn.Conv2d(width, _FILTERS_PER_ROW * width, (width, 1), groups=width)
        self.expand = nn.Conv2d(_FILTERS_PER_ROW * width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W); dtype and memory format are kept."""
        y = self.reduce(F.relu(x)).flatten(2)
        y = y - y.mean(dim=2, keepdim=True)
        covariance = y @ y.transpose(1, 2) / y.shape[2]
        rows = self.row_conv(self.row_bn(covariance.unsqueeze(3)))
        return x * self.expand(rows).sigmoid().to(x.dtype)
