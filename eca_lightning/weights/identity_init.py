"""Attention that changes nothing yet, for weights that were trained without it.

What adds to its input starts as the identity by itself (gc, a2, nl). A gate is a sigmoid of what
its last layer yields: with that layer at zero it is one half everywhere, whatever the input, and
the batch norm before it, doubled, makes up for that. Both factors are powers of two, so that the
network computes what it did without attention; and the last layer gets a gradient from the first
step on, as where a residual branch starts at zero. A gate near one, by a large bias, would be
saturated and learn slowly; and ECA has no bias.
"""

from typing import Any

from torch import nn

from eca_lightning.attention.cbam import ConvolutionalBlockAttention
from eca_lightning.attention.eca import EfficientChannelAttention, EfficientChannelAttentionNS
from eca_lightning.attention.second_order_pooling import SecondOrderPooling
from eca_lightning.attention.squeeze_excitation import GroupedExcitation, SqueezeExcitation
from eca_lightning.backbones.blocks import AttentionBasicBlock, AttentionBlock, AttentionBottleneck

# The last layer of each sigmoid of a mechanism; of CBAM's two, a batch norm ends the second.
_LAST_LAYERS: dict[type[nn.Module], tuple[str, ...]] = {
    EfficientChannelAttention: ("conv",),
    EfficientChannelAttentionNS: ("",),  # the module itself holds the weights
    SqueezeExcitation: ("fc2",),
    GroupedExcitation: ("conv",),
    ConvolutionalBlockAttention: ("channel.fc2", "spatial.bn"),
    SecondOrderPooling: ("expand",),
}


def neutralize(network: nn.Module) -> None:
    """Let the attention of a network change nothing, in place; its other weights are loaded before.

    se_var1, a gate without parameters, stays as it is.

    Args:
        network: A network of `create_backbone`, with any attention but aa, which replaces
            convolutions.
    """
    for block in network.modules():
        if isinstance(block, AttentionBlock):
            layers = _LAST_LAYERS.get(type(block.attention), ())
            for name in layers:
                for parameter in block.attention.get_submodule(name).parameters(recurse=False):
                    nn.init.zeros_(parameter)
            norm = _norm_before_attention(block)
            norm.weight.data *= 2 ** len(layers)
            norm.bias.data *= 2 ** len(layers)


def _norm_before_attention(block: AttentionBlock) -> Any:
    if isinstance(block, AttentionBottleneck):
        return block.bn3
    return block.bn2 if isinstance(block, AttentionBasicBlock) else block.conv[-1]
