"""Efficient channel attention.

ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks. Qilong Wang, Banggu Wu,
Pengfei Zhu, Peihua Li, Wangmeng Zuo, Qinghua Hu. CVPR 2020, arXiv 1910.03151.

The code printed as the paper's Fig. 3 leaves out the sigmoid that Eq. 9 has: it is here. The same
figure rounds the kernel size in another way than Eq. 12; `kernel_size` offers both.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn

from eca_lightning.attention.base import (
    TO_TIMM,
    Attention,
    ChannelGate,
    ForeignKey,
    register_attention,
)

KernelRule = Literal["equation", "figure"]


def kernel_size(channels: int, rule: KernelRule | int = "equation") -> int:
    """Return the size of the kernel that convolves the channels.

    Args:
        channels: Number of channels, C.
        rule: ``"equation"`` takes the odd number nearest to ``log2(C) / 2 + 1 / 2``, the lower one
            in a tie (Eq. 12 with gamma = 2 and b = 1; C = 128 and C = 2048 are ties). ``"figure"``
            truncates that value and adds one if it is even (Fig. 3). An odd positive number is
            returned as it is.

    Raises:
        ValueError: If ``rule`` is none of these.
    """
    target = (math.log2(channels) + 1) / 2
    if rule == "equation":
        return 2 * math.ceil(target / 2) - 1
    if rule == "figure":
        return int(target) // 2 * 2 + 1
    if isinstance(rule, int) and rule > 0 and rule % 2 == 1:
        return rule
    raise ValueError(
        f"The ECA kernel must be an odd positive number, got {rule!r}: give 3 or 5, for example, "
        "or a rule that derives it from the channels, 'equation' or 'figure'."
    )


@register_attention("eca")
class EfficientChannelAttention(ChannelGate):
    """ECA (Eq. 9): one k-tap convolution along the channels, its weights shared by all of them.

    Args:
        channels: Number of channels, C; it matters to the kernel rules only.
        kernel: The rule of Eq. 12 (equation) or of Fig. 3 (figure), or a size; see `kernel_size`.
        circular: Whether the last channels are neighbors of the first, as in timm's ``ceca``, or
            there are zeros beyond both.
    """

    gate_layers = ("conv",)
    # The authors' code, BangguWu/ECANet: "eca" in residual blocks, the last element of
    # MobileNetV2's blocks without a name of its own.
    foreign_keys = (
        *Attention.foreign_keys,
        ForeignKey(r"^(layer\d+\.\d+)\.eca\.", r"\1.attention."),
        ForeignKey(r"^(features\.\d+)\.conv\.\d+\.conv\.weight$", r"\1.attention.conv.weight"),
    )
    exported_keys: ClassVar[Mapping[str, tuple[ForeignKey, ...]]] = {
        "timm": (TO_TIMM,),
        "original": (
            ForeignKey(r"^(layer\d+\.\d+)\.attention\.", r"\1.eca."),
            ForeignKey(r"^features\.1\.attention\.", "features.1.conv.3."),  # has no expansion
            ForeignKey(r"^(features\.\d+)\.attention\.", r"\1.conv.4."),
        ),
    }

    def __init__(
        self, channels: int, kernel: KernelRule | int = "equation", circular: bool = False
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size(channels, kernel)
        self.circular = circular
        padding = 0 if circular else self.kernel_size // 2
        self.conv = nn.Conv1d(1, 1, self.kernel_size, padding=padding, bias=False)

    def logits(self, pooled: Tensor) -> Tensor:
        """See `ChannelGate.logits`."""
        if self.circular:
            reach = self.kernel_size // 2
            pooled = torch.cat([pooled[:, -reach:], pooled, pooled[:, :reach]], dim=1)
            return self.conv(pooled.unsqueeze(1)).squeeze(1)
        # Inductor fuses these sums with the operations around them, but not a convolution, which
        # only hooks on it, such as pruning's, need to see called.
        hooks = self.conv._forward_pre_hooks or self.conv._forward_hooks
        if torch.compiler.is_dynamo_compiling() and not hooks:
            return _ChannelConvolution.apply(pooled, self.conv.weight.flatten())
        return self.conv(pooled.unsqueeze(1)).squeeze(1)

    @classmethod
    def infer_options(cls, shapes: Mapping[str, Size]) -> dict[str, Any]:
        """See `Attention.infer_options`."""
        if shapes.keys() != {"conv.weight"} or shapes["conv.weight"][:2] != (1, 1):
            return {}
        return {"kernel": shapes["conv.weight"][-1]}

    def extra_repr(self) -> str:
        """Show the kernel size."""
        return f"kernel_size={self.kernel_size}" + ", circular" * self.circular


@register_attention("eca_ns")
class EfficientChannelAttentionNS(ChannelGate):
    """ECA-NS (Eq. 7), weights not shared: each channel has k weights of its own.

    Args:
        channels: Number of channels, C.
        kernel: The rule of Eq. 12 (equation) or of Fig. 3 (figure), or a size; see `kernel_size`.
    """

    gate_layers = ("",)

    def __init__(self, channels: int, kernel: KernelRule | int = "equation") -> None:
        super().__init__()
        self.kernel_size = kernel_size(channels, kernel)
        self.weight = nn.Parameter(torch.empty(channels, self.kernel_size))
        # As nn.Conv1d initializes ECA's weights: the ablation changes nothing but the sharing.
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def logits(self, pooled: Tensor) -> Tensor:
        """See `ChannelGate.logits`."""
        channels, size = self.weight.shape
        padded = F.pad(pooled, (size // 2, size // 2))
        gate = self.weight[:, 0] * padded[:, :channels]
        for i in range(1, size):
            gate = gate + self.weight[:, i] * padded[:, i : i + channels]
        return gate

    @classmethod
    def infer_options(cls, shapes: Mapping[str, Size]) -> dict[str, Any]:
        """See `Attention.infer_options`."""
        fits = shapes.keys() == {"weight"} and len(shapes["weight"]) == 2
        return {"kernel": shapes["weight"][-1]} if fits else {}

    def extra_repr(self) -> str:
        """Show the number of channels and the kernel size."""
        return f"{self.weight.shape[0]}, kernel_size={self.kernel_size}"


class _ChannelConvolution(torch.autograd.Function):
    """The convolution of ECA along the channels as sums, which a compiler can fuse.

    Autograd would fill a map for each of the k slices, and add them up.
    """

    @staticmethod
    def forward(pooled: Tensor, taps: Tensor) -> Tensor:
        """Map the pooled channels, (N, C), and the k taps to (N, C)."""
        return (_neighbors(pooled, len(taps)) * taps).sum(dim=2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save what backward needs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor, Tensor]:
        """Map the gradient of the output to those of the inputs."""
        pooled, taps = ctx.saved_tensors
        entered = _neighbors(d_output, len(taps)).flip(2)  # the outputs that a channel enters
        d_taps = (entered * pooled[:, :, None]).sum(dim=(0, 1))
        return (entered * taps).sum(dim=2), d_taps


def _neighbors(pooled: Tensor, size: int) -> Tensor:
    """View the channels around each, (N, C) to (N, C, size), with zeros beyond the ends."""
    return F.pad(pooled, (size // 2, size // 2)).unfold(1, size, 1)
