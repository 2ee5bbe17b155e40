"""Draw ground truth and detections on images."""

from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from eca_lightning.detection.task import Batch, ObjectDetector
from eca_lightning.training.callbacks.validation_report import ValidationReport
from eca_lightning.utils.checks import require

_FONT = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
_COLORS = matplotlib.color_sequences["tab10"]


class DetectionImages(ValidationReport):
    """Show a few validation images on TensorBoard, with ground truth and detections.

    The figure ``val/detections`` has one row per image, always the first ones of rank zero: on the
    left the ground truth, on the right the detections with their scores.

    Args:
        images: How many images to show.
        min_score: Detections with a lower score, from 0 to 1, are not drawn.
    """

    task = ObjectDetector

    def __init__(self, images: int = 6, min_score: float = 0.5) -> None:
        require(images >= 1, "DetectionImages: images", "at least 1", images)
        require(0 <= min_score <= 1, "DetectionImages: min_score", "from 0 to 1", min_score)
        self.images = images
        self.min_score = min_score

    def collect(self, collected: Any, pl_module: Any, outputs: Any, batch: Batch) -> list[Any]:
        """Keep the first images; the step returns the detections on each."""
        rows = collected or []
        new = list(zip(*batch, outputs["detections"], strict=True))[: self.images - len(rows)]
        return rows + [(image.cpu(), _on_cpu(there), _on_cpu(found)) for image, there, found in new]

    def write(self, writer: Any, gathered: Any, pl_module: ObjectDetector) -> None:
        """Draw the images."""
        names = pl_module.class_names
        drawn = [
            [draw_objects(image, objects, names, self.min_score) for objects in both]
            for image, *both in gathered
        ]
        writer.add_figure("val/detections", _side_by_side(drawn))


def draw_objects(
    image: Tensor, objects: dict[str, Tensor], names: list[str] | None, min_score: float = 0.0
) -> Tensor:
    """Draw boxes, names, scores and masks on a copy of a uint8 image (3, H, W), on the CPU.

    ``scores`` of detections, ``iscrowd`` of the ground truth and ``masks`` (n, H, W) are optional.
    Detections with a score below ``min_score`` are left out. Small images are enlarged by an
    integer factor, to at least 400 pixels, so that the names are readable.
    """
    if "scores" in objects:
        kept = objects["scores"] >= min_score
        objects = {name: values[kept] for name, values in objects.items()}
    factor = ceil(400 / min(image.shape[1:]))
    image = _enlarged(image, factor)
    labels = objects["labels"].tolist()
    if not labels:
        return image
    colors = [to_hex(_COLORS[label % len(_COLORS)]) for label in labels]
    if "masks" in objects:
        masks = _enlarged(objects["masks"], factor).bool()
        image = draw_segmentation_masks(image, masks, alpha=0.5, colors=colors)
    side = min(image.shape[1:])
    return draw_bounding_boxes(
        image,
        objects["boxes"].float() * factor,
        _captions(objects, names),
        colors,
        width=ceil(side / 300),
        font=_FONT,
        font_size=max(12, side // 35),
        fill_labels=True,
    )


def _captions(objects: dict[str, Tensor], names: list[str] | None) -> list[str]:
    captions = [names[k] if names else str(k) for k in objects["labels"].tolist()]
    if "scores" in objects:
        scores = objects["scores"].tolist()
        return [f"{name} {score:.2f}" for name, score in zip(captions, scores, strict=True)]
    crowds = objects.get("iscrowd", [0] * len(captions))
    return [f"{name}, crowd" if c else name for name, c in zip(captions, crowds, strict=True)]


def _enlarged(pixels: Tensor, factor: int) -> Tensor:
    return pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _side_by_side(rows: list[list[Tensor]]) -> Figure:
    """Draw a grid of images with one row per image."""
    heights = [row[0].shape[1] / row[0].shape[2] for row in rows]
    figure = Figure((9, 4.5 * sum(heights) + 0.4), dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights)
    for axes, image in zip(grid.flatten(), chain.from_iterable(rows), strict=True):
        axes.set_axis_off()
        axes.imshow(image.permute(1, 2, 0).numpy())
    for axes, title in zip(grid[0], ("ground truth", "detections"), strict=True):
        axes.set_title(title)
    return figure
