"""Attention that changes nothing yet, for weights that were trained without it.

Mechanisms that add to their input (gc, a2, nl) are initialized as the identity. A gate is a sigmoid
of its last layer's output: with that layer at zero it is one half everywhere, whatever the input,
and doubling the batch norm before it compensates. Both factors are powers of two, so the network
computes exactly what it computed without attention, and the last layer gets a gradient from the
first step on, as in a residual branch that starts at zero. A gate near one, by a large bias, would
be saturated and learn slowly; and ECA has no bias.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from eca_lightning.backbones.blocks import AttentionSlot


def starts_as_identity(network: nn.Module) -> bool:
    """Whether `init_as_identity` can make the attention of a network change nothing.

    Nothing is taken on trust: each mechanism is copied, its gate layers are zeroed, and its output
    on random numbers must be its input, halved once a gate layer, to the bit.
    """
    return all(_is_identity(block) for block in _attended(network))


def init_as_identity(network: nn.Module) -> None:
    """Make the attention of a network change nothing, in place.

    Args:
        network: A network for which `starts_as_identity` holds, its other weights loaded.
    """
    for block in _attended(network):
        gates: Any = block.attention
        _zero(gates)
        block.last_norm.weight.data *= 2 ** len(gates.gate_layers)
        block.last_norm.bias.data *= 2 ** len(gates.gate_layers)


def _attended(network: nn.Module) -> Iterator[AttentionSlot]:
    for block in network.modules():
        if isinstance(block, AttentionSlot) and not isinstance(block.attention, nn.Identity):
            yield block


def _is_identity(block: AttentionSlot) -> bool:
    gates = getattr(block.attention, "gate_layers", None)
    # The batch norm cannot compensate for a gate on the sum of branch and shortcut.
    if gates is None or (gates and block.attention_site != "branch"):
        return False
    attention = deepcopy(block.attention).cpu().float().eval()
    _zero(attention)
    x = torch.randn(1, block.out_channels, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(attention(x), x * 0.5 ** len(gates))


def _zero(attention: Any) -> None:
    for name in attention.gate_layers:
        for parameter in attention.get_submodule(name).parameters(recurse=False):
            nn.init.zeros_(parameter)
