"""COCO's average precision and recall.

torchmetrics' MeanAveragePrecision computes them, and would differ from pycocotools' COCOeval in
four places, each of which is mended here:

- its thresholds are float32, so that an overlap of exactly 0.6 misses the threshold 0.6, and a
  recall of exactly 0.1 that of 0.1: it is given numpy's, in float64;
- it replaces an annotation's area of 0 by that of the box or mask: it is given a tiny one;
- scores that tie are ordered by image, and it takes images as they come: it is given them by id;
- ranks that have seen different numbers of images wait for one another forever: here they send
  what they have, with masks run-length encoded, to rank zero.

COCOeval takes the area of a mask's result from its box where the result has one, which moves APs,
APm and APl; here, as in Detectron2's evaluation, it is the mask's.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torchmetrics.detection import MeanAveragePrecision

_NAMES = {
    "AP": "map",
    "AP50": "map_50",
    "AP75": "map_75",
    "APs": "map_small",
    "APm": "map_medium",
    "APl": "map_large",
    "AR1": "mar_1",
    "AR10": "mar_10",
    "AR100": "mar_100",
    "ARs": "mar_small",
    "ARm": "mar_medium",
    "ARl": "mar_large",
}
"""COCO's names of its twelve figures, and torchmetrics' names."""


class DetectionScores:
    """Collects detections, image by image, and scores them as COCO's tools do.

    The scores are equal to the last digit however images are sorted into batches and ranks; an
    image that comes twice counts once. What there is nothing to score for is -1, as COCOeval has
    it: APs without small objects, say.

    Args:
        masks: Score masks as well as boxes.
        per_class: Score each class as well.

    Raises:
        ImportError: If a library that this needs is missing.
    """

    def __init__(self, masks: bool = False, per_class: bool = False) -> None:
        missing = [name for name in ("faster_coco_eval", "pycocotools") if not find_spec(name)]
        if missing:
            raise ImportError(
                f"detection is scored by {' and '.join(missing)}: "
                "pip install 'eca-lightning[detection]'"
            )
        with torch.device("cpu"):  # wherever the model is built, on meta for one
            self._metric = MeanAveragePrecision(
                iou_type=("bbox", "segm") if masks else "bbox",
                iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
                rec_thresholds=np.linspace(0, 1, 101).tolist(),
                max_detection_thresholds=[1, 10, 100],
                class_metrics=per_class,
                backend="faster_coco_eval",
                sync_on_compute=False,
            )
            nothing = torch.empty(0, dtype=torch.uint8)
        self._metric.warn_on_many_detections = False  # COCO's tools take the best 100 as well
        self._pixels = {"found": nothing, "there": nothing}
        self._image_ids: list[int] = []
        self._prefixes = {"box": "bbox_", "mask": "segm_"} if masks else {"box": ""}

    def update(
        self, predictions: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]]
    ) -> None:
        """Take in some images, on any device.

        Args:
            predictions: For each image ``boxes`` (n, 4), XYXY in pixels, ``scores`` (n,),
                ``labels`` (n,) int64 and, where masks are scored, ``masks`` (n, H, W) uint8.
            targets: For each image ``image_id``, ``boxes``, ``labels``, ``area`` (n,), ``iscrowd``
                (n,) and, where masks are scored, ``masks``.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            found, there = self._on_cpu("found", prediction), self._on_cpu("there", target)
            there["area"] = there["area"].clamp(min=torch.finfo(torch.float32).tiny)
            there["iscrowd"] = there["iscrowd"].long()
            self._metric.update([found], [there])
            self._image_ids.append(int(there["image_id"]))

    def compute(self, class_names: Sequence[str] | None = None) -> dict[str, float]:
        """Score the images of all ranks, each of which must ask for it; forget them.

        Args:
            class_names: Name of each label; its number by default.

        Returns:
            ``box_AP``, ``box_AP50`` and so on, the same with ``mask_``; of each class that is
            there ``box_AP/NAME``. The same on all ranks.
        """
        states = {name: state for name, state in self._metric.metric_state.items() if state}
        rows = zip(*states.values(), strict=True)
        seen = dict(zip(self._image_ids, rows, strict=True))
        names, images = _gathered((list(states), seen))
        if images:
            for place, name in enumerate(names):
                setattr(self._metric, name, [images[k][place] for k in sorted(images)])
        scores = self._named(self._metric.compute(), class_names) if images else {}
        self.reset()
        return _from_rank_zero(scores)

    def reset(self) -> None:
        """Forget all images."""
        self._metric.reset()
        self._image_ids = []

    def _on_cpu(self, place: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of an image; those of low precision in float32, which numpy understands.

        Masks go through memory that is used again: what is kept of them is small, but between
        large blocks that come and go it would take megabytes for each image.
        """
        there = {}
        for name, tensor in tensors.items():
            if name == "masks" and "mask" not in self._prefixes:
                continue
            if name == "masks":
                if self._pixels[place].numel() < tensor.numel():
                    self._pixels[place] = torch.empty(tensor.numel(), dtype=torch.uint8)
                pixels = self._pixels[place][: tensor.numel()]
                there[name] = pixels.view(tensor.shape).copy_(tensor)
            else:
                is_low = tensor.dtype in (torch.float16, torch.bfloat16)
                there[name] = tensor.cpu().float() if is_low else tensor.cpu()
        return there

    def _named(
        self, figures: dict[str, Tensor], class_names: Sequence[str] | None
    ) -> dict[str, float]:
        scores = {
            f"{kind}_{name}": float(figures[prefix + key])
            for kind, prefix in self._prefixes.items()
            for name, key in _NAMES.items()
        }
        if not self._metric.class_metrics:
            return scores
        labels = figures["classes"].flatten().tolist()
        for kind, prefix in self._prefixes.items():
            of_classes = figures[f"{prefix}map_per_class"].flatten().tolist()
            for label, precision in zip(labels, of_classes, strict=True):
                if precision >= 0:  # it is -1 for a class that was found but is not there
                    name = class_names[label] if class_names else label
                    scores[f"{kind}_AP/{name}"] = precision
        return scores


def _gathered(part: tuple[list[str], dict[int, Any]]) -> tuple[list[str], dict[int, Any]]:
    """The images of all ranks, on rank zero; on all others none."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return part
    is_zero = distributed.get_rank() == 0
    parts: list[Any] | None = [None] * distributed.get_world_size() if is_zero else None
    distributed.gather_object(part, parts)
    names: list[str] = []
    images: dict[int, Any] = {}
    for its_names, its_images in parts or []:
        names = names or its_names
        images |= its_images
    return names, images


def _from_rank_zero(scores: dict[str, float]) -> dict[str, float]:
    """What rank zero has computed."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return scores
    holder = [scores]
    distributed.broadcast_object_list(holder, src=0)
    return holder[0]
