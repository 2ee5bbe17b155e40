"""``eca-lightning import``: weights of others become checkpoints, and classifiers in Python."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torchvision.models import ResNet50_Weights

from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.network import outline
from eca_lightning.classification.start_weights import described, require_same_network
from eca_lightning.classification.task import IMAGENET_MEAN, IMAGENET_STD, ImageClassifier
from eca_lightning.data.folder.preprocessing import Preprocessing
from eca_lightning.training.checkpoint_io import save_tensors
from eca_lightning.utils.atomic import exclusive_write
from eca_lightning.weights.find import Kind
from eca_lightning.weights.infer_backbone import infer_backbone
from eca_lightning.weights.look_alikes import NOT_SHOWN
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
        ``class_names`` are the file's, or ImageNet's if another project's file has 1000 classes;
        its ``transform`` makes such an image of a file or of one of Pillow's, as its evaluation
        did, or at 224 pixels if the file does not say.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or its weights are of no network of this package.
    """
    weights = read_weights(path)
    for note in weights.notes:
        rank_zero_info(f"weights of {path}: {note}")
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
    weights: Kind | None = None,
) -> None:
    """Make a checkpoint of weights from elsewhere, which fit, validate, test and predict take.

    Known are the original project's checkpoints (.pth.tar), state dicts of torchvision's networks,
    of timm's resnet family and of this package, as torch.save writes them or as .safetensors, and
    checkpoints of this package. State dicts may be nested, and their keys have a prefix. Depth,
    attention, kernel sizes and classes are read from the weights. Weights do not show dilation or
    blur, for example: if the file, its name or a config.json beside it says that the network is
    none of this package, it is refused. Weights without attention fit a network with attention,
    whose outputs are then the same until it is trained.

    Args:
        source: File of the weights, a run, or a name in a library: torchvision:NAME, timm:NAME or
            hf-hub:OWNER/NAME. Only tensors and plain data are unpickled.
        output: The .ckpt to write; --ckpt_path of fit starts a new run from it.
        backbone: The network, for what weights do not show or if it is to be another. Default: read
            from the weights.
        strict: Whether each weight must match. If not, those that do not stay as they were
            initialized: a classifier of other classes, for example.
        mean: Mean of each image channel, from 0 to 1. Default: the file's or that of the
            config.json beside it, else ImageNet's.
        std: Standard deviation of each image channel. Default: as the mean's.
        weights: Of a file with averaged and trained weights, such as state_dict_ema and state_dict
            of timm, which to take: ema or raw. Default: ema.

    Raises:
        FileNotFoundError: If there is no source.
        ValueError: If it cannot be read, or does not match the network; nothing is written then.
    """
    if output.suffix != ".ckpt":
        raise ValueError(f"a checkpoint is written, and {output} is none: let it end in .ckpt")
    file = read_weights(source, weights)
    if output.exists() and output.samefile(file.path):
        raise ValueError(f"{output} is the file to be imported: give another output")
    known = backbone or (file.backbone and file.backbone.require_imported())
    config = known or infer_backbone(file)
    if config.num_classes is None:
        config = replace(config, num_classes=_classes(file, config))
    model = _classifier(file, config, mean, std)
    match = match_weights(model.backbone, file.tensors)
    _print(file, model, match, is_inferred=known is None)
    if match.mismatches and (strict or not match.tensors):
        raise ValueError(
            f"{source} does not match {described(config)}: {summary(match.mismatches)}. Give the "
            "network of the file as --backbone, or load what matches with --strict false"
        )
    require_same_network(file, config, match)
    match.load(model.backbone)
    kept = asdict(config)
    if config.num_classes is None:  # there is no classifier in the file: the data decides
        del kept["num_classes"]
    if known is None:  # names and shapes of weights do not show these: a run's config decides
        for key in ("fused", "stochastic_depth", *(() if config.blur_pool else ("blur_pool",))):
            del kept[key]
    _save(model, kept, output)
    print(f"checkpoint: {output}")


def _classes(file: WeightsFile, config: BackboneConfig) -> int | None:
    """Count the classes of a file's classifier; None without one."""
    is_classifier = outline(config.name).layout.is_classifier
    return next((len(t) for key, t in file.tensors.items() if t.ndim and is_classifier(key)), None)


