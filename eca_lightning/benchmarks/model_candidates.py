"""The networks that ``eca-lightning benchmark model`` compares, this package's and their peers.

``eca_resnet50``, or any other attention and backbone, is this package's, and so is a path of a
YAML file that describes a backbone or a whole run. A prefix names a peer:

``torchvision:resnet50``
    torchvision's own, without attention.
``original:eca_resnet50``
    torchvision's ResNet with ECA as its authors wrote it: a pooling layer, a 1D convolution, a
    sigmoid and a product, each on its own.
``timm:ecaresnet50t``, ``timm:eca_resnet50``
    A model of timm's by its name there; or, where timm has none of the name, its network with its
    attention.
"""

from collections.abc import Callable
from pathlib import Path

import torchvision
import yaml
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from eca_lightning.attention import attention_names
from eca_lightning.attention.eca import kernel_size
from eca_lightning.backbones import BackboneConfig, backbone_names


class OriginalECA(nn.Module):
    """ECA as the module of its authors' repository computes it, one operation after the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = kernel_size(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, taps, padding=taps // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        pooled = self.pool(x).squeeze(-1).transpose(-1, -2)
        gate = self.conv(pooled).transpose(-1, -2).unsqueeze(-1).sigmoid()
        return x * gate.expand_as(x)


def build(contender: str) -> nn.Module:
    """Build a network with new weights.

    Args:
        contender: Its name, see above.

    Raises:
        ValueError: If there is no such network.
        FileNotFoundError: If it is a path and there is no such file.
        ImportError: If it is timm's and timm is not installed.
    """
    prefix, colon, name = contender.partition(":")
    if colon:
        if prefix not in _PEERS:
            raise ValueError(
                f"contenders: {contender!r} begins with none of {', '.join(_PEERS)}; "
                "without a prefix it is this package's network"
            )
        return _PEERS[prefix](name)
    if contender.endswith((".yaml", ".yml")):
        return _backbone_of(Path(contender)).build()
    attention, backbone = _split(contender)
    return BackboneConfig(backbone, attention).build()


def _split(name: str) -> tuple[str | None, str]:
    """Take ``eca_resnet50`` apart into attention and backbone."""
    for backbone in backbone_names():
        attention = name.removesuffix(backbone).removesuffix("_")
        if name == backbone:
            return None, backbone
        if name.endswith(f"_{backbone}") and attention in attention_names():
            return attention, backbone
    raise ValueError(
        f"contenders: {name!r} is no network: give a backbone ({', '.join(backbone_names())}), "
        f"attention and backbone, such as eca_resnet50, or the path of a YAML file; attention is "
        f"one of {', '.join(attention_names())}"
    )


def _backbone_of(path: Path) -> BackboneConfig:
    """The backbone that a config describes, or the run of a config."""
    if not path.is_file():
        raise FileNotFoundError(f"contenders: there is no file {path}")
    found = yaml.safe_load(path.read_text())
    for key in ("model", "init_args", "backbone"):
        if isinstance(found, dict) and key in found:
            found = found[key]
        if isinstance(found, str):  # a file of its own, beside the one that names it
            path = path.parent / found
            found = yaml.safe_load(path.read_text())
    try:
        return BackboneConfig(**found)
    except TypeError as error:
        raise ValueError(f"contenders: {path} describes no backbone: {error}") from None


def _torchvision(name: str) -> nn.Module:
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"contenders: torchvision has no classification network {name!r}")
    return torchvision.models.get_model(name)


def _original(name: str) -> nn.Module:
    if not name.startswith("eca_resnet"):
        raise ValueError(f"contenders: 'original' knows eca_ and a ResNet, not {name!r}")
    network = _torchvision(name.removeprefix("eca_"))
    blocks = [m for m in network.modules() if isinstance(m, BasicBlock | Bottleneck)]
    for block in blocks:
        last = "bn3" if isinstance(block, Bottleneck) else "bn2"
        norm = getattr(block, last)
        setattr(block, last, nn.Sequential(norm, OriginalECA(norm.num_features)))
    return network


def _timm(name: str) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ImportError(
            f"contenders: timm:{name} needs timm (pip install 'eca-lightning[recipes]')"
        ) from None
    if timm.is_model(name):
        return timm.create_model(name)
    attention, backbone = _split(name)
    if attention is None or not backbone.startswith("resnet") or not timm.is_model(backbone):
        raise ValueError(f"contenders: timm has no model {name!r}")
    return timm.create_model(backbone, block_args={"attn_layer": attention})


_PEERS: dict[str, Callable[[str], nn.Module]] = {
    "torchvision": _torchvision,
    "original": _original,
    "timm": _timm,
}
