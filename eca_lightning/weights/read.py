"""Read files of weights without running anything in them, and translate their keys.

Attention is ``attention`` in a block here; each mechanism states its names in other projects. All
other weights are named as in torchvision.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eca_lightning.attention.base import ForeignKey, attention_class, attention_names
from eca_lightning.backbones.factory import BackboneConfig

_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")  # of DataParallel and torch.compile
_OF_TASK = "backbone."  # the network within an ImageClassifier
_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)
_DOWNLOAD = "download it again, or have its state dict saved alone"


@dataclass(frozen=True)
class WeightsFile:
    """The weights of a classification network and the metadata of their file.

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
    """Read the weights of a classification network.

    It takes checkpoints of `ImageClassifier` and of the original project, and state dicts of
    `create_backbone`, torchvision and timm's ``resnet`` family, as `torch.save` writes them or as
    ``.safetensors``, with or without the prefixes of DataParallel and torch.compile. Only tensors
    and plain data are unpickled.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, has another format or holds no such weights.
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
        raise FileNotFoundError(f"weights not found: {path}")
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
    """Return the weights of the network alone, by the names and shapes of `create_backbone`."""
    of_task = any(key.startswith(_OF_TASK) for key in tensors)
    mechanisms: list[Any] = [attention_class(name) for name in attention_names()]
    known: dict[ForeignKey, None] = dict.fromkeys(
        key for mechanism in mechanisms for key in mechanism.foreign_keys
    )
    translated = {}
    for key, value in tensors.items():
        if of_task and not key.startswith(_OF_TASK):
            continue
        key = key.removeprefix(_OF_TASK)
        for foreign in known:
            key, value = foreign.translate(key, value)
        translated[key] = value
    return translated


def _saved_backbone(hyper_parameters: Mapping[str, Any]) -> BackboneConfig | None:
    saved = hyper_parameters.get("backbone")
    known = {field.name for field in fields(BackboneConfig)}
    if not isinstance(saved, dict) or "name" not in saved or not saved.keys() <= known:
        return None
    return BackboneConfig(**saved)
