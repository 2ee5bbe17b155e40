"""Low-pass filters where the resolution falls: FFCV's, and timm's in its ``resnetblur``.

A stride drops samples; without a low-pass filter before it, detail finer than the stride aliases.
Zhang ("Making convolutional networks shift-invariant again", arXiv 1904.11486) moves the stride
behind the convolution and its activation and blurs there, as `BlurPool2d`; FFCV blurs the input of
the convolution, whose own cost stays the same, as `BlurPoolConv2d`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_CHANNELS = 16
"""Convolutions of fewer input channels stay as they are, so images are not blurred."""


class BlurPool2d(nn.Module):
    """Blur by a 3x3 binomial filter, with reflected borders, and keep every second position.

    Its state dict is empty, as that of pooling is.
    """

    blur: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("blur", binomial_filter(channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to half the height and width, rounded up."""
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, self.blur, stride=2, groups=len(self.blur))


class BlurPoolConv2d(nn.Conv2d):
    """A strided convolution of a blurred input.

    It takes over the parameters of the convolution that it replaces, and its state dict has only
    their keys, so that weights load with or without the blur.

    Args:
        convolution: The convolution to replace.
    """

    blur: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            convolution.dilation,  # type: ignore[arg-type]
            convolution.groups,
            bias=convolution.bias is not None,
            padding_mode=convolution.padding_mode,
            device="meta",  # draws no random numbers, which would change those of later layers
        )
        self.weight, self.bias = convolution.weight, convolution.bias
        blur = binomial_filter(self.in_channels).to(self.weight.device)
        self.register_buffer("blur", blur, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Blur and convolve a (N, in_channels, H, W) tensor."""
        return super().forward(F.conv2d(input, self.blur, padding=1, groups=self.in_channels))


def add_blur_pool(network: nn.Module) -> None:
    """Blur the input of each strided convolution of 16 input channels or more, in place."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if (
                isinstance(child, nn.Conv2d)
                and max(child.stride) > 1
                and child.in_channels >= MIN_CHANNELS
            ):
                setattr(parent, name, BlurPoolConv2d(child))


def binomial_filter(channels: int) -> Tensor:
    """Return the filter [1, 2, 1] x [1, 2, 1] / 16 for each channel, (channels, 1, 3, 3)."""
    taps = torch.tensor([1.0, 2.0, 1.0]) / 4
    return torch.outer(taps, taps).expand(channels, 1, 3, 3).contiguous()
