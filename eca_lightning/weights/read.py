"""Files of weights: read without running anything in them, their keys translated into ours.

Attention lies in a block under ``attention`` here. The original project, BangguWu/ECANet on GitHub,
calls it ``eca`` in residual blocks and appends it to the ``conv`` of MobileNetV2's; timm calls it
``se`` whatever it is, and makes SE's maps of 1x1 convolutions. All else is named as torchvision's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eca_lightning.backbones.factory import BackboneConfig

_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")  # of DataParallel and torch.compile
_OF_TASK = "backbone."  # the network within an ImageClassifier
_TRANSLATIONS = (
    (re.compile(r"^(layer\d+\.\d+)\.(?:eca|se)\."), r"\1.attention."),
    (re.compile(r"^(features\.\d+)\.conv\.\d+\.conv\.weight$"), r"\1.attention.conv.weight"),
)
_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)
_DOWNLOAD = "download it again, or have its state dict saved alone"


@dataclass(frozen=True)
class WeightsFile:
    """The weights of a classification network and what their file says about them.

    Attributes:
        path: The file.
        tensors: The weights by the names that `create_backbone` gives them, on the CPU.
        arch: What the original project or timm calls the network; None in other files.
        backbone: The network of a checkpoint of `ImageClassifier`, None in other files.
        hyper_parameters: Of such a checkpoint, as they were saved; empty in other files.
        class_names: Of such a checkpoint, if it knew them.
    """

    path: Path
    tensors: dict[str, Tensor]
    arch: str | None
    backbone: BackboneConfig | None
    hyper_parameters: Mapping[str, Any]
    class_names: list[str] | None


def read_weights(path: str | Path) -> WeightsFile:
    """Read the weights of a classification network, whoever wrote them.

    Known are checkpoints of `ImageClassifier` and of the original project, and state dicts of
    `create_backbone`, of torchvision's networks and of timm's ``resnet`` family, as `torch.save`
    writes them or as ``.safetensors``, with or without the prefixes of DataParallel and
    torch.compile.

    Args:
        path: The file. Only tensors and plain data are unpickled.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, is something else or holds no such weights.
        ImportError: If it is a ``.safetensors`` and the package of that name is missing.
    """
    path = Path(path)
    content = _read(path)
    state = content.get("state_dict", content)
    items = state.items() if isinstance(state, dict) else ()
    tensors = {
        _WRAPPERS.sub("", str(key)): value for key, value in items if isinstance(value, Tensor)
    }
    if not tensors:
        raise ValueError(f"{path} holds no weights: give a checkpoint or a state dict of a network")
    hyper_parameters = content.get("hyper_parameters")
    if not isinstance(hyper_parameters, dict):
        hyper_parameters = {}
    if "detector" in hyper_parameters:
        raise ValueError(
            f"{path} holds a detector: give the weights of a classification network, "
            "or load this file by ObjectDetector.load_from_checkpoint"
        )
    arch, class_names = content.get("arch"), content.get("class_names")
    return WeightsFile(
        path,
        _translated(tensors),
        arch if isinstance(arch, str) else None,
        _saved_backbone(hyper_parameters),
        hyper_parameters,
        class_names if isinstance(class_names, list) else None,
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"weights not found: there is no file {path}")
    with path.open("rb") as file:
        start = file.read(256)
    if not start:
        raise ValueError(f"{path} is empty: {_DOWNLOAD}")
    if _WEB_PAGE.match(start):
        raise ValueError(f"{path} is a web page and no file of weights: {_DOWNLOAD}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise almost anything
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"{path} holds more than tensors and plain data, {refused[1]}, and could run code: "
                "it was not loaded. Have its state dict saved alone"
            ) from error
        raise ValueError(
            f"{path} is damaged or no file of weights that torch can read: {_DOWNLOAD}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}: give a checkpoint or a state dict"
        )
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f"{path} needs the package safetensors: pip install 'eca-lightning[export]'"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no .safetensors file: {_DOWNLOAD}") from error


def _translated(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of the network, without what stands beside it, our names and shapes."""
    of_task = any(key.startswith(_OF_TASK) for key in tensors)
    translated = {}
    for key, value in tensors.items():
        if of_task and not key.startswith(_OF_TASK):
            continue
        key = key.removeprefix(_OF_TASK)
        for theirs, ours in _TRANSLATIONS:
            key = theirs.sub(ours, key)
        if re.search(r"\.attention\.fc[12]\.weight$", key):
            value = value.flatten(1)
        translated[key] = value
    return translated


def _saved_backbone(hyper_parameters: Mapping[str, Any]) -> BackboneConfig | None:
    saved = hyper_parameters.get("backbone")
    known = {field.name for field in fields(BackboneConfig)}
    if not isinstance(saved, dict) or "name" not in saved or not saved.keys() <= known:
        return None
    return BackboneConfig(**saved)
