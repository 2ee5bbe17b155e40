"""``eca-lightning import``: weights of others become checkpoints, and classifiers in Python."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torchvision.models import ResNet50_Weights

from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.task import IMAGENET_MEAN, IMAGENET_STD, ImageClassifier
from eca_lightning.utils.atomic import atomic_write
from eca_lightning.weights.infer_backbone import infer_backbone
from eca_lightning.weights.match import Match, load_weights, match_weights, summary
from eca_lightning.weights.read import WeightsFile, read_weights


def load_classifier(path: str | Path) -> ImageClassifier:
    """Load a trained classifier, ready to predict; no code that the file names is imported.

    Args:
        path: A checkpoint of this package or of the original project, or a state dict of
            `create_backbone`, torchvision or timm; see
            `eca_lightning.weights.read.read_weights`.

    Returns:
        A model in evaluation mode on the CPU, which maps uint8 images (N, C, H, W) to logits. Its
        ``class_names`` are the file's, or ImageNet's if another project's file has 1000 classes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or its weights are of no network of this package.
    """
    weights = read_weights(path)
    saved = weights.backbone and weights.backbone.require_imported()
    model = _classifier(weights, saved or infer_backbone(weights))
    load_weights(model.backbone, weights)
    return model.eval()


def import_weights(
    source: Path,
    output: Path,
    backbone: BackboneConfig | None = None,
    strict: bool = True,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> None:
    """Make a checkpoint of weights from elsewhere, which fit, validate, test and predict take.

    Known are the original project's checkpoints (.pth.tar), state dicts of torchvision's networks,
    of timm's resnet family and of this package, as torch.save writes them or as .safetensors, and
    checkpoints of this package. Depth, attention, kernel sizes and classes are read from the
    weights. Weights without attention fit a network with attention, whose outputs are then the same
    until it is trained.

    Args:
        source: File of the weights. Only tensors and plain data are unpickled.
        output: The .ckpt to write; --ckpt_path of fit starts a new run from it.
        backbone: The network, for what weights do not show or if it is to be another. Default: read
            from the weights.
        strict: Whether each weight must match. If not, those that do not stay as they were
            initialized: a classifier of other classes, for example.
        mean: Mean of each image channel, from 0 to 1. Default: the checkpoint's, else ImageNet's.
        std: Standard deviation of each image channel. Default: the checkpoint's, else ImageNet's.

    Raises:
        FileNotFoundError: If there is no source.
        ValueError: If it cannot be read, or does not match the network; nothing is written then.
    """
    if output.suffix != ".ckpt":
        raise ValueError(f"a checkpoint is written, and {output} is none: let it end in .ckpt")
    weights = read_weights(source)
    if output.exists() and output.samefile(source):
        raise ValueError(f"{output} is the file to be imported: give another output")
    if backbone and weights.backbone and backbone.blur_pool != weights.backbone.blur_pool:
        blur = str(weights.backbone.blur_pool).lower()
        raise ValueError(f"{source} is of a network with blur_pool: {blur}: set it in --backbone")
    known = backbone or (weights.backbone and weights.backbone.require_imported())
    config = known or infer_backbone(weights)
    model = _classifier(weights, config, mean, std)
    match = match_weights(model.backbone, weights.tensors)
    _print(weights, config, match, model.class_names)
    if match.mismatches and (strict or not match.tensors):
        raise ValueError(
            f"{source} does not match {_described(config)}: {summary(match.mismatches)}. Give the "
            "network of the file as --backbone, or load what matches with --strict false"
        )
    match.load(model.backbone)
    saved = asdict(config)
    if known is None:  # names and shapes of weights do not show these: a run's config decides
        for key in ("fused", "blur_pool", "stochastic_depth"):
            del saved[key]
    _save(model, saved, output)
    print(f"checkpoint: {output}")


def _classifier(
    weights: WeightsFile, config: BackboneConfig, mean: Any = None, std: Any = None
) -> ImageClassifier:
    """Build the model, its weights not loaded yet."""
    saved = weights.hyper_parameters
    mean = mean or saved.get("mean", IMAGENET_MEAN)
    model = ImageClassifier(config, mean=mean, std=std or saved.get("std", IMAGENET_STD))
    names = weights.class_names
    if weights.backbone is None and config.num_classes == 1000:
        names = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    if names is not None and len(names) == config.num_classes:
        model.class_names = list(names)
    return model


def _save(model: ImageClassifier, backbone: dict[str, Any], output: Path) -> None:
    """Write a checkpoint of Lightning's form, from which a run starts at its first epoch.

    Its hyper-parameters go before a run's config: only those are in it that belong to the weights.
    """
    kept: dict[str, Any] = {name: list(model.hparams[name]) for name in ("mean", "std")}
    kept |= {"backbone": backbone, "_class_path": "eca_lightning.ImageClassifier"}
    kept["_instantiator"] = "lightning.pytorch.cli.instantiate_module"  # as LightningCLI's have
    checkpoint: dict[str, Any] = {"epoch": 0, "global_step": 0}
    checkpoint |= {"optimizer_states": [], "lr_schedulers": [], "hyper_parameters": kept}
    checkpoint |= {"state_dict": model.state_dict(), "class_names": model.class_names}
    checkpoint["pytorch-lightning_version"] = lightning.__version__
    with atomic_write(output) as part:
        torch.save(checkpoint, part)


def _print(
    weights: WeightsFile, config: BackboneConfig, match: Match, class_names: list[str] | None
) -> None:
    table = Table(title=f"import of {escape(str(weights.path))}", show_header=False)
    table.add_row("network", _described(config))
    if weights.arch:
        table.add_row("called by the file", escape(weights.arch))
    table.add_row("images", f"{config.in_channels} channels")
    named = "" if class_names is None else f", {class_names[0]} to {class_names[-1]}"
    table.add_row("classes", escape(f"{config.num_classes}{named}"))
    table.add_row("tensors that match", str(len(match.tensors)))
    table.add_row("tensors that do not", str(len(match.mismatches)))
    if match.neutral:
        table.add_row("attention", "none in the file: starts neutrally, same outputs")
    console = Console()
    console.print(table)
    if match.mismatches:
        table = Table("weight", "does not match")
        for mismatch in match.mismatches:
            table.add_row(escape(mismatch.key), f"{mismatch.kind} {mismatch.detail}")
        console.print(table)


def _described(config: BackboneConfig) -> str:
    options = ", ".join(f"{key} {value}" for key, value in config.attention_options.items())
    attention = f"attention {config.attention or 'none'}" + (f" ({options})" if options else "")
    stem = f", stem {config.stem}" if config.stem else ""
    return f"{config.name} with {attention}{stem}"
