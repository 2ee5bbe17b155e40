"""Non-local block, embedded Gaussian form.

Non-local Neural Networks. Xiaolong Wang, Ross Girshick, Abhinav Gupta, Kaiming He. CVPR 2018,
arXiv 1711.07971.

As in the authors' code, and not in Eq. 4, the similarities are divided by the square root of the
inner width. The keys are not sub-sampled.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from eca_lightning.attention.base import Attention, Placement, register_attention, second_to_last


@register_attention("nl")
class NonLocal(Attention):
    """NL: add to each position a mean of all positions, weighted by their similarity (Eq. 6).

    It follows the second-to-last block of C4. The scale of the last batch norm is zero when
    initialized, so the block starts as the identity (section 4.1).

    Args:
        channels: Number of channels, C; the inner width is half of it.
    """

    placement = Placement("output", {4: second_to_last})
    gate_layers = ()

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.w_z = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W); dtype and memory format are kept."""
        # The fused kernels require the dimension of heads.
        query, key, value = (
            embed(x).flatten(2).transpose(1, 2).unsqueeze(1)
            for embed in (self.theta, self.phi, self.g)
        )
        y = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        y = y.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.bn(self.w_z(y)).to(x.dtype)
