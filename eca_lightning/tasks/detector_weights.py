"""ImageNet weights for the backbone of a detector."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_CLASSIFIER = ("fc.", "classifier.")
_SHOWN = 3


def load_backbone(detector: nn.Module, path: str | Path) -> str:
    """Load the weights of a classification network into the backbone of a detector, in place.

    All but the classifier has to agree in name and shape, both ways. Only the norms' counters of
    batches, which change no output, may be on one side alone.

    Args:
        detector: What `eca_lightning.tasks.detectors.DetectorConfig.build` makes.
        path: A checkpoint of `ImageClassifier`, or a state dict of `create_backbone` or torchvision
            as `torch.save` writes it.

    Returns:
        One line that says what was loaded, for the log.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, or its weights are not those of the backbone; the
            detector is then as it was.
    """
    path = Path(path)
    checkpoint = _read(path)
    weights = _classification_weights(checkpoint)
    if not weights:
        raise ValueError(f"{path} holds no weights: give a checkpoint or a state dict of a network")
    network: Any = detector
    here = asdict(network.backbone_config)
    saved = _saved_backbone(checkpoint)
    if saved and saved.get("blur_pool", False) != here["blur_pool"]:
        raise ValueError(
            f"{path} is of a network with blur_pool: {str(not here['blur_pool']).lower()}: "
            "set the backbone's blur_pool to that, or give another file"
        )
    given = {key: value for key, value in weights.items() if not key.startswith(_CLASSIFIER)}
    body = network.backbone.body
    mismatches = _mismatches(body.state_dict(), given)
    if mismatches:
        raise ValueError(
            f"the weights of {path} are not those of the detector's backbone: "
            f"{'; '.join(mismatches)}. The detector has {_described(here)}, the file "
            f"{_described(saved) if saved else _described_by_keys(given)}: "
            "set the detector's backbone to the file's network, or give another file"
        )
    body.load_state_dict(given, strict=False)
    left_out = [key for key in weights if key not in given]
    return (
        f"backbone: {len(given)} tensors of {path}; "
        f"left out: {', '.join(left_out) if left_out else 'none'}"
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"weights of the backbone not found: there is no file {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise ValueError(
            f"{path} is no file of weights that torch can read: it is damaged, is something else, "
            "such as a web page, or holds more than tensors and plain data"
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f"{path} holds a {type(checkpoint).__name__}: give a checkpoint or a state dict"
        )
    return checkpoint


def _classification_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a classification network, under the names that a detector's body uses."""
    state = checkpoint.get("state_dict", checkpoint)
    items = state.items() if isinstance(state, dict) else ()
    weights = {str(key): value for key, value in items if isinstance(value, Tensor)}
    of_task = {key for key in weights if key.startswith("backbone.")}
    return {
        key.removeprefix("backbone.").removeprefix("features."): value
        for key, value in weights.items()
        if not of_task or key in of_task
    }


def _saved_backbone(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """What a checkpoint of `ImageClassifier` says of its network; None for other files."""
    hyper_parameters = checkpoint.get("hyper_parameters")
    backbone = hyper_parameters.get("backbone") if isinstance(hyper_parameters, dict) else None
    return backbone if isinstance(backbone, dict) else None


def _mismatches(expected: dict[str, Tensor], given: dict[str, Tensor]) -> list[str]:
    """Say in what two sets of weights differ, one phrase a kind."""
    found = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "of another shape": [
            f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected
            if key in given and given[key].shape != expected[key].shape
        ],
    }
    phrases = []
    for kind, keys in found.items():
        keys = [key for key in keys if not key.endswith("num_batches_tracked")]
        if keys:
            shown = ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
            phrases.append(f"{len(keys)} {kind} ({shown})")
    return phrases


def _described(backbone: dict[str, Any]) -> str:
    attention = backbone.get("attention") or "none"
    options = backbone.get("attention_options") or ""
    return f"{backbone.get('name')} with attention {attention} {options}".rstrip()


def _described_by_keys(keys: Iterable[str]) -> str:
    parts = sorted({key.split(".attention.")[1] for key in keys if ".attention." in key})
    return f"attention of {', '.join(parts)}" if parts else "no attention"
