"""Networks of which channels were pruned, as timm's ``ecaresnet50d_pruned``."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from eca_lightning.backbones.network import Network


def prune(network: Network, sizes: Mapping[str, Sequence[int]]) -> None:
    """Replace convolutions by ones of other channels, in place, and the layers that follow them.

    Args:
        network: A network without attention.
        sizes: Output and input channels of dense convolutions, by name.

    Raises:
        ValueError: If a name or size is none of a dense convolution.
    """
    module: Any = network.module
    layers = dict(module.named_modules())
    for name, size in sizes.items():
        conv = layers.get(name)
        if not isinstance(conv, nn.Conv2d) or conv.groups > 1 or not _is_size(size):
            raise ValueError(f"pruned: {name}: {size}: give [out, in] of a dense convolution")
        kept: Any = {key: getattr(conv, key) for key in ("kernel_size", "stride", "padding")}
        replaced = nn.Conv2d(size[1], size[0], bias=conv.bias is not None, **kept)
        nn.init.kaiming_normal_(replaced.weight, mode="fan_out", nonlinearity="relu")
        module.set_submodule(name, replaced)
    channels = 0
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        elif isinstance(layer, nn.BatchNorm2d) and layer.num_features != channels:
            module.set_submodule(name, nn.BatchNorm2d(channels))
    for slot in network.slots:
        slot.block.out_channels = slot.block.last_norm.num_features
    last: Any = module.get_submodule(network.layout.classifier)
    if isinstance(last, nn.Linear) and last.in_features != network.slots[-1].block.out_channels:
        linear = nn.Linear(network.slots[-1].block.out_channels, last.out_features)
        module.set_submodule(network.layout.classifier, linear)


def _is_size(size: Any) -> bool:
    is_pair = isinstance(size, list | tuple) and len(size) == 2
    return is_pair and all(isinstance(count, int) and count > 0 for count in size)
