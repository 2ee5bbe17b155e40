"""The stages of a network, and their feature maps for other heads."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from eca_lightning.backbones.network import layout_of


class FeaturePyramid(nn.Module):
    """The maps at the end of a network's stages, finest first.

    Their strides are 4, 8, 16 and 32; 1, 2, 4 and 8 with the small stem; 1, 2 and 4 in resnet20 and
    resnet56. The state dict has the keys of the network's body, without the classifier's.
    torchvision's IntermediateLayerGetter requires stages that are direct children of one module.

    Args:
        network: A classification network of `create_backbone`, which gives its modules away.
        first_stage: The finest stage that gives a map; 0 is the stem.

    Attributes:
        out_channels: Channels of the maps; what torchvision's ``FeaturePyramidNetwork`` calls
            ``in_channels_list``.
        stages: Names of all stages, stem first.
        steps: Names of the modules that are called one after the other.
        layout: The layout of the network.
    """

    def __init__(self, network: nn.Module, first_stage: int = 1) -> None:
        super().__init__()
        self.layout = layout_of(network)
        self.stages = self.layout.stages
        body = network.get_submodule(self.layout.body)
        self.steps = list(_steps(body, self.stages))
        used = {step.partition(".")[0] for step in self.steps}
        for name, child in body.named_children():
            if name in used:
                self.add_module(name, child)
        self._levels = {stage: str(i) for i, stage in enumerate(self.stages[first_stage:])}
        self.out_channels = [_channels(self.get_submodule(stage)) for stage in self._levels]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Map images (N, in_channels, H, W) to maps (N, C, h, w) by the names "0", "1" ..."""
        maps = OrderedDict()
        for step in self.steps:
            x = self.get_submodule(step)(x)
            if step in self._levels:
                maps[self._levels[step]] = x
        return maps


def first_stages(network: nn.Module, count: int) -> list[nn.Module]:
    """Return the modules of the first stages of a classification network; the stem is the first."""
    layout = layout_of(network)
    body = network.get_submodule(layout.body)
    return [body.get_submodule(step) for step in _steps(body, layout.stages[:count])]


def last_stage(network: nn.Module) -> nn.Module:
    """Return the module that ends the last stage of a classification network."""
    layout = layout_of(network)
    return network.get_submodule(layout.body).get_submodule(layout.stages[-1])


def _steps(module: nn.Module, stages: Sequence[str], prefix: str = "") -> Iterator[str]:
    """List the modules to be called in sequence, down to those that end stages."""
    for name, child in module.named_children() if stages else ():
        path = prefix + name
        if any(stage.startswith(f"{path}.") for stage in stages):
            yield from _steps(child, stages, f"{path}.")
        else:
            yield path
        if stages[-1] == path or stages[-1].startswith(f"{path}."):
            return


def _channels(stage: Any) -> int:
    """Return the channels of the map that a stage, one block or several, ends with."""
    return stage.out_channels if hasattr(stage, "out_channels") else _channels(stage[-1])
