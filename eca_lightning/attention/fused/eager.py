"""The steps of a fused tail for eager mode, where each operation is a pass over its operands.

An activation is far larger than a CPU's caches. Worked on in pieces of a few images, the operations
that follow each other find their operands there, and memory is passed over about as often as by a
compiled kernel.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from eca_lightning.attention.fused.compiled import CompiledMoments, CompiledSum, over_positions

PIECE_BYTES = 2**20
"""What a piece may hold, at most, where one image does not hold more: half of a core's cache."""


class Handover:
    """What the backward pass of the sum leaves to that of the moments, which follows it.

    The gradient of z has a part from each; together they take one pass.
    """

    def __init__(self) -> None:
        self.scale: Tensor | None = None
        self.d_residual: Tensor | None = None


class EagerMoments(torch.autograd.Function):
    """Mean and variance over height and width."""

    @staticmethod
    def forward(z: Tensor, handover: Handover) -> tuple[Tensor, Tensor]:
        """Map (N, C, H, W) to two (N, C)."""
        if z.device.type != "cpu":
            variance, mean = torch.var_mean(z, dim=(2, 3), correction=0)
            return mean, variance
        # On a CPU, batch norm's statistics of one image are 25 times as fast as var_mean.
        moments = [torch.batch_norm_update_stats(image, None, None, 0.0) for image in z.split(1)]
        means, variances = zip(*moments, strict=True)
        return torch.stack(means), torch.stack(variances)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Save what backward needs."""
        z, ctx.handover = inputs
        ctx.save_for_backward(z, output[0])

    @staticmethod
    def backward(ctx: Any, d_mean: Tensor, d_variance: Tensor) -> tuple[Tensor, None]:
        """Map the gradients of both, and what was handed over, to the gradient of z."""
        z, mean = ctx.saved_tensors
        handover: Handover = ctx.handover
        if handover.d_residual is None or handover.scale is None:
            return CompiledMoments.backward(ctx, d_mean, d_variance), None
        positions = z.shape[2] * z.shape[3]
        slope, shift = 2 / positions * d_variance, d_mean / positions
        d_z = torch.empty_like(z)
        rows = (z, handover.d_residual, d_z, slope, shift - slope * mean, handover.scale)
        for z_, d_residual_, d_z_, slope_, shift_, scale_ in pieces(*rows):
            torch.addcmul(shift_, z_, slope_, out=d_z_).addcmul_(d_residual_, scale_)
        handover.scale = handover.d_residual = None
        return d_z, None


class EagerSum(torch.autograd.Function):
    """``relu(scale (z - means) + shift + residual)``, which keeps z and the output alone."""

    @staticmethod
    def forward(
        z: Tensor, means: Tensor, scale: Tensor, shift: Tensor, residual: Tensor, handover: Handover
    ) -> Tensor:
        """Map z and the residual, (N, C, H, W), to the output; the others are (N, C)."""
        output = torch.empty_like(z)
        rows = (z, residual, output, scale, shift - scale * means)
        for z_, residual_, output_, scale_, shift_ in pieces(*rows):
            torch.addcmul(residual_, z_, scale_, out=output_).add_(shift_).relu_()
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save what backward needs."""
        z, means, scale, _, _, ctx.handover = inputs
        ctx.save_for_backward(z, means, scale, output)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        """Map the gradient of the output to those of the inputs, that of z being handed over."""
        if torch.is_grad_enabled():  # for a second derivative
            return *CompiledSum.backward(ctx, d_output), None
        z, means, scale, output = ctx.saved_tensors
        d_residual = torch.empty_like(z)
        d_scale, d_shift = torch.empty_like(scale), torch.empty_like(scale)
        rows = (z, output, d_output, d_residual, means, d_scale, d_shift)
        for z_, output_, d_output_, d_residual_, means_, d_scale_, d_shift_ in pieces(*rows):
            torch.ops.aten.threshold_backward.grad_input(
                d_output_, output_, 0, grad_input=d_residual_
            )
            torch.sum(d_residual_, dim=(2, 3), keepdim=True, out=d_shift_)
            product = (z_ - means_).mul_(d_residual_)
            torch.sum(product, dim=(2, 3), keepdim=True, out=d_scale_)
        ctx.handover.scale, ctx.handover.d_residual = scale, d_residual
        return None, -scale * d_shift, d_scale, d_shift, d_residual, None


class GatedSum(torch.autograd.Function):
    """``relu(scale y + residual)`` in few operations, behind a norm that was called."""

    @staticmethod
    def forward(y: Tensor, scale: Tensor, residual: Tensor) -> Tensor:
        """Map y and the residual, (N, C, H, W), and the scale, (N, C), to the output."""
        return torch.addcmul(residual, y, over_positions(scale)).relu_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Save what backward needs."""
        y, scale, _ = inputs
        ctx.save_for_backward(y, scale, output)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor, ...]:
        """Map the gradient of the output to those of the inputs."""
        y, scale, output = ctx.saved_tensors
        d_residual = torch.ops.aten.threshold_backward(d_output, output, 0)
        product = d_residual * y
        d_scale = product.sum(dim=(2, 3))
        if torch.is_grad_enabled():  # for a second derivative
            return d_residual * over_positions(scale), d_scale, d_residual
        # The product's memory is warm; a fresh map costs a CPU as much as the arithmetic.
        return torch.mul(d_residual, over_positions(scale), out=product), d_scale, d_residual


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same few images of each tensor, one after the other.

    Args:
        tensors: Maps (N, C, H, W), the first of which tells the size of a piece, and vectors
            (N, C), which are given the axes of height and width. On a GPU all is one piece.
    """
    whole = tensors[0]
    images = len(whole)
    if whole.device.type == "cpu":
        images = max(1, PIECE_BYTES // (whole.shape[1:].numel() * whole.element_size()))
    shaped = [t if t.dim() == 4 else over_positions(t) for t in tensors]
    return zip(*(t.split(images) for t in shaped), strict=True)
