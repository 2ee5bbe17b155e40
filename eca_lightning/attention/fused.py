"""The tail of a residual block in fewer passes: batch norm, channel gate, residual sum and ReLU.

Batch norm is affine in each channel, ``y = a (z - mean) + b``, so the pool of y that a gate looks
at is ``a (pool of z - mean) + b``; and the statistics of a batch follow from the mean and variance
of each channel of each image. One pass over z tells all that batch norm and gate have to know, and
a second one computes the output. The backward pass needs z and the output, which the convolutions
on both sides save anyway, and vectors of (N, C).

That takes a compiler, which makes one kernel of each pass. Without one, batch norm's own kernel is
far faster than statistics of several operations, and only what follows it is joined.
"""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from eca_lightning.attention.gate import ChannelGate


class FusedTail(nn.Module):
    """Compute ``relu(gate(norm(z)) + residual)`` in fewer passes over the activation.

    It has no parameters: the modules stay in the block, under their names. Those that it cannot
    stand in for are called as they are: other types than `torch.nn.BatchNorm2d`, `ChannelGate` and
    `torch.nn.ReLU`, modules with hooks, and all of them while a graph of them is traced.
    """

    def forward(
        self, z: Tensor, residual: Tensor, norm: nn.Module, gate: nn.Module, relu: nn.Module
    ) -> Tensor:
        """Finish a block.

        Args:
            z: Input of the block's last batch norm, (N, C, H, W).
            residual: What the shortcut yields, (N, C, H, W).
            norm: The last batch norm.
            gate: The attention after it.
            relu: The activation after the sum.

        Returns:
            (N, C, H, W), of the dtype and the memory format of z.
        """
        if _is_tracing(z) or not (_is_channel_gate(gate) and _is_relu(relu)):
            return relu(gate(norm(z)) + residual)
        residual = residual.to(z.dtype)  # as under autocast, where the sum is in place
        if _is_complete_batch_norm(norm, z):
            if torch.compiler.is_dynamo_compiling():
                return _CompiledSum.apply(z, *_coefficients(z, norm, gate), residual)
            # Coefficients of 16 bits lose a mean that is large beside the deviation.
            if not (torch.is_grad_enabled() or norm.training) and z.element_size() >= 4:
                means, scale, shift = _coefficients(z, norm, gate)
                branch = torch.addcmul(residual, z, _over_positions(scale))
                return branch.add_(_over_positions(shift - scale * means)).relu_()
        y = norm(z)
        # The gradient of a sum is expanded where that of a mean fills a whole map.
        total = y.sum(dim=(2, 3), dtype=torch.promote_types(y.dtype, torch.float32))
        pooled = (total / (y.shape[2] * y.shape[3])).to(y.dtype)
        scale = gate.logits(pooled).sigmoid().to(y.dtype)
        return _GatedSum.apply(y, scale, residual)

    def extra_repr(self) -> str:
        """Show what is fused."""
        return "norm, gate, sum, ReLU"


class _CompleteBatchNorm(nn.BatchNorm2d):
    """For the type checker alone: a batch norm with nothing left out."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float


def _is_tracing(z: Tensor) -> bool:
    """Whether a graph is recorded that shall show the modules as they are."""
    return type(z) is not Tensor or torch.jit.is_tracing()


def _has_hooks(module: nn.Module) -> bool:
    """Whether somebody would notice that a module is not called."""
    return any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in module.modules()
    )


def _is_relu(module: nn.Module) -> bool:
    return type(module) is nn.ReLU and not _has_hooks(module)


def _is_channel_gate(module: nn.Module) -> TypeGuard[ChannelGate]:
    return (
        isinstance(module, ChannelGate)
        and type(module).forward is ChannelGate.forward
        and not _has_hooks(module)
    )


def _is_complete_batch_norm(module: nn.Module, z: Tensor) -> TypeGuard[_CompleteBatchNorm]:
    return (
        type(module) is nn.BatchNorm2d
        and not _has_hooks(module)
        and module.affine
        and module.track_running_stats
        and module.momentum is not None
        and not (module.training and z.numel() == z.shape[1])  # one value has no variance
    )


def _coefficients(
    z: Tensor, norm: _CompleteBatchNorm, gate: ChannelGate
) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce batch norm and gate to ``scale (z - means) + shift``, means being those of each image.

    Returns:
        The means, the scale and the shift, each (N, C), in at least 32 bits.
    """
    if norm.training:
        means, variances = _Moments.apply(z)
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        _track(norm, mean.detach(), variance.detach(), z.numel() // z.shape[1])
    else:
        means = _widen(z).mean(dim=(2, 3))
        mean, variance = _widen(norm.running_mean), _widen(norm.running_var)
    slope = _widen(norm.weight) * torch.rsqrt(variance + norm.eps)
    pooled = slope * (means - mean) + _widen(norm.bias)
    scale = gate.logits(pooled.to(z.dtype)).sigmoid().to(pooled.dtype)
    return means, scale * slope, scale * pooled


def _track(norm: _CompleteBatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the running statistics with those of a batch of ``count`` values a channel."""
    unbiased = variance * (count / (count - 1))
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    norm.num_batches_tracked.add_(1)


class _Moments(torch.autograd.Function):
    """Mean and variance over height and width; unlike torch's own, backward keeps the mean."""

    @staticmethod
    def forward(z: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, C, H, W) to two (N, C)."""
        variance, mean = torch.var_mean(_widen(z), dim=(2, 3), correction=0)
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
        d_z = _over_positions(slope) * (_widen(z) - _over_positions(mean)) + _over_positions(shift)
        return d_z.to(z.dtype)


class _CompiledSum(torch.autograd.Function):
    """``relu(scale (z - means) + shift + residual)``, which keeps z and the output alone."""

    @staticmethod
    def forward(z: Tensor, means: Tensor, scale: Tensor, shift: Tensor, residual: Tensor) -> Tensor:
        """Map z and the residual, (N, C, H, W), to the output; the others are (N, C)."""
        # Were z centred here, the compiler would keep that map, in 32 bits, for backward.
        branch = _widen(z) * _over_positions(scale) + _over_positions(shift - scale * means)
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
        d_sum = _widen(d_residual)
        d_shift = d_sum.sum(dim=(2, 3))
        # Centred, or the sum would lose its digits to a large mean.
        d_scale = (d_sum * (_widen(z) - _over_positions(means))).sum(dim=(2, 3))
        d_z = (d_sum * _over_positions(scale)).to(z.dtype)
        return d_z, -scale * d_shift, d_scale, d_shift, d_residual


class _GatedSum(torch.autograd.Function):
    """``relu(scale y + residual)`` in few operations and little memory, without a compiler."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, scale: Tensor, residual: Tensor) -> Tensor:
        """Map y and the residual, (N, C, H, W), and the scale, (N, C), to the output."""
        return torch.addcmul(residual, y, _over_positions(scale)).relu_()

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
            return d_residual * _over_positions(scale), d_scale, d_residual
        # The product's memory is warm; a fresh map costs a CPU as much as the arithmetic.
        return torch.mul(d_residual, _over_positions(scale), out=product), d_scale, d_residual


def _over_positions(vector: Tensor) -> Tensor:
    """Give a vector of channels, (C,) or (N, C), the axes of height and width."""
    return vector[..., None, None]


def _widen(x: Tensor) -> Tensor:
    """Turn 16 bits into the 32 that sums and coefficients need."""
    return x.float() if x.element_size() < 4 else x
