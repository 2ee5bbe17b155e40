"""Compare the networks that two sets of options build, however the options are written."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from eca_lightning.backbones import BackboneConfig


def foreign_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that name a class or function of another package, to be imported."""
    return {
        key: value
        for key, value in _flat(options).items()
        if key.rpartition(".")[2] in ("name", "attention")
        and "." in str(value)
        and not str(value).startswith("eca_lightning.")
    }


def differences(
    config: Any, saved: Mapping[str, Any], given: Mapping[str, Any], not_weights: Iterable[str]
) -> str:
    """Name the options because of which two networks differ, in one line; empty if none does.

    The networks are built on the meta device, where they take no memory. Classes and functions that
    saved options name are imported only if the given options name the same.

    Args:
        config: The dataclass of the options, which builds the network.
        saved: Options of a checkpoint. What they leave out is as in the others.
        given: Options of a run.
        not_weights: Options on which neither weights nor outputs depend.
    """
    new = {key: value for key, value in _flat(given).items() if key not in not_weights}
    old = new | {key: value for key, value in _flat(saved).items() if key not in not_weights}
    unlike = {key: value for key, value in old.items() if value != new.get(key)}
    if foreign := foreign_paths(unlike):
        return _line(foreign, new)
    if not unlike:
        return ""
    for path in foreign_paths(new).values():
        with suppress(ImportError, ValueError):  # building says what is wrong
            import_module(path.rpartition(".")[0])
    here = _built(config, new)
    if _built(config, old) == here:
        return ""
    alone = {key: unlike[key] for key in unlike if _built(config, new | {key: old[key]}) != here}
    return _line(alone or unlike, new)


def _line(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    pairs = ((key, value, new.get(key)) for key, value in old.items())
    return "; ".join(
        f"{key} is {was!r} in the checkpoint and {now!r} here" for key, was, now in pairs
    )


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a detector's backbone as ``backbone.NAME``."""
    nested = options.get("backbone")
    below = {f"backbone.{k}": v for k, v in nested.items()} if isinstance(nested, Mapping) else {}
    return {key: value for key, value in options.items() if key != "backbone"} | below


def _built(config: Any, options: Mapping[str, Any]) -> Any:
    """Describe the network of some options by values that can be compared, or why there is none."""
    backbone = {k[9:]: v for k, v in options.items() if k.startswith("backbone.")}
    own = {k: v for k, v in options.items() if not k.startswith("backbone.")}
    try:
        with torch.device("meta"):
            if backbone:
                own["backbone"] = BackboneConfig(**backbone)
            return _described(config(**own).build())
    except Exception as error:  # whatever the options of a stranger's checkpoint lead to
        return error  # which equals no other


def _described(value: Any) -> Any:
    if isinstance(value, nn.Module):
        shapes = {key: tensor.shape for key, tensor in value.state_dict().items()}
        return shapes, [(name, *_attributes(module)) for name, module in value.named_modules()]
    if isinstance(value, list | tuple):
        return [_described(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _described(entry) for key, entry in value.items()}
    if isinstance(value, partial):
        return _described([value.func, value.args, value.keywords])
    if isinstance(value, FunctionType | type):
        return value.__module__, value.__qualname__
    if isinstance(value, Tensor):
        return value.shape
    return value if value is None or isinstance(value, str | int | float) else _attributes(value)


def _attributes(thing: Any) -> Any:
    # They differ in how ranks train together.
    kind = nn.BatchNorm2d if isinstance(thing, nn.SyncBatchNorm) else type(thing)
    skipped = (nn.Module, BackboneConfig)  # modules are described in their turn
    return kind, {
        key: _described(value)
        for key, value in getattr(thing, "__dict__", {}).items()
        if not key.startswith("_") and key != "process_group" and not isinstance(value, skipped)
    }
