"""Pool, residual sum and ReLU of a fused tail in eager mode, where each operation is a pass.

GPUs with Triton have a kernel each forward and backward for what follows the pool, see `kernels`.
"""

from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from eca_lightning.attention.fused.compiled import over_positions
from eca_lightning.utils.compilers import missing_for_gpu_kernels


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
        if kernels := _kernels_for(y):
            return kernels.gated_sum(y, scale, _channels_last(residual))
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
        second = torch.is_grad_enabled()  # derivatives are asked for
        if not second and (kernels := _kernels_for(y)):
            d_residual, d_scale = kernels.gated_sum_backward(_channels_last(d_output), output, y)
            return d_residual * over_positions(scale), d_scale.to(scale.dtype), d_residual
        d_residual = torch.ops.aten.threshold_backward(d_output, output, 0)
        product = d_residual * y
        d_scale = product.sum(dim=(2, 3))
        if second:
            return d_residual * over_positions(scale), d_scale, d_residual
        # The product's memory is in the cache; a new map costs a CPU as much as the arithmetic.
        return torch.mul(d_residual, over_positions(scale), out=product), d_scale, d_residual


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _kernels_for(y: Tensor) -> ModuleType | None:
    """Return the kernels if they can compute with a map."""
    suits = y.is_contiguous(memory_format=torch.channels_last) and y.dtype != torch.float64
    return _kernels_of(y.device) if suits and y.is_cuda else None


@cache
def _kernels_of(device: torch.device) -> ModuleType | None:
    """Import the kernels if they can be compiled for a GPU."""
    if missing_for_gpu_kernels() or torch.cuda.get_device_capability(device) < (7, 0):
        return None
    from eca_lightning.attention.fused import kernels

    return kernels
