"""The command ``attention``: draw gates, kernels and Grad-CAM of a trained classifier."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from eca_lightning.classification.callbacks.attention_figures import (
    ClassSample,
    evenly_spread,
    figures,
)
from eca_lightning.classification.callbacks.attention_gates import gates_of
from eca_lightning.classification.import_command import load_classifier
from eca_lightning.classification.task import ImageClassifier
from eca_lightning.data.folder.datamodule import ImageFolderDataModule
from eca_lightning.data.from_config import create_data_module
from eca_lightning.explain import grad_cam
from eca_lightning.utils.checks import other_classes, require
from eca_lightning.utils.reports import save_figure


def attention(
    checkpoint: Path,
    data: Path,
    against: Path | None = None,
    classes: list[str] | None = None,
    images_per_class: int = 32,
    image_size: int | None = None,
    output: Path = Path("runs/attention"),
    rename_classes: bool = False,
    modules: list[str] | None = None,
) -> None:
    """Draw what the attention of a trained classifier does to validation images.

    The output folder gets channel_weights.png, the mean gate of each channel for each class (the
    figure of the paper's supplement); gates.png, the distribution of gates by depth and over
    images; kernels.png, ECA's weights by depth; and grad_cam.png, Grad-CAM of the true class of
    some images. The first two are for ECA, SE and its ablations.

    Args:
        checkpoint: Any classifier that import reads. --run with the folder of a run stands for its
            best checkpoint and its data.
        data: The config of a data module, such as configs/data/fashion_mnist.yaml, or of a run, for
            its validation images; or a folder of class folders.
        against: Another classifier of the same classes, such as one without attention, to compare
            Grad-CAM with.
        classes: Names of the classes to draw. Default: four, evenly spaced.
        images_per_class: Number of images of each class, the first ones.
        image_size: Height and width of the center crop of images from a folder, in pixels.
            Default: 224.
        output: Folder for the figures.
        rename_classes: Take the data's class names where they differ from a classifier's, as those
            of the same classes in the same order.
        modules: Modules of your own to import first: a checkpoint may name the attention and the
            backbones in them.

    Raises:
        FileNotFoundError: If a file or folder does not exist.
        ValueError: If data and classifiers have different classes, or a class is unknown.
    """
    for module in modules or ():
        import_module(module)
    require(images_per_class >= 1, "images_per_class", "at least 1", images_per_class)
    models = [load_classifier(path) for path in (checkpoint, against) if path is not None]
    module = _data_module(data, image_size)
    module.setup("validate")
    try:
        names = getattr(module, "class_names", None) or models[0].class_names
        counts = [model.hparams["backbone"]["num_classes"] for model in models]
        if len({*counts, len(names or range(counts[0]))}) > 1:
            raise ValueError(
                f"{data} has {len(names or [])} classes, and the classifiers have "
                f"{', '.join(map(str, counts))}: give data and classifiers of the same classes"
            )
        for known in (model.class_names for model in models):
            if known and names and known != names and not rename_classes:
                raise ValueError(f"class_names {other_classes(known, names)}")
        sample = ClassSample(_labels(classes, names, counts[0]), images_per_class)
        for images, labels in module.val_dataloader():
            sample.add(images, labels)
            if sample.is_complete:
                break
    finally:
        module.teardown("validate")
    if sample.is_empty:
        raise ValueError(f"{data} has no image of these classes: choose others")
    images, labels = sample.taken()
    drawn: list[tuple[str, Figure]] = []
    if gates := gates_of(models[0], images):
        drawn += figures(models[0].backbone, gates, labels, names)
    drawn.append(("grad_cam", _overlays(models, images, labels, names)))
    for name, figure in drawn:
        save_figure(figure, output / f"{name}.png")
        print(output / f"{name}.png")


def _data_module(data: Path, image_size: int | None) -> Any:
    """Create the data module of a config or a folder."""
    if data.is_dir():
        crop, resize = image_size or 224, round((image_size or 224) * 256 / 224)
        return ImageFolderDataModule(
            val=data, image_size=crop, resize_size=resize, batch_size=32, num_workers=0
        )
    if image_size is not None and data.is_file():
        raise ValueError(f"{data} sets the size of its images: leave out image_size")
    return create_data_module(data)


def _labels(classes: list[str] | None, names: Sequence[str] | None, count: int) -> list[int]:
    """Return the labels of the classes to draw."""
    if classes is None:
        return evenly_spread(count, 4)
    known = list(names or map(str, range(count)))
    unknown = [name for name in classes if name not in known]
    if unknown or not classes:
        found, more = ", ".join(unknown) or "none given", ", ..." * (len(known) > 20)
        raise ValueError(f"classes: {found}: choose from {', '.join(known[:20])}{more}")
    return [known.index(name) for name in classes]


def _overlays(
    models: Sequence[ImageClassifier], images: Tensor, labels: Tensor, names: Sequence[str] | None
) -> Figure:
    """Draw Grad-CAM of each classifier on the first images of each class."""
    places = [(labels == label).nonzero().flatten() for label in labels.unique()]
    shown = torch.cat([place[:2] for place in places])
    images, labels = images[shown], labels[shown]
    views = []
    for model in models:
        inputs = model.normalize(images).float()
        maps, logits = grad_cam.grad_cam(model.backbone, inputs, labels)
        saved = model.hparams["backbone"]
        title = f"{saved['name']}, {saved['attention'] or 'no attention'}"
        views.append(grad_cam.View(title, maps, logits.softmax(dim=1)))
    return grad_cam.draw(images, labels, views, names)
