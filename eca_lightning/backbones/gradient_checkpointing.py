"""Gradient checkpointing (Chen et al., arXiv 1604.06174) that leaves batch norm's statistics exact.

torch's checkpoint runs a block a second time in the backward pass, where its batch norms would
count each batch twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from eca_lightning.backbones.blocks import AttentionSlot


def checkpoint_gradients(network: nn.Module) -> None:
    """Let the blocks of a network keep their inputs alone for the backward pass, in place.

    Gradients and running statistics are the same. A training step takes about a third longer.
    """
    for block in network.modules():
        if isinstance(block, AttentionSlot):
            block.forward = MethodType(_recomputed_forward, block)


def _recomputed_forward(block: Any, x: Tensor) -> Tensor:
    forward = type(block).forward
    if not (block.training and torch.is_grad_enabled()):
        return forward(block, x)

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), _statistics_stay(block)

    return checkpoint(forward, block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_stay(block: nn.Module) -> Iterator[None]:
    """Count the batch in copies of the running statistics, which are thrown away."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
    kept = [(norm, key, value) for norm in norms for key, value in norm.named_buffers()]
    try:
        for norm, key, value in kept:
            setattr(norm, key, value.clone())
        yield
    finally:
        for norm, key, value in kept:
            setattr(norm, key, value)
