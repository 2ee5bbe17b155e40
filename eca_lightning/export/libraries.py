"""Write the weights of a classifier in the layout of another library, which loads them strictly."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from eca_lightning.attention.base import Attention, attention_class
from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.network import Layout, layout_of
from eca_lightning.export.graphs import output_difference
from eca_lightning.training.checkpoint_io import save_tensors
from eca_lightning.utils.atomic import exclusive_write
from eca_lightning.weights.match import compare, summary
from eca_lightning.weights.read import translated

Library = Literal["timm", "torchvision", "original"]

_LIMIT = 1e-4
_SUFFIXES = (".pth", ".safetensors")
_ORIGINAL = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2")


class Build(NamedTuple):
    """How a library builds a network."""

    call: str
    architecture: str
    build: Callable[[], nn.Module]


def write_for(
    library: Library, network: nn.Module, config: BackboneConfig, output: Path, images: Tensor
) -> None:
    """Write a state dict that another library loads strictly, and print how.

    Args:
        library: timm, torchvision, or the original project of ECA-Net.
        network: A network of `create_backbone`.
        config: Its options.
        output: A .pth or .safetensors.
        images: Normalized images, for which the library must compute the same logits.

    Raises:
        ValueError: If the library has no such network; nothing is written then.
        ImportError: If the library is not installed.
    """
    if output.suffix not in _SUFFIXES:
        raise ValueError(f"{output}: let a state dict end in {' or '.join(_SUFFIXES)}")
    if config.blur_pool:
        raise ValueError(f"{library} has no blur_pool: its network would compute something else")
    tensors = _renamed(library, network, config)
    if library == "original":
        call, architecture = _check_original(network, config, tensors)
    else:
        builds = _of_timm(config) if library == "timm" else _of_torchvision(config)
        call, architecture, build = _fitting(library, builds, tensors, layout_of(network))
        theirs = build()
        theirs.load_state_dict(tensors)
        with torch.inference_mode():
            expected = {"logits": network.eval()(images)}
            distance = output_difference(expected, {"logits": theirs.eval()(images)})
        if not distance <= _LIMIT:  # written so that NaN fails as well
            raise ValueError(
                f"{call} computes something else of these weights (logits differ by "
                f"{distance:.1e}): {library} has no such network"
            )
    with exclusive_write(output) as part:
        if output.suffix == ".pth":
            save_tensors(tensors, part)
        else:
            from safetensors.torch import save

            part.write_bytes(save(tensors, {"format": "pt", "architecture": architecture}))
    print(f"{output}: {len(tensors)} tensors, strictly for {call}")


def _renamed(library: Library, network: nn.Module, config: BackboneConfig) -> dict[str, Tensor]:
    """Return the weights by the names and shapes of a library."""
    mechanism: Any = attention_class(config.attention) if config.attention else Attention
    keys = mechanism.exported_keys.get(library)
    if config.attention and keys is None:
        raise ValueError(f"{library} has no attention '{config.attention}'")
    renamed = {}
    for key, value in network.state_dict().items():
        if ".attention." in key:
            for foreign in keys:
                key, value = foreign.translate(key, value)
        renamed[key] = value.detach().cpu().contiguous()
    return renamed


def _fitting(
    library: Library, builds: Iterator[Build], tensors: Mapping[str, Tensor], layout: Layout
) -> Build:
    """Return how a library builds the network with weights of these names and shapes."""
    why = ""
    for build in builds:
        with torch.device("meta"):
            expected = build.build().state_dict()
        mismatches = compare(expected, tensors, layout)
        if not mismatches:
            return build
        why = f": of {build.call}, {summary(mismatches)}"
    raise ValueError(f"{library} has no network with these weights{why}")


def _of_torchvision(config: BackboneConfig) -> Iterator[Build]:
    models: Any = torchvision.models
    name, classes = config.name, config.num_classes or 1000
    if name in models.list_models(module=models):
        yield Build(
            f"torchvision.models.{name}(num_classes={classes})",
            name,
            lambda: models.get_model(name, weights=None, num_classes=classes),
        )


def _of_timm(config: BackboneConfig) -> Iterator[Build]:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "--format timm compares with timm, which is missing: "
            "pip install 'eca-lightning[recipes]'"
        ) from error
    layer = _timm_layer(config)
    block = {"block_args": {"attn_layer": layer}} if layer else {}
    name = f"{layer}{config.name}" if layer in ("eca", "se") else config.name
    arguments = {"num_classes": config.num_classes or 1000, "in_chans": config.in_channels}
    for architecture, more in ((f"{name}_pruned", {}), (name, {}), (config.name, block)):
        if architecture in timm.list_models():
            options = {**arguments, **more}
            written = ", ".join(f"{key}={value!r}" for key, value in options.items())
            yield Build(
                f"timm.create_model('{architecture}', {written})",
                architecture,
                lambda a=architecture, o=options: timm.create_model(a, **o),  # type: ignore[misc]
            )


def _timm_layer(config: BackboneConfig) -> str | None:
    options = config.attention_options
    if config.attention == "gc_timm":
        return "gca" if options.get("fusion") == "add" else "gc"
    return "ceca" if options.get("circular") else config.attention


def _check_original(
    network: nn.Module, config: BackboneConfig, tensors: dict[str, Tensor]
) -> tuple[str, str]:
    """Check that the original project has the network, and that its weights are read back."""
    own, back = network.state_dict(), translated(tensors)
    known = config.name in _ORIGINAL and config.attention == "eca" and not config.pruned
    if not known or config.stem == "small":
        raise ValueError(
            f"the original project has no such network, but ECA-Nets of {', '.join(_ORIGINAL)}"
        )
    if config.attention_options.get("circular") or compare(own, back, layout_of(network)):
        raise ValueError("the original project has no circular ECA")
    name = f"eca_{config.name}".replace("mobilenet_", "mobilenet")
    return f"{name} of BangguWu/ECANet", name
