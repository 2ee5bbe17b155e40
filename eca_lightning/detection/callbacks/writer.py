"""Write the detections of a detector to a JSON file and to annotated images."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torchvision.ops import box_convert

from eca_lightning.detection.callbacks.images import draw_objects
from eca_lightning.detection.task import Batch, Detections, ObjectDetector
from eca_lightning.training.callbacks.prediction_file import PredictionFile
from eca_lightning.utils.atomic import atomic_write
from eca_lightning.utils.checks import require


class DetectionWriter(PredictionFile):
    """Write the detections of ``eca-lightning predict``: a JSON file, and annotated images.

    The file holds a list of COCO results, which pycocotools' ``loadRes`` reads: ``image_id``, the
    index of the image among those to predict; ``category_id``, as in the annotations that the
    detector was trained on; ``bbox``, XYWH in pixels; ``score``; the mask in run-length encoding,
    ``segmentation``, by Mask R-CNN; and ``file_name``, relative to the folder that the images have
    in common, by which they can be found in a data set of other ids. Where a result has both,
    ``loadRes`` takes its area from the box rather than from the mask. Images that could not be read
    are left out.

    Beside it, the folder ``annotated`` has each image with its detections, as JPEG.

    Args:
        output: The JSON file to write. Default: ``detections.json`` in the run's folder.
        annotated: Whether to write annotated images.
        min_score: Detections with a lower score, from 0 to 1, are not drawn; the file has all.
    """

    task = ObjectDetector
    default_name = "detections.json"

    def __init__(
        self, output: Path | None = None, annotated: bool = True, min_score: float = 0.5
    ) -> None:
        super().__init__(output)
        require(0 <= min_score <= 1, "--min_score", "from 0 to 1", min_score)
        self.annotated = annotated
        self.min_score = min_score
        self._names: list[str] = []

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the file, and the names of the annotated images."""
        super().on_predict_epoch_start(trainer, pl_module)
        self._names = file_names(self.paths)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        prediction: list[Detections],
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the results of a batch and write its annotated images."""
        for image, target, found in zip(*batch, prediction, strict=True):
            index = int(target["image_id"])
            detections = {name: tensor.cpu() for name, tensor in found.items()}
            results = coco_results(index, detections, pl_module.category_ids)
            name = self._names[index] if self._names else None
            self.parts.append((index, [r | {"file_name": name} if name else r for r in results]))
            if self.annotated:
                drawn = draw_objects(image.cpu(), detections, pl_module.class_names, self.min_score)
                # The whole name, as one folder may have both a.png and a.jpg.
                name = name or str(index)
                name = name if name.endswith(".jpg") else f"{name}.jpg"
                with atomic_write(self.file.parent / "annotated" / name) as path:
                    Image.fromarray(drawn.permute(1, 2, 0).numpy()).save(path, quality=92)

    def write(self, parts: list[Any], unreadable: Mapping[int, str], pl_module: Any) -> str:
        """Write the JSON file."""
        by_index: dict[int, list[dict[str, Any]]] = dict(parts)
        results = [result for index in sorted(by_index) for result in by_index[index]]
        with atomic_write(self.file) as path:
            path.write_text(json.dumps(results))
        return f"{len(results)} detections on {len(by_index)} images"


def coco_results(
    image_id: int, found: Detections, category_ids: list[int] | None
) -> list[dict[str, Any]]:
    """Return detections, on the CPU, as COCO results, the highest score first.

    A label is its own category id if ``category_ids``, that of each label, is None.
    """
    categories = [category_ids[k] if category_ids else k for k in found["labels"].tolist()]
    boxes = box_convert(found["boxes"], "xyxy", "xywh").tolist()
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        for category, box, score in zip(categories, boxes, found["scores"].tolist(), strict=True)
    ]
    if "masks" in found:
        from faster_coco_eval.core.mask import encode

        runs = encode(np.asfortranarray(found["masks"].permute(1, 2, 0).numpy()))
        for result, run in zip(results, runs, strict=True):
            result["segmentation"] = {"size": run["size"], "counts": run["counts"].decode()}
    return results


def file_names(paths: Sequence[Path] | None) -> list[str]:
    """Return the names of files relative to the folder that they have in common."""
    if not paths:
        return []
    absolute = [os.path.abspath(path) for path in paths]  # a list may mix both kinds
    folder = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return [os.path.relpath(path, folder) for path in absolute]
