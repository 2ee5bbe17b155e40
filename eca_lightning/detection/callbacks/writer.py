"""Detections as files."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torchvision.ops import box_convert

from eca_lightning.detection.callbacks.images import draw_objects, require_score
from eca_lightning.detection.task import Batch, Detections, ObjectDetector
from eca_lightning.training.callbacks.unreadable import report_unreadable, unreadable_files
from eca_lightning.utils.atomic import atomic_write
from eca_lightning.utils.distributed import gather_objects


class DetectionWriter(Callback):
    """Writes what a detector finds by ``eca-lightning predict``: a JSON file, annotated images.

    The file holds a list of COCO's results, which pycocotools' ``loadRes`` reads: ``image_id``,
    the place of the image among those to predict; ``category_id``, the one of the annotations that
    the detector was trained on; ``bbox``, XYWH in pixels; ``score``; the mask as run lengths,
    ``segmentation``, by Mask R-CNN; and ``file_name`` within the folder that the images have in
    common, by which they can be found in a data set of other ids. Where a result has both,
    ``loadRes`` takes its area from the box rather than from the mask. The file appears when all
    images are done; those that could not be read are left out and named in the log.

    Beside it, ``annotated`` has each image with what was found on it, as JPEG.

    Args:
        output: The JSON file to write. Default: ``detections.json`` in the run's folder.
        annotated: Whether to write annotated images.
        min_score: Objects with a lower score, from 0 to 1, are not drawn; the file has all.
    """

    def __init__(
        self, output: Path | None = None, annotated: bool = True, min_score: float = 0.5
    ) -> None:
        require_score("detections.min_score", min_score)
        self.output = output
        self.annotated = annotated
        self.min_score = min_score
        self._file = Path()
        self._names: list[str] = []
        self._results: dict[int, list[dict[str, Any]]] = {}

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out where to write, which all ranks must ask for together."""
        self._file = self.output or (
            Path(trainer.log_dir or trainer.default_root_dir) / "detections.json"
        )
        dataset = getattr(trainer.predict_dataloaders, "dataset", None)
        self._names = file_names(getattr(dataset, "paths", None))
        self._results = {}

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the results of a batch and write its annotated images."""
        if not isinstance(pl_module, ObjectDetector):
            return
        for image, target, found in zip(*batch, outputs, strict=True):
            index = int(target["image_id"])
            detections = {name: tensor.cpu() for name, tensor in found.items()}
            results = coco_results(index, detections, pl_module.category_ids)
            name = self._names[index] if self._names else None
            self._results[index] = [r | {"file_name": name} if name else r for r in results]
            if self.annotated:
                drawn = draw_objects(image.cpu(), detections, pl_module.class_names, self.min_score)
                # The whole name, as one folder may have both a.png and a.jpg.
                name = name or str(index)
                name = name if name.endswith(".jpg") else f"{name}.jpg"
                _save(drawn.permute(1, 2, 0).numpy(), self._file.parent / "annotated" / name)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the results of all ranks and write them, in the order of the data."""
        if not isinstance(pl_module, ObjectDetector):
            return
        parts = gather_objects(trainer, self._results)
        unreadable = unreadable_files(trainer)
        self._results = {}
        if trainer.is_global_zero:
            results = {index: found for part in parts for index, found in part.items()}
            in_order = [result for index in sorted(results) for result in results[index]]
            with atomic_write(self._file) as part:
                part.write_text(json.dumps(in_order))
            rank_zero_info(f"{len(in_order)} detections on {len(results)} images: {self._file}")
            report_unreadable(unreadable)


def coco_results(
    image_id: int, found: Detections, category_ids: list[int] | None
) -> list[dict[str, Any]]:
    """The detections on an image as COCO's results, the highest score first.

    Args:
        image_id: Number of the image.
        found: The detections, on the CPU.
        category_ids: The id of each label's category; the label itself if None.
    """
    boxes = box_convert(found["boxes"], "xyxy", "xywh").tolist()
    results = [
        {
            "image_id": image_id,
            "category_id": category_ids[label] if category_ids else label,
            "bbox": box,
            "score": score,
        }
        for box, score, label in zip(
            boxes, found["scores"].tolist(), found["labels"].tolist(), strict=True
        )
    ]
    if "masks" in found:
        from faster_coco_eval.core.mask import encode

        runs = encode(np.asfortranarray(found["masks"].permute(1, 2, 0).numpy()))
        for result, run in zip(results, runs, strict=True):
            result["segmentation"] = {"size": run["size"], "counts": run["counts"].decode()}
    return results


def file_names(paths: Sequence[Path] | None) -> list[str]:
    """The names of files within the folder that they have in common; none without paths."""
    if not paths:
        return []
    absolute = [os.path.abspath(path) for path in paths]  # a list may mix both kinds
    folder = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return [os.path.relpath(path, folder) for path in absolute]


def _save(pixels: Any, path: Path) -> None:
    with atomic_write(path) as part:
        Image.fromarray(pixels).save(part, quality=92)
