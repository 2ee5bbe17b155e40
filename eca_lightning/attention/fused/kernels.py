# ruff: noqa: ANN001, ANN202, N803  # Triton's kernels, of pointers, numbers and constants
"""Residual sum and ReLU of a fused tail in eager mode on GPUs: a kernel forward and one backward.

torch's operations would take twice the passes, see `eager`. Maps are (N, C, H, W) in channels_last
memory, computed with in 32 bits. The order of all sums is fixed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_POSITIONS, _CHANNELS = 32, 64
"""The tile that a program works on at a time."""


@triton.jit
def _gated_sum(y, scale, residual, output, positions, channels, P: tl.constexpr, C: tl.constexpr):  # type: ignore[no-untyped-def]
    image = tl.program_id(0).to(tl.int64)
    rows = (tl.program_id(1) * P + tl.arange(0, P))[:, None]
    columns = (tl.program_id(2) * C + tl.arange(0, C))[None, :]
    inside = (rows < positions) & (columns < channels)
    at = (image * positions + rows) * channels + columns
    factor = tl.load(scale + image * channels + columns, columns < channels, 0.0)
    branch = tl.load(y + at, inside, 0.0).to(tl.float32) * factor.to(tl.float32)
    total = branch + tl.load(residual + at, inside, 0.0).to(tl.float32)
    tl.store(output + at, tl.where(total < 0, 0.0, total), inside)  # NaN stays


@triton.jit
def _gated_sum_backward(  # type: ignore[no-untyped-def]
    d_output, output, y, d_residual, d_scale, positions, channels, P: tl.constexpr, C: tl.constexpr
):
    image = tl.program_id(0).to(tl.int64)
    columns = (tl.program_id(1) * C + tl.arange(0, C))[None, :]
    sums = tl.full((P, C), 0.0, tl.float32)
    for first in range(0, positions, P):
        rows = (first + tl.arange(0, P))[:, None]
        inside = (rows < positions) & (columns < channels)
        at = (image * positions + rows) * channels + columns
        entered = tl.load(d_output + at, inside, 0.0)
        passed = tl.where(tl.load(output + at, inside, 0.0) <= 0, 0.0, entered)
        tl.store(d_residual + at, passed, inside)
        sums += passed.to(tl.float32) * tl.load(y + at, inside, 0.0).to(tl.float32)
    total = tl.sum(sums, axis=0)[None, :]
    tl.store(d_scale + image * channels + columns, total, columns < channels)


@torch.library.custom_op("eca_lightning::gated_sum", mutates_args=())
def gated_sum(y: Tensor, scale: Tensor, residual: Tensor) -> Tensor:
    """Compute ``relu(scale y + residual)`` of two maps and a scale (N, C)."""
    output = torch.empty_like(y)
    images, channels, *size = y.shape
    positions = size[0] * size[1]
    grid = images, triton.cdiv(positions, _POSITIONS), triton.cdiv(channels, _CHANNELS)
    tile = {"P": _POSITIONS, "C": _CHANNELS}
    with torch.cuda.device_of(y):
        _gated_sum[grid](y, scale.contiguous(), residual, output, positions, channels, **tile)
    return output


@gated_sum.register_fake
def _(y: Tensor, scale: Tensor, residual: Tensor) -> Tensor:
    return torch.empty_like(y)


@torch.library.custom_op("eca_lightning::gated_sum_backward", mutates_args=())
def gated_sum_backward(d_output: Tensor, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Map the gradient of the output, and two maps, to those of residual and scale (float32)."""
    images, channels, *size = y.shape
    d_residual = torch.empty_like(y)
    d_scale = y.new_empty((images, channels), dtype=torch.float32)
    grid = images, triton.cdiv(channels, _CHANNELS)
    shape = size[0] * size[1], channels
    tile = {"P": _POSITIONS, "C": _CHANNELS}
    with torch.cuda.device_of(y):
        _gated_sum_backward[grid](d_output, output, y, d_residual, d_scale, *shape, **tile)
    return d_residual, d_scale


@gated_sum_backward.register_fake
def _(d_output: Tensor, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(y), y.new_empty(y.shape[:2], dtype=torch.float32)
