"""Read files of weights without running anything in them, and translate their keys.

Attention is ``attention`` in a block here; each mechanism states its names in other projects. All
other weights are named as in torchvision.
"""

import json
import re
import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eca_lightning.attention.base import ForeignKey, attention_class, attention_names
from eca_lightning.backbones.blur_pool import binomial_filter
from eca_lightning.backbones.factory import BackboneConfig
from eca_lightning.backbones.resnet_names import pooling
from eca_lightning.utils.checks import require_shallow
from eca_lightning.weights import look_alikes
from eca_lightning.weights.find import Kind, find_network
from eca_lightning.weights.source import locate_weights, settings_of
from eca_lightning.weights.tensors import require_usable

_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)
_DOWNLOAD = "download it again, or have its state dict saved alone"
_CONFIG_BYTES = 2**20
_BLUR = ".blur_filter"
_OF_A_LAYER = ("weight", "bias")


@dataclass(frozen=True)
class WeightsFile:
    """The weights of a classification network and the metadata of their file.

    Attributes:
        path: The file.
        tensors: The weights by the names that `create_backbone` gives them, on the CPU.
        arch: What the file calls the network; None if it does not.
        backbone: The network of a checkpoint of `ImageClassifier`, None in other files.
        hyper_parameters: Settings that the file or the config beside it names, such as mean.
        class_names: Of such a checkpoint, if it knew them.
        preprocessing: What such a checkpoint's evaluation does to images, as the file says it.
        notes: Which of the file's weights these are, in phrases for a report.
        unlike: Why the network only looks like one of this package, if it is known.
        told: What the file says of the network that its weights do not show: see
            `look_alikes.understood`; ``blur_pool`` lists FFCV's blurred convolutions.
    """

    path: Path
    tensors: dict[str, Tensor]
    arch: str | None
    backbone: BackboneConfig | None
    hyper_parameters: Mapping[str, Any]
    class_names: list[str] | None
    notes: Sequence[str] = ()
    unlike: str = ""
    told: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Any = None


def read_weights(path: str | Path, kind: Kind | None = None) -> WeightsFile:
    """Read the weights of a classification network.

    It takes checkpoints of `ImageClassifier` and of the original project, and state dicts of
    `create_backbone`, torchvision and timm's ``resnet`` family, as `torch.save` writes them or as
    ``.safetensors``, see `find_network`. A ``config.json`` of the Hub beside the file, or the
    ``.json`` of an export, is read as well. Only tensors and plain data are unpickled.

    Args:
        path: The file, a run, or a name in a library; see `locate_weights`.
        kind: Averaged (``ema``) or trained weights (``raw``), where the file has both. Default: the
            averages, as in timm.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, has another format or holds no such weights, or one that
            is NaN, infinite or no floating-point number.
        ImportError: If it is a ``.safetensors`` and the package of that name is missing.
    """
    by_library = settings_of(path)
    path = locate_weights(path)
    content = _read(path)
    config = by_library | _config_beside(path)
    hyper_parameters = content.get("hyper_parameters", config)
    if not isinstance(hyper_parameters, dict):
        hyper_parameters = {}
    if "detector" in hyper_parameters:
        raise ValueError(
            f"{path} holds a detector: give the weights of a classification network, "
            "or load this file by ObjectDetector.load_from_checkpoint"
        )
    backbone = _saved_backbone(hyper_parameters)
    try:
        if backbone is not None:
            view = content.get("preprocessing", config.get("preprocessing"))
            require_shallow([hyper_parameters, content.get("class_names"), view])
        found = find_network(content, kind, is_own=backbone is not None)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    require_usable(found.tensors, path)
    tensors = translated(found.tensors)
    if backbone is not None:
        names = content.get("class_names", config.get("class_names"))
        is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
        names = names if is_named else None
        pool = pooling(backbone.name)
        told = {} if pool is None else {"pooling": pool}
        known = (path, tensors, None, backbone, hyper_parameters, names, found.notes)
        return WeightsFile(*known, told=told, preprocessing=view)
    given = list(look_alikes.settings(config | content))
    called = look_alikes.names(path, given)
    try:
        told = look_alikes.understood(called, given)
        tensors, blurred = _without_blur(tensors)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    return WeightsFile(
        path,
        tensors,
        called[0] if len(called) > 1 else None,
        None,
        dict(given),
        None,
        found.notes,
        look_alikes.difference(called, given, found.outside),
        told | ({"blur_pool": blurred} if blurred else {}),
    )


def translated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the names and shapes of `create_backbone`."""
    mechanisms: list[Any] = [attention_class(name) for name in attention_names()]
    known: dict[ForeignKey, None] = dict.fromkeys(
        key for mechanism in mechanisms for key in mechanism.foreign_keys
    )
    renamed = {}
    for key, value in tensors.items():
        for foreign in known:
            key, value = foreign.translate(key, value)
        renamed[key] = value
    return renamed


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        start = file.read(256)
    if not start:
        raise ValueError(f"{path} is empty: {_DOWNLOAD}")
    if _WEB_PAGE.match(start):
        raise ValueError(f"{path} is a web page and no file of weights: {_DOWNLOAD}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        # Scripts of timm and torchvision save their options as a Namespace. Warnings are of tensors
        # that are refused.
        with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(
            f"{path} needs the package safetensors: pip install 'eca-lightning[export]'"
        ) from error
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()} | {  # noqa: SIM118
                "metadata": file.metadata() or {}
            }
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no .safetensors file: {_DOWNLOAD}") from error


def _config_beside(path: Path) -> dict[str, Any]:
    """Read the description of a network in the file's folder, if there is one."""
    exported = path.with_suffix(".json")
    beside = exported if path.suffix == ".safetensors" and exported.is_file() else None
    beside = beside or path.with_name("config.json")
    if path.suffix == ".ckpt" or not beside.is_file():
        return {}
    try:
        if beside.stat().st_size > _CONFIG_BYTES:
            raise ValueError("it is too large")
        config = json.loads(beside.read_bytes())
        require_shallow([config])
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{beside}, which should describe {path.name}, is damaged ({error}): repair or move it"
        ) from error
    return config if isinstance(config, dict) else {}


def _without_blur(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return weights by the keys without FFCV's blur, and the names of the blurred convolutions.

    Raises:
        ValueError: If the filter is another than FFCV's.
    """
    blurred = [key.removesuffix(_BLUR) for key in tensors if key.endswith(_BLUR)]
    for name in blurred:
        blur = tensors[f"{name}{_BLUR}"]
        if blur.shape[1:] != (1, 3, 3) or not torch.equal(blur.float(), binomial_filter(len(blur))):
            raise ValueError(f"blurs before {name} by another filter than FFCV's")
    inner = {f"{name}.conv.{kind}": f"{name}.{kind}" for name in blurred for kind in _OF_A_LAYER}
    return {inner.get(k, k): v for k, v in tensors.items() if not k.endswith(_BLUR)}, blurred


def _saved_backbone(hyper_parameters: Mapping[str, Any]) -> BackboneConfig | None:
    saved = hyper_parameters.get("backbone")
    known = {entry.name for entry in fields(BackboneConfig)}
    if not isinstance(saved, dict) or "name" not in saved or not saved.keys() <= known:
        return None
    return BackboneConfig(**saved)
