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


class CompiledNorm(torch.autograd.Function):
    """Batch norm of the pooled channels by the statistics of a batch, given those of each image.

    Autograd would sum over the images once for each use of a value, in a kernel or two each.
    """

    @staticmethod
    def forward(
        means: Tensor, variances: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        """Map means and variances, (N, C), and the parameters, (C,), to four tensors.

        They are the normalized means and batch norm's slope, both (N, C), so that one sum takes the
        gradients of both, and the mean and variance of the batch, (C,).
        """
        # Relative to one image, as a large mean would cost the sums, taken in one pass, digits.
        offsets = means - means[:1]
        mean_offset = offsets.mean(dim=0)
        mean = means[0] + mean_offset
        variance = (variances + offsets.square()).mean(dim=0) - mean_offset.square()
        slope = weight * torch.rsqrt(variance + eps)
        return slope * (means - mean) + bias, slope.expand_as(means), mean, variance

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save what backward needs."""
        means, _, weight, _, eps = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(means, weight, *output[2:])
        ctx.eps = eps

    @staticmethod
    def backward(ctx: Any, d_pooled: Tensor, d_slope: Tensor, *_: Tensor) -> tuple[Any, ...]:
        """Map the gradients of the normalized means and of the slope to those of the inputs."""
        means, weight, mean, variance = ctx.saved_tensors
        count, centered, rstd = len(means), means - mean, torch.rsqrt(variance + ctx.eps)
        d_bias = d_pooled.sum(dim=0)
        d_slope = (d_pooled * centered + d_slope).sum(dim=0)
        d_variance = d_slope * weight * rstd**3 / (-2 * count)
        # The variance does not depend on the mean: the sum of what is centered is zero.
        d_means = weight * rstd * (d_pooled - d_bias / count) + 2 * centered * d_variance
        return d_means, d_variance.expand_as(means), d_slope * rstd, d_bias, None


class CompiledSum(torch.autograd.Function):
    """``relu(gate (slope (z - means) + pooled) + residual)``, which saves only z and the output."""

    @staticmethod
    def forward(
        z: Tensor, means: Tensor, gate: Tensor, slope: Tensor, pooled: Tensor, residual: Tensor
    ) -> Tensor:
        """Map z and the residual, (N, C, H, W), to the output; the others are (N, C)."""
        # If z were centered here, the compiler would save that map, in 32 bits, for backward.
        shift = gate * (pooled - slope * means)
        branch = widen(z) * over_positions(gate * slope) + over_positions(shift)
        return (branch + residual).to(z.dtype).relu()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Save what backward needs."""
        z, means, gate, slope, pooled, _ = inputs
        ctx.save_for_backward(z, means, gate, slope, pooled, output)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor, ...]:
        """Map the gradient of the output to those of the inputs."""
        z, means, gate, slope, pooled, output = ctx.saved_tensors
        d_residual = torch.ops.aten.threshold_backward(d_output, output, 0)
        d_sum = widen(d_residual)
        total = d_sum.sum(dim=(2, 3))
        # Centered, since a large mean would cost the sum its digits.
        moment = (d_sum * (widen(z) - over_positions(means))).sum(dim=(2, 3))
        d_z = (d_sum * over_positions(gate * slope)).to(z.dtype)
        d_gate = slope * moment + pooled * total
        d_pooled = gate * total
        return d_z, -slope * d_pooled, d_gate, gate * moment, d_pooled, d_residual


def over_positions(vector: Tensor) -> Tensor:
    """Add axes of height and width to a vector of channels, (C,) or (N, C)."""
    return vector[..., None, None]


def widen(x: Tensor) -> Tensor:
    """Convert 16 bits to the 32 that sums and coefficients need."""
    return x.float() if x.element_size() < 4 else x
