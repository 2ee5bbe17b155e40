"""The models that ``benchmark model`` compares: this package's and those of other libraries.

``eca_resnet50``, or any other attention and backbone, is this package's, and so is a path of a
YAML file that describes a backbone or a whole run. A prefix names another library:

``torchvision:resnet50``
    torchvision's, without attention.
``original:eca_resnet50``
    torchvision's ResNet with ECA as its authors implemented it: a pooling layer, a 1D convolution,
    a sigmoid and a product, one after the other.
``timm:ecaresnet50t``, ``timm:eca_resnet50``
    timm's model of that name; where there is none, its network with its attention.
"""

from collections.abc import Callable
from pathlib import Path

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from eca_lightning.attention import attention_names
from eca_lightning.attention.eca import kernel_size
from eca_lightning.backbones import BackboneConfig, backbone_names
from eca_lightning.backbones.network import find_backbone
from eca_lightning.utils.yaml_files import read_yaml


class OriginalECA(nn.Module):
    """ECA as its authors' repository implements it, one operation after the other."""

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


def build(model: str) -> nn.Module:
    """Build a model with new weights from its name, see the module's docstring.

    Raises:
        ValueError: If there is no such model.
        FileNotFoundError: If the name is a path and there is no such file.
        ImportError: If the model is timm's and timm is not installed.
    """
    prefix, colon, name = model.partition(":")
    if colon:
        if prefix not in _LIBRARIES:
            raise ValueError(
                f"models: unknown prefix of {model!r}: it must be one of {', '.join(_LIBRARIES)}; "
                "a name without a prefix is a model of this package"
            )
        return _LIBRARIES[prefix](name)
    if model.endswith((".yaml", ".yml")):
        return _backbone_of(Path(model)).build()
    attention, backbone = _split(model)
    return BackboneConfig(backbone, attention).build()


def _split(name: str) -> tuple[str | None, str]:
    """Split ``eca_resnet50`` into attention and backbone."""
    if find_backbone(name):
        return None, name
    for attention in attention_names():
        backbone = name.removeprefix(f"{attention}_")
        if backbone != name and find_backbone(backbone):
            return attention, backbone
    raise ValueError(
        f"models: unknown model {name!r}: give a backbone ({', '.join(backbone_names())}), "
        f"attention and backbone, such as eca_resnet50, or the path of a YAML file; attention is "
        f"one of {', '.join(attention_names())}"
    )


def _backbone_of(path: Path) -> BackboneConfig:
    """Read the backbone from the config of a backbone or of a run."""
    if not path.is_file():
        raise FileNotFoundError(f"models: file not found: {path}")
    found = read_yaml(path)
    for key in ("model", "init_args", "backbone"):
        if isinstance(found, dict) and key in found:
            found = found[key]
        if isinstance(found, str):  # a file, relative to the one that names it
            path = path.parent / found
            found = read_yaml(path)
    try:
        return BackboneConfig(**found)
    except TypeError as error:
        raise ValueError(f"models: {path} does not describe a backbone: {error}") from None


def _torchvision(name: str) -> nn.Module:
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"models: torchvision has no classification model {name!r}")
    return torchvision.models.get_model(name)


def _original(name: str) -> nn.Module:
    if not name.startswith("eca_resnet"):
        raise ValueError(f"models: original: needs eca_ and a ResNet, got {name!r}")
    network = _torchvision(name.removeprefix("eca_"))
    for block in [m for m in network.modules() if isinstance(m, BasicBlock | Bottleneck)]:
        last = "bn3" if isinstance(block, Bottleneck) else "bn2"
        norm = getattr(block, last)
        setattr(block, last, nn.Sequential(norm, OriginalECA(norm.num_features)))
    return network


def _timm(name: str) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ImportError(
            f"models: timm:{name} needs timm (pip install 'eca-lightning[recipes]')"
        ) from None
    if timm.is_model(name):
        return timm.create_model(name)
    attention, backbone = _split(name)
    if attention is None or not backbone.startswith("resnet") or not timm.is_model(backbone):
        raise ValueError(f"models: timm has no model {name!r}")
    return timm.create_model(backbone, block_args={"attn_layer": attention})


_LIBRARIES: dict[str, Callable[[str], nn.Module]] = {
    "torchvision": _torchvision,
    "original": _original,
    "timm": _timm,
}
