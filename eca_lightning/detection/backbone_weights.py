"""Load a classifier's weights into the backbone of a detector."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.network import outline
from eca_lightning.training.architecture import differences
from eca_lightning.weights.infer_backbone import require_alike
from eca_lightning.weights.match import compare, summary
from eca_lightning.weights.read import read_weights


def load_backbone(detector: nn.Module, path: str | Path) -> str:
    """Load the weights of a classification network into the backbone of a detector, in place.

    All weights but the classifier's must match in name and shape, both ways. Only the norms'
    counters of batches, which do not change the output, may be missing on one side.

    Returns:
        What was loaded, in one line for the log.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, or its weights do not match the backbone; the
            detector is then unchanged.
    """
    weights = read_weights(path)
    network: Any = detector
    require_alike(weights, network.backbone_config)
    here, saved = network.backbone_config, weights.backbone
    layout = outline(here.name).layout
    given = layout.of_body(weights.tensors)
    body = network.backbone.body
    mismatches = compare(body.state_dict(), given, layout)
    if mismatches:
        raise ValueError(
            f"the weights of {path} are not those of the detector's backbone: "
            f"{summary(mismatches)}. The detector has {_described(here)}, the file "
            f"{_described(saved) if saved else _described_by_keys(given)}: "
            "set the detector's backbone to the file's network, or give another file"
        )
    if saved:  # what neither names nor shapes of weights show
        options = weights.hyper_parameters["backbone"]
        of_classifier = ("num_classes", "in_channels", "fused", "stochastic_depth")
        if unlike := differences(BackboneConfig, options, asdict(here), of_classifier):
            raise ValueError(
                f"{path} is of another network: {unlike}: set the detector's backbone to the "
                "file's network, or give another file"
            )
    body.load_state_dict(given, strict=False)
    left_out = [key for key in weights.tensors if layout.is_classifier(key)]
    return "; ".join(
        [
            f"backbone: {len(given)} tensors of {path}",
            *weights.notes,
            f"left out: {', '.join(left_out) if left_out else 'none'}",
        ]
    )


def _described(backbone: BackboneConfig) -> str:
    attention, options = backbone.attention or "none", backbone.attention_options or ""
    return f"{backbone.name} with attention {attention} {options}".rstrip()


def _described_by_keys(keys: Iterable[str]) -> str:
    parts = sorted({key.split(".attention.")[1] for key in keys if ".attention." in key})
    return f"attention of {', '.join(parts)}" if parts else "no attention"
