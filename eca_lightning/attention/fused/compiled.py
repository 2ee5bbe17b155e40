"""The steps of a fused tail that a compiler turns into one pass over the activation each."""

from typing import Any

import torch
from torch import Tensor


class CompiledMoments(torch.autograd.Function):
    """Mean and variance over height and width; unlike torch.var_mean, it saves the mean."""

    @staticmethod
    def forward(z: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, C, H, W) to two (N, C)."""
        variance, mean = torch.var_mean(widen(z), dim=(2, 3), correction=0)
        return mean, variance

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        """Save what backward needs."""
        ctx.save_for_backward(inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, d_mean: Tensor, d_variance: Tensor) -> Tensor:
        """Map the gradients of both to that of z."""
        z, mean = ctx.saved_tensors
        positions = z.shape[2] * z.shape[3]
        slope, shift = 2 / positions * d_variance, d_mean / positions
        d_z = over_positions(slope) * (widen(z) - over_positions(mean)) + over_positions(shift)
        return d_z.to(z.dtype)


class CompiledSum(torch.autograd.Function):
    """``relu(scale (z - means) + shift + residual)``, which saves only z and the output."""

    @staticmethod
    def forward(z: Tensor, means: Tensor, scale: Tensor, shift: Tensor, residual: Tensor) -> Tensor:
        """Map z and the residual, (N, C, H, W), to the output; the others are (N, C)."""
        # If z were centered here, the compiler would save that map, in 32 bits, for backward.
        branch = widen(z) * over_positions(scale) + over_positions(shift - scale * means)
        return (branch + residual).to(z.dtype).relu()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Save what backward needs."""
        z, means, scale, _, _ = inputs
        ctx.save_for_backward(z, means, scale, output)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor, ...]:
        """Map the gradient of the output to those of the inputs."""
        z, means, scale, output = ctx.saved_tensors
        d_residual = torch.ops.aten.threshold_backward(d_output, output, 0)
        d_sum = widen(d_residual)
        d_shift = d_sum.sum(dim=(2, 3))
        # Centered, since a large mean would cost the sum its digits.
        d_scale = (d_sum * (widen(z) - over_positions(means))).sum(dim=(2, 3))
        d_z = (d_sum * over_positions(scale)).to(z.dtype)
        return d_z, -scale * d_shift, d_scale, d_shift, d_residual


def over_positions(vector: Tensor) -> Tensor:
    """Add axes of height and width to a vector of channels, (C,) or (N, C)."""
    return vector[..., None, None]


def widen(x: Tensor) -> Tensor:
    """Convert 16 bits to the 32 that sums and coefficients need."""
    return x.float() if x.element_size() < 4 else x
