"""Pool, residual sum and ReLU of a fused tail in eager mode, where each operation is a pass."""

from typing import Any

import torch
from torch import Tensor

from eca_lightning.attention.fused.compiled import over_positions


class Pool(torch.autograd.Function):
    """The mean over height and width; unlike torch.mean's, its backward fills no map."""

    @staticmethod
    def forward(y: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C)."""
        return y.mean(dim=(2, 3))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Save the shape."""
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, d_mean: Tensor) -> Tensor:
        """Map the gradient of the mean to that of y, a view."""
        return over_positions(d_mean / ctx.shape[2:].numel()).expand(ctx.shape)


class GatedSum(torch.autograd.Function):
    """``relu(scale y + residual)``, which saves only y and the output."""

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
        # The product's memory is in the cache; a new map costs a CPU as much as the arithmetic.
        return torch.mul(d_residual, over_positions(scale), out=product), d_scale, d_residual
