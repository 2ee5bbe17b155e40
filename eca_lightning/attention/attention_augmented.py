"""Attention-augmented 3x3 convolution, which replaces a convolution; other mechanisms follow one.

Attention Augmented Convolutional Networks. Irwan Bello, Barret Zoph, Ashish Vaswani,
Jonathon Shlens, Quoc V. Le. ICCV 2019, arXiv 1904.09925.

Relative positions index tables of a fixed length, and larger distances clamp to the last row; the
paper's tables fit one input size. Any size works here, and up to 32 positions an axis the result is
the paper's. No layer has a bias, like the convolutions of a ResNet. With a stride, attention works
on the average-pooled input and its output is not upsampled.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eca_lightning.attention.base import Attention, Placement, every, register_attention

_MIN_KEY_CHANNELS_PER_HEAD = 20


@register_attention("aa")
class AttentionAugmentedConv2d(Attention):
    """AA: a 3x3 convolution some of whose output channels come from self-attention (section 3.2).

    It replaces every 3x3 convolution of C3 to C5 (section 4.2), so it has no identity start.

    Args:
        channels: Number of channels in and out, C.
        stride: Stride of the convolution.
        heads: Number of attention heads.
        kappa: Key channels of all heads as a fraction of C; a head has at least 20.
        upsilon: Value channels of all heads as a fraction of C, rounded to a multiple of ``heads``;
            these many of the output channels come from attention.
        max_distance: Distance along an axis at which relative positions are clamped.

    Raises:
        ValueError: If the value channels leave none to the convolution.
    """

    placement = Placement("convolution", dict.fromkeys((3, 4, 5), every))

    def __init__(
        self,
        channels: int,
        stride: int = 1,
        heads: int = 8,
        kappa: float = 0.2,
        upsilon: float = 0.1,
        max_distance: int = 31,
    ) -> None:
        super().__init__()
        key = max(_MIN_KEY_CHANNELS_PER_HEAD, round(kappa * channels / heads))
        value = max(1, round(upsilon * channels / heads))
        if heads * value >= channels:
            raise ValueError(
                f"attention 'aa' takes {heads * value} of {channels} channels and leaves none to "
                "the convolution: use more channels, fewer heads or a smaller upsilon"
            )
        self.stride, self.heads, self.max_distance = stride, heads, max_distance
        self.split = (heads * key, heads * key, heads * value)
        self.conv = nn.Conv2d(
            channels, channels - heads * value, 3, stride=stride, padding=1, bias=False
        )
        self.qkv = nn.Conv2d(channels, sum(self.split), 1, bias=False)
        self.project = nn.Conv2d(heads * value, heads * value, 1, bias=False)
        self.height = nn.Parameter(torch.randn(2 * max_distance + 1, key) * key**-0.5)
        self.width = nn.Parameter(torch.randn(2 * max_distance + 1, key) * key**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)).

        The memory format is kept, and the dtype is that of a convolution, under autocast too.
        """
        local = self.conv(x)
        if self.stride > 1:
            x = F.avg_pool2d(x, 3, self.stride, padding=1, count_include_pad=False)
        return torch.cat((local, self._attend(x)), dim=1)

    def _attend(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        query, key, value = (
            part.unflatten(1, (self.heads, -1)).transpose(2, 3)
            for part in self.qkv(x).flatten(2).split(self.split, dim=1)
        )
        query = query * query.shape[-1] ** -0.5
        bias = self._position_logits(query.unflatten(2, size))
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        # Positions before channels: the view of it as an image is channels_last.
        y = y.transpose(1, 2).flatten(2).contiguous()
        return self.project(y.transpose(1, 2).unflatten(2, size))

    def _position_logits(self, query: Tensor) -> Tensor:
        """Map (N, heads, H, W, key) to the relative logits (N, heads, H W, H W) of Eq. 3 and 4."""
        rows, columns = (
            table[self._offsets(length, table.device)]
            for table, length in zip((self.height, self.width), query.shape[2:4], strict=True)
        )
        by_height = torch.einsum("nayxd,yvd->nayxv", query, rows)
        by_width = torch.einsum("nayxd,xud->nayxu", query, columns)
        logits = by_height.unsqueeze(5) + by_width.unsqueeze(4)
        return logits.flatten(4).flatten(2, 3)

    def _offsets(self, length: int, device: torch.device) -> Tensor:
        """Return the table row of key position j for query position i, as (i, j)."""
        position = torch.arange(length, device=device)
        distance = position[None, :] - position[:, None]
        return distance.clamp(-self.max_distance, self.max_distance) + self.max_distance

    def extra_repr(self) -> str:
        """Show the options."""
        return f"stride={self.stride}, heads={self.heads}, max_distance={self.max_distance}"
