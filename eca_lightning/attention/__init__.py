"""Attention mechanisms; they know tensors only."""

from eca_lightning.attention.eca import kernel_size
from eca_lightning.attention.registry import ATTENTION_NAMES, create_attention

__all__ = ["ATTENTION_NAMES", "create_attention", "kernel_size"]
