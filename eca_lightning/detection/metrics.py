"""COCO's average precision and recall, computed by faster-coco-eval.

The scores are those of pycocotools' COCOeval, which faster-coco-eval implements in C++, but for one
thing: COCOeval takes the area of a mask's result, and so APs, APm and APl, from the box where the
result has one; here it is the area of the mask, as in Detectron2.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from torch import Tensor, distributed
from torchvision.ops import box_convert

METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
"""Names of COCO's twelve metrics, in COCOeval's order."""

Images = dict[int, tuple[dict[str, list[Any]], dict[str, list[Any]]]]
"""Of each image id the annotations and results: for each key of COCO's format a list of values."""

_SHAPES = {"box": ("bbox", "bbox"), "mask": ("segm", "segmentation")}
"""For boxes and masks COCOeval's IoU type and the key in COCO's format."""


class DetectionScores:
    """Collect detections image by image and score them as COCO's tools do.

    The scores do not depend on how images are divided into batches and ranks; an image that comes
    twice counts once. A score is -1 where nothing can be scored, as in COCOeval: APs without small
    objects, for example.

    Args:
        masks: Score masks as well as boxes.
        per_class: Score each class as well.

    Raises:
        ImportError: If faster-coco-eval is not installed.
    """

    def __init__(self, masks: bool = False, per_class: bool = False) -> None:
        if not find_spec("faster_coco_eval"):
            raise ImportError(
                "detection metrics need faster_coco_eval: pip install 'eca-lightning[detection]'"
            )
        self.kinds = ("box", "mask") if masks else ("box",)
        self._per_class = per_class
        self.reset()

    def update(
        self, predictions: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]]
    ) -> None:
        """Add images, on any device. Masks are kept run-length encoded.

        Args:
            predictions: For each image ``boxes`` (n, 4), XYXY in pixels, ``scores`` (n,),
                ``labels`` (n,) int64 and, where masks are scored, ``masks`` (n, H, W) uint8.
            targets: For each image ``image_id``, ``boxes``, ``labels``, ``area`` (n,), ``iscrowd``
                (n,) and, where masks are scored, ``masks``.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            image_id = int(target["image_id"])
            annotations, results = self._columns(target), self._columns(prediction)
            annotations["area"] = target["area"].tolist()
            annotations["iscrowd"] = target["iscrowd"].int().tolist()
            results["score"] = prediction["scores"].tolist()
            self._images[image_id] = annotations, results

    def compute(self, class_names: Sequence[str] | None = None) -> dict[str, float]:
        """Score the images of all ranks and forget them; every rank must call it.

        Args:
            class_names: Name of each label; its number by default.

        Returns:
            ``box_AP``, ``box_AP50`` and so on, and the same with ``mask_``; for each class of the
            annotations ``box_AP/NAME``. The same on all ranks; empty without images.
        """
        images = self._images
        self.reset()
        is_distributed = distributed.is_available() and distributed.is_initialized()
        if is_distributed:
            is_zero = distributed.get_rank() == 0
            parts: list[Any] = [None] * distributed.get_world_size()
            distributed.gather_object(images, parts if is_zero else None)
            images = {id_: image for part in parts if part for id_, image in part.items()}
        scores: dict[str, float] = {}
        for kind in self.kinds if images else ():
            scores |= self._evaluate(images, kind, class_names)
        if is_distributed:
            holder = [scores]
            distributed.broadcast_object_list(holder, src=0)
            (scores,) = holder
        return scores

    def reset(self) -> None:
        """Forget all images."""
        self._images: Images = {}

    def _columns(self, tensors: dict[str, Tensor]) -> dict[str, list[Any]]:
        """Convert what annotations and results have in common to COCO's keys and shapes."""
        columns = {
            "category_id": tensors["labels"].tolist(),
            "bbox": box_convert(tensors["boxes"].float(), "xyxy", "xywh").tolist(),
        }
        if "mask" in self.kinds:
            from faster_coco_eval.core import mask

            columns["segmentation"] = [mask.encode(m) for m in tensors["masks"].cpu().numpy()]
        return columns

    def _evaluate(
        self, images: Images, kind: str, class_names: Sequence[str] | None
    ) -> dict[str, float]:
        """Compute the scores of boxes or masks."""
        from faster_coco_eval import COCO, COCOeval_faster

        iou_type, shape = _SHAPES[kind]
        annotations, results = _records(images, 0, shape), _records(images, 1, shape)
        for id_, annotation in enumerate(annotations, start=1):
            annotation["id"] = id_
        labels = sorted({record["category_id"] for record in annotations + results})
        truth = COCO(
            {
                "images": [{"id": id_, "height": 0, "width": 0} for id_ in images],
                "categories": [{"id": label} for label in labels],
                "annotations": annotations,
            }
        )
        evaluation = COCOeval_faster(truth, truth.loadRes(results), iou_type)
        evaluation.run()
        # Rounded to float32, as Lightning logs them.
        values = np.float32(evaluation.stats[: len(METRICS)]).tolist()
        scores = {f"{kind}_{name}": value for name, value in zip(METRICS, values, strict=True)}
        if self._per_class:
            # Axes: IoU thresholds, recall thresholds, classes, areas, detections per image.
            precision = evaluation.eval["precision"][:, :, :, 0, -1]
            for label, values in zip(labels, np.moveaxis(precision, 2, 0), strict=True):
                if (values > -1).any():
                    name = class_names[label] if class_names else label
                    scores[f"{kind}_AP/{name}"] = float(np.float32(values[values > -1].mean()))
        return scores


def _records(images: Images, side: int, shape: str) -> list[dict[str, Any]]:
    """List annotations (side 0) or results (side 1) with one of their shapes."""
    unused = {key for _, key in _SHAPES.values()} - {shape}
    records = []
    for image_id, sides in images.items():
        columns = {key: values for key, values in sides[side].items() if key not in unused}
        rows = zip(*columns.values(), strict=True)
        records += [{"image_id": image_id, **dict(zip(columns, row, strict=True))} for row in rows]
    return records