def _classifier(
    file: WeightsFile, config: BackboneConfig, mean: Any = None, std: Any = None
) -> ImageClassifier:
    """Build the model, its weights not loaded yet."""
    if file.backbone is not None:
        _require_same_size(file, config)
    count, saved = config.in_channels, file.hyper_parameters
    mean = mean or _per_channel(saved.get("mean"), count) or IMAGENET_MEAN
    std = std or _per_channel(saved.get("std"), count) or IMAGENET_STD
    if not len(mean) == len(std) == count:
        example = "[" + ", ".join(["0.5"] * count) + "]"
        raise ValueError(
            f"{file.path} is of a network for images of {count} channel(s): import it with one "
            f"value per channel, as in --mean '{example}' --std '{example}'"
        )
    model = ImageClassifier(config, mean=mean, std=std)
    try:
        model.preprocessing = (
            Preprocessing.from_dict(file.preprocessing)
            if file.backbone
            else Preprocessing.of_library(saved)
        )
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from error
    names = file.class_names
    if file.backbone is None and config.num_classes == 1000:
        names = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    if names is not None and len(names) == config.num_classes:
        model.class_names = list(names)
    return model


def _require_same_size(file: WeightsFile, config: BackboneConfig) -> None:
    """Raise a ValueError if a file's options build no network, or one much larger than it."""
    try:
        with torch.device("meta"):
            size = sum(tensor.numel() for tensor in config.build().state_dict().values())
    except Exception as error:  # whatever the options lead to
        raise ValueError(f"{file.path}: its backbone cannot be built: {error}") from error
    held = sum(tensor.numel() for tensor in file.tensors.values())
    if size > 2 * held + 1_000_000:
        raise ValueError(
            f"{file.path} is damaged: it holds {held:,} weights, but its backbone has {size:,}"
        )


def _per_channel(values: Any, count: int) -> list[float] | None:
    """Return what a file says of the channels of images, if it is on the scale from 0 to 1."""
    if not isinstance(values, list | tuple) or len(values) != count:
        return None
    return list(values) if all(isinstance(v, int | float) and 0 <= v <= 1 for v in values) else None


def _save(model: ImageClassifier, backbone: dict[str, Any], output: Path) -> None:
    """Write a checkpoint of Lightning's form, from which a run starts at its first epoch.

    Its hyper-parameters go before a run's config: only those are in it that belong to the weights.
    """
    kept: dict[str, Any] = {name: list(model.hparams[name]) for name in ("mean", "std")}
    kept |= {"backbone": backbone, "_class_path": "eca_lightning.ImageClassifier"}
    kept["_instantiator"] = "lightning.pytorch.cli.instantiate_module"  # as LightningCLI's have
    checkpoint: dict[str, Any] = {"epoch": 0, "global_step": 0}
    checkpoint |= {"optimizer_states": [], "lr_schedulers": [], "hyper_parameters": kept}
    checkpoint |= {"state_dict": model.state_dict(), **model.classes_and_scores()}
    checkpoint["pytorch-lightning_version"] = lightning.__version__
    with exclusive_write(output) as part:
        save_tensors(checkpoint, part)


def _print(file: WeightsFile, model: ImageClassifier, match: Match, is_inferred: bool) -> None:
    config, names = model.backbone_config, model.class_names
    table = Table(title=f"import of {escape(str(file.path))}", show_header=False)
    for note in file.notes:
        table.add_row("weights", escape(note))
    table.add_row("network", described(config))
    if is_inferred:
        table.add_row("not shown by weights", f"{NOT_SHOWN}: taken to be as torchvision's")
    if file.arch:
        table.add_row("called by the file", escape(file.arch))
    if file.unlike:
        table.add_row("differs by its name", escape(file.unlike))
    table.add_row("images", f"{config.in_channels} channels")
    if model.preprocessing:
        table.add_row("evaluation", str(model.preprocessing))
    for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        values = ", ".join(f"{value:g}" for value in model.hparams[name])
        table.add_row(name, values + ", ImageNet's" * (tuple(model.hparams[name]) == usual))
    named = "" if names is None else f", {names[0]} to {names[-1]}"
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
