"""Check that tensors of a file can be the weights of a network."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int32, torch.int64)  # of counters and tables of indices
_REAL = ("weight", "bias", "running_mean", "running_var")


def require_usable(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Check the weights and buffers of a network.

    Raises:
        ValueError: If one is NaN, infinite, no array of real floating-point numbers, or a negative
            variance. Buffers of other names than a norm's may be integers.
    """
    found = [(key, fault) for key, tensor in tensors.items() if (fault := _fault(key, tensor))]
    if found:
        (key, fault), more = found[0], len(found) - 1
        others = f", and {more} more tensors are unusable" if more else ""
        raise ValueError(f"{source}: {key} {fault}{others}: give weights of finite, real numbers")


def _fault(key: str, tensor: Tensor) -> str:
    """Say what is wrong with a tensor; empty if nothing is."""
    if tensor.is_meta:
        return "holds no numbers (device meta)"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "is nested" if tensor.is_nested else f"is sparse ({tensor.layout})"
    if tensor.is_quantized:
        return f"is quantized ({tensor.dtype})"
    may_be_integer = not key.endswith(_REAL)
    if tensor.dtype not in _DTYPES and not (may_be_integer and tensor.dtype in _INTEGERS):
        return f"is of {tensor.dtype}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"repeats its numbers to a shape of {tuple(tensor.shape)}"
    values = tensor.detach().float()
    if not values.isfinite().all():
        return "holds NaN" if values.isnan().any() else "holds infinite numbers"
    if key.endswith("running_var") and (values < 0).any():
        return "holds negative variances"
    return ""
