"""Graphs of detectors, for one image of one size.

Three steps of torchvision's detectors depend on the number of objects before a graph can know it.
While a graph is traced, two are replaced by equivalents that do not; the third, pasting masks into
the image, is left out. A torch.export program still asserts that more than one object is found;
ONNX has no assertions and works with none.
"""

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torchvision.models.detection import transform
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms, poolers, roi_align

from eca_lightning.detection.task import ObjectDetector


class DeployedDetector(nn.Module):
    """A detector, in evaluation mode, with the inputs and outputs of its graph."""

    def __init__(self, model: ObjectDetector) -> None:
        super().__init__()
        self.network: Any = model.detector
        self.first_label = model.first_label

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Detect the objects in a batch of one image, (1, 3, H, W) uint8.

        Returns:
            ``boxes`` (n, 4) XYXY in pixels, ``scores`` (n,), the highest first, ``labels`` (n,)
            int64 from 0 and, by Mask R-CNN, ``masks`` (n, 28, 28): the probability that each cell
            of a box belongs to the object.
        """
        with patch.object(transform, "paste_masks_in_image", lambda masks, *_: masks[:, 0]):
            (found,) = self.network([images[0] / 255])
        return found | {"labels": found["labels"] - self.first_label}


def trace_detector(detector: DeployedDetector, images: Tensor) -> ExportedProgram:
    """Trace a detector for images of the size of an example, (1, 3, H, W) uint8."""
    with (
        torch.no_grad(),
        patch.object(box_ops, "batched_nms", _batched_nms),
        patch.object(poolers, "_multiscale_roi_align", _multiscale_roi_align),
    ):
        return torch.export.export(detector, (images,), strict=False)


def detection_difference(
    expected: dict[str, Tensor], found: dict[str, Tensor], length: int
) -> float:
    """Compute the largest distance of a detection from the nearest one of the other side.

    The order is ignored, as detections of equal score may swap. Distances are of boxes, in units of
    ``length``, the longer side of the image, and of scores, labels and masks; infinity if only one
    side detected something.
    """
    ours, theirs = (_as_rows(side, length) for side in (expected, found))
    if not len(ours) or not len(theirs):
        return 0.0 if len(ours) == len(theirs) else torch.inf
    distances = torch.cdist(ours, theirs, p=torch.inf)
    return max(float(distances.amin(axis).max()) for axis in (0, 1))


def _as_rows(found: dict[str, Tensor], length: int) -> Tensor:
    columns = [found["boxes"] / length, found["scores"][:, None], found["labels"][:, None]]
    if "masks" in found:
        columns.append(found["masks"].flatten(1))
    return torch.cat(columns, dim=1)


def _batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Replace torchvision's `batched_nms`: shift each class so that classes do not overlap."""
    maximum = torch.cat((boxes.flatten(), boxes.new_zeros(1))).max()  # there may be no box
    offsets = idxs.to(boxes.dtype) * (maximum + 1)
    return nms(boxes + offsets[:, None], scores, iou_threshold)


def _multiscale_roi_align(
    features: list[Tensor],
    boxes: list[Tensor],
    output_size: list[int],
    sampling_ratio: int,
    scales: list[float],
    mapper: Any,
) -> Tensor:
    """Replace torchvision's function: pool each box from all levels and keep that of its own."""
    rois, levels = poolers._convert_to_roi_format(boxes), mapper(boxes)
    kept = [
        (levels == index)[:, None, None, None]
        * roi_align(level, rois, output_size, scale, sampling_ratio)
        for index, (level, scale) in enumerate(zip(features, scales, strict=True))
    ]
    return torch.stack(kept).sum(0)
