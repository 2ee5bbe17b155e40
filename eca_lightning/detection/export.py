"""Graphs of detectors: for one image of one size.

How many objects an image holds is known only when a graph runs, and three steps of torchvision's
detectors ask for it earlier: they choose an algorithm by it, loop over boxes, or leave empty levels
of the pyramid out. While a graph is traced, functions that compute the same without asking stand
in for two of them. The third, which pastes masks into the image, is left to the graph's user.

Such a program of torch.export still asserts that more than one object is found. ONNX knows no
assertions, and is right with none.
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
    """A detector as others call it.

    Args:
        model: The detector, in evaluation mode.
    """

    def __init__(self, model: ObjectDetector) -> None:
        super().__init__()
        self.network: Any = model.detector
        self.first_label = model.first_label

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Find the objects on a batch of one image, (1, 3, H, W) uint8.

        Returns:
            ``boxes`` (n, 4) XYXY in pixels, ``scores`` (n,), the highest first, ``labels`` (n,)
            int64 from 0 and, by Mask R-CNN, ``masks`` (n, 28, 28): the probability of each cell of
            a box to show the object.
        """
        with patch.object(transform, "paste_masks_in_image", _first_channel):
            (found,) = self.network([images[0] / 255])
        return found | {"labels": found["labels"] - self.first_label}


def trace_detector(detector: DeployedDetector, images: Tensor) -> ExportedProgram:
    """Record the graph of a detector, in evaluation mode, for images of one size.

    Args:
        detector: The detector.
        images: An example, (1, 3, H, W) uint8.
    """
    with (
        torch.no_grad(),
        patch.object(box_ops, "batched_nms", _batched_nms),
        patch.object(poolers, "_multiscale_roi_align", _multiscale_roi_align),
    ):
        return torch.export.export(detector, (images,), strict=False)


def detection_difference(
    expected: dict[str, Tensor], found: dict[str, Tensor], length: int
) -> float:
    """How far each detection is, at most, from the nearest of the other side.

    Two that score alike may change places, so that their order says nothing.

    Args:
        expected: Outputs of a `DeployedDetector`.
        found: Outputs of its graph.
        length: The longer side of the image, of which differences of boxes are shares.

    Returns:
        The largest difference in boxes, scores or masks; at least 1 where labels differ, infinity
        where one side alone found something.
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


def _first_channel(masks: Tensor, boxes: Tensor, size: Any) -> Tensor:
    return masks[:, 0]


def _batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`torchvision.ops.batched_nms`: classes are moved apart, so that they never overlap."""
    farthest = torch.cat((boxes.flatten(), boxes.new_zeros(1))).max()  # there may be no box
    offsets = idxs.to(boxes.dtype) * (farthest + 1)
    return nms(boxes + offsets[:, None], scores, iou_threshold)


def _multiscale_roi_align(
    features: list[Tensor],
    boxes: list[Tensor],
    output_size: list[int],
    sampling_ratio: int,
    scales: list[float],
    mapper: Any,
) -> Tensor:
    """torchvision's, but each box is pooled from all levels, of which its own is kept."""
    rois, levels = poolers._convert_to_roi_format(boxes), mapper(boxes)
    pooled = [
        roi_align(level, rois, output_size, scale, sampling_ratio)
        for level, scale in zip(features, scales, strict=True)
    ]
    kept = [(levels == index)[:, None, None, None] * p for index, p in enumerate(pooled)]
    return torch.stack(kept).sum(0)
