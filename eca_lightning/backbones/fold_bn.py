"""Fold batch norms into the convolutions before them.

In evaluation a batch norm scales and shifts each channel by constants, which the convolution's
weights can do: one pass over the activation less for each norm.
"""

import copy
from typing import Any

from torch import nn
from torch.fx import Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

from eca_lightning.attention.fused.tail import FusedTail

_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Return a copy of a network, for evaluation, without batch norms behind convolutions.

    Identities replace the norms; norms that follow other layers, and convolutions whose output is
    also used elsewhere, stay as they are. torch.fx must be able to trace the network.
    """
    folded = copy.deepcopy(network).eval()
    nodes = _OutlineTracer().trace(folded).nodes
    called = {node: folded.get_submodule(node.target) for node in nodes if _is_call(node)}
    for node, norm in called.items():
        before: Any = node.args[0]
        conv = called.get(before)
        if (
            isinstance(norm, _NORMS)
            and isinstance(conv, nn.Conv2d)
            and norm.running_mean is not None
            and len(before.users) == 1
        ):
            folded.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
            folded.set_submodule(node.target, nn.Identity())
    return folded


class _OutlineTracer(Tracer):
    """Traces only modules that hold batch norms: some of the others cannot be traced."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a call of the module is one node of the graph."""
        if isinstance(m, FusedTail):  # called with the block's norm, which it calls when traced
            return False
        inner = (child for child in m.modules() if child is not m)
        return not any(isinstance(child, _NORMS) for child in inner)


def _is_call(node: Any) -> bool:
    return node.op == "call_module"
