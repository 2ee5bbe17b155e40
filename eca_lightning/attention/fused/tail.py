"""The tail of a residual block in fewer passes: batch norm, channel gate, residual sum and ReLU.

Batch norm is affine in each channel, ``y = a (z - mean) + b``, so the pool of y that a gate needs
is ``a (pool of z - mean) + b``; and the statistics of a batch follow from the mean and variance of
each channel of each image. One pass over z gives all that batch norm and gate need, and another
computes the output. The backward pass needs z and the output, which the convolutions on both sides
save anyway, and vectors of (N, C).

A compiler makes one kernel of each pass, see `compiled`. Without one the batch norm is called, and
the rest takes fewer operations, see `eager`, and on GPUs fewer passes, see `kernels`.
"""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from eca_lightning.attention.base import ChannelGate
from eca_lightning.attention.fused.compiled import (
    CompiledMoments,
    CompiledNorm,
    CompiledSum,
    widen,
)
from eca_lightning.attention.fused.eager import GatedSum, Pool


class FusedTail(nn.Module):
    """Compute ``relu(gate(norm(z)) + residual)`` in fewer passes over the activation.

    It has no parameters: the modules stay in the block, under their names. Modules that it cannot
    replace are called: other types than `torch.nn.BatchNorm2d`, `ChannelGate` and `torch.nn.ReLU`,
    modules with hooks, and all of them while a graph of them is traced.
    """

    def forward(
        self, z: Tensor, residual: Tensor, norm: nn.Module, gate: nn.Module, relu: nn.Module
    ) -> Tensor:
        """Map the input of the last norm and the output of the shortcut, both (N, C, H, W).

        The result has the dtype of the norm's output and the memory format of z.
        """
        if _is_tracing(z) or not (_is_channel_gate(gate) and _is_relu(relu)):
            return relu(gate(norm(z)) + residual)
        if torch.compiler.is_dynamo_compiling():
            if not _is_complete_batch_norm(norm, z):
                return relu(gate(norm(z)) + residual)
            means, slope, pooled = _normalized_pool(z, norm)
            scale = gate.logits(pooled.to(norm.weight.dtype)).sigmoid().to(pooled.dtype)
            return CompiledSum.apply(z, means, scale, slope, pooled, residual.to(z.dtype))
        y = norm(z)
        if not torch.is_grad_enabled():  # nothing is saved, and the modules are as fast
            return relu(gate(y).add_(residual))
        scale = gate.logits(Pool.apply(y)).sigmoid().to(y.dtype)
        return GatedSum.apply(y, scale, residual.to(y.dtype))  # as under autocast, in place

    def extra_repr(self) -> str:
        """Show what is fused."""
        return "norm, gate, sum, ReLU"


def _is_tracing(z: Tensor) -> bool:
    """Whether a graph of the modules is recorded, or a transform would rewrite what they do."""
    transformed = torch._C._are_functorch_transforms_active()
    return type(z) is not Tensor or torch.jit.is_tracing() or transformed


def _has_hooks(module: nn.Module) -> bool:
    """Whether a hook would miss a call of the module."""
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


def _is_complete_batch_norm(module: nn.Module, z: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    return (
        type(module) is nn.BatchNorm2d
        and not _has_hooks(module)
        and module.affine
        and module.track_running_stats
        and module.momentum is not None
        and not (module.training and z.numel() <= z.shape[1])  # one value has no variance
    )


def _normalized_pool(z: Tensor, norm: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pool of z, batch norm's slope and the pool of its output.

    Each is (N, C), and has at least 32 bits.
    """
    weight, bias = widen(norm.weight), widen(norm.bias)
    if norm.training:
        means, variances = CompiledMoments.apply(z)
        pooled, slope, mean, variance = CompiledNorm.apply(means, variances, weight, bias, norm.eps)
        _track(norm, mean, variance, z.numel() // z.shape[1])
    else:
        means = widen(z).mean(dim=(2, 3))
        slope = (weight * torch.rsqrt(widen(norm.running_var) + norm.eps)).expand_as(means)
        pooled = slope * (means - widen(norm.running_mean)) + bias
    return means, slope, pooled


def _track(norm: Any, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the running statistics with those of a batch of ``count`` values a channel."""
    unbiased = variance * (count / (count - 1))
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    norm.num_batches_tracked.add_(1)
