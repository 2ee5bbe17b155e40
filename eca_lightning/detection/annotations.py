"""The content of a COCO annotation file as arrays.

``COCO`` of pycocotools and torchvision's CocoDetection keep each annotation as Python objects:
gigabytes for COCO's training set, and every worker process copies them. Arrays are shared.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.folder.check import ImageCheck
from eca_lightning.data.folder.image import Exif


def require_mask_library() -> None:
    """Raise an ImportError unless faster-coco-eval, which draws and encodes masks, is installed."""
    if not find_spec("faster_coco_eval"):
        raise ImportError("masks need faster_coco_eval: pip install 'eca-lightning[detection]'")


def encode_outline(outline: Any, size: list[int]) -> Any:
    """Encode a decoded segmentation of an image of (height, width) as run lengths."""
    from faster_coco_eval.core import mask

    if isinstance(outline, list):
        # Two points have no area, but four numbers would be taken for a box.
        polygons = [polygon for polygon in outline if len(polygon) >= 6]
        return mask.merge(mask.frPyObjects(polygons, *size))
    if isinstance(outline["counts"], list):
        return mask.frPyObjects(outline, *size)
    return outline


@dataclass(frozen=True, eq=False)
class CocoAnnotations:
    """The images of an annotation file, sorted by id, and their annotations.

    Attributes:
        path: The file.
        class_names: Name of each label; labels number the categories sorted by id.
        category_ids: Id of each label's category.
        image_ids: Int64 of shape ``(images,)``.
        file_names: Name of each image's file in its folder.
        sizes: Height and width of each image in pixels, int64 of shape ``(images, 2)``.
        first: Int64 of shape ``(images + 1,)``; the annotations of image i are the rows from
            ``first[i]`` to ``first[i + 1]``.
        boxes: XYXY in pixels, float32 of shape ``(annotations, 4)``.
        labels: Int64 of shape ``(annotations,)``.
        areas: Float32 of shape ``(annotations,)``, in pixels.
        crowds: Bool of shape ``(annotations,)``.
        spans: Start and end of each annotation's segmentation in ``segmentations``, int64 of shape
            ``(annotations, 2)``.
        segmentations: The JSON of all segmentations; None if they were not read.
    """

    path: Path
    class_names: list[str]
    category_ids: list[int]
    image_ids: NDArray[np.int64]
    file_names: list[str]
    sizes: NDArray[np.int64]
    first: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float32]
    crowds: NDArray[np.bool_]
    spans: NDArray[np.int64]
    segmentations: bytes | None

    def __len__(self) -> int:
        return len(self.image_ids)

    def masks(self, image: int) -> NDArray[np.uint8]:
        """Draw the masks of the image with an index, of 0 and 1, ``(annotations, H, W)``.

        Raises:
            ValueError: If a segmentation is damaged.
        """
        import msgspec
        from faster_coco_eval.core import mask

        size = self.sizes[image].tolist()
        encoded = []
        try:
            for start, end in self.spans[self.first[image] : self.first[image + 1]]:
                outline = msgspec.json.decode((self.segmentations or b"")[start:end])
                encoded.append(encode_outline(outline, size))
            masks = mask.decode(encoded) if encoded else np.zeros((*size, 0), np.uint8)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{self.path}: a mask of image {self.image_ids[image]} cannot be drawn: {error}"
            ) from None
        return np.ascontiguousarray(masks.transpose(2, 0, 1))

    def image_check(self, folder: Path, exif: Exif = "apply") -> ImageCheck:
        """Return what is expected of the image files in a folder: they exist, with these sizes."""
        paths = [folder / file for file in self.file_names]
        return ImageCheck(
            paths,
            folder,
            exif,
            sizes=list(map(tuple, self.sizes.tolist())),
            wrong_size=lambda index, *size: self.wrong_size(index, paths[index], *size),
            origin=lambda index: f", image {self.image_ids[index]} of {self.path},",
        )

    def wrong_size(self, index: int, path: Path, height: int, width: int) -> str:
        """Say what is wrong with the file of an image that has another height and width."""
        expected_height, expected_width = self.sizes[index]
        turned = (height, width) == (expected_width, expected_height)
        hint = ": was it annotated as it is stored (--data.exif ignore) or as it is shown (apply)?"
        return (
            f"{path} has {width} x {height} pixels, but {self.path} says that image "
            f"{self.image_ids[index]} has {expected_width} x {expected_height}"
            + (hint if turned else "")
        )

    def _teaches(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the boxes clipped to their images, and which annotations training uses."""
        images = np.repeat(np.arange(len(self)), np.diff(self.first))
        boxes = self.boxes.clip(0, self.sizes[images][:, [1, 0, 1, 0]].astype(np.float32))
        sides = boxes[:, 2:] - boxes[:, :2]
        return boxes, ~self.crowds & (sides >= 1).all(1) & (self.areas > 0)

    def left_out_of_training(self) -> str:
        """Count by class the annotations that training leaves out; empty if there are none."""
        _, usable = self._teaches()
        parts = []
        for label in np.unique(self.labels[~usable]).tolist():
            own = self.labels == label
            crowds = int((own & self.crowds).sum())
            flat = int((own & ~usable & ~self.crowds).sum())
            counts = [f"{crowds:,} crowd"] * (crowds > 0)
            counts += [f"{flat:,} without width, height or area"] * (flat > 0)
            name = self.class_names[label]
            parts.append(f"{name} {', '.join(counts)} (of {int(own.sum()):,})")
        return "; ".join(parts)

    def boxes_reaching_out(self) -> int:
        """Count the boxes that reach out of their images."""
        return int((np.abs(self._teaches()[0] - self.boxes) > 1e-3).any(1).sum())

    def for_training(self) -> "CocoAnnotations":
        """Leave out crowds, degenerate boxes and the images that have no other box.

        Boxes are clipped to their images. Degenerate are boxes with a side below one pixel and
        annotations without area, as in the paper's toolkit (mmdetection).

        Raises:
            ValueError: If nothing is left.
        """
        images = np.repeat(np.arange(len(self)), np.diff(self.first))
        boxes, usable = self._teaches()
        counts = np.bincount(images[usable], minlength=len(self))
        kept = np.flatnonzero(counts)
        if not kept.size:
            why = self.left_out_of_training() or "it has no annotations"
            raise ValueError(
                f"{self.path}: no image has a box to learn from ({why}): give single objects "
                "iscrowd 0 and boxes with an area"
            )
        return replace(
            self,
            image_ids=self.image_ids[kept],
            file_names=[self.file_names[image] for image in kept],
            sizes=self.sizes[kept],
            first=np.concatenate([[0], np.cumsum(counts[kept])]),
            boxes=boxes[usable],
            **{k: getattr(self, k)[usable] for k in ("labels", "areas", "crowds", "spans")},
        )
