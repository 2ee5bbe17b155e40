"""What an annotation file of COCO's format says, laid out as arrays.

pycocotools' ``COCO`` and torchvision's CocoDetection keep each annotation as Python objects: some
gigabytes for COCO's training set, which every worker process comes to copy. Arrays are shared.
"""

import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEAST_SIDE = 1.0
"""Pixels below which a box is degenerate, as in the paper's toolkit (mmdetection)."""


@dataclass(frozen=True, eq=False)
class CocoAnnotations:
    """The images of an annotation file, sorted by id, and what is on them.

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
        spans: Where the segmentation of each annotation starts and ends in ``segmentations``, int64
            of shape ``(annotations, 2)``.
        segmentations: The segmentations, pickled one after the other; None if they were not read.
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
        """Number of images."""
        return len(self.image_ids)

    def masks(self, image: int) -> NDArray[np.uint8]:
        """The masks on an image as pycocotools draws them.

        Args:
            image: Index of the image.

        Returns:
            Pixels of 0 and 1 of shape ``(annotations of the image, height, width)``.

        Raises:
            ValueError: A segmentation is damaged.
        """
        from pycocotools import mask

        size = self.sizes[image].tolist()
        encoded = []
        try:
            for start, end in self.spans[self.first[image] : self.first[image + 1]]:
                # Pickled by `coco_files`, in this run.
                outline = pickle.loads((self.segmentations or b"")[start:end])
                if isinstance(outline, list):
                    encoded.append(mask.merge(mask.frPyObjects(outline, *size)))
                elif isinstance(outline["counts"], list):
                    encoded.append(mask.frPyObjects(outline, *size))
                else:
                    encoded.append(outline)
            masks = mask.decode(encoded) if encoded else np.zeros((*size, 0), np.uint8)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(
                f"{self.path}: a mask of image {self.image_ids[image]} cannot be drawn: {error}"
            ) from None
        return np.ascontiguousarray(masks.transpose(2, 0, 1))

    def for_training(self) -> "CocoAnnotations":
        """What a detector can learn from: no crowds, no degenerate boxes, no images without a box.

        Boxes are clipped to their images. Degenerate are boxes with a side below one pixel and
        annotations without area, as in the paper's toolkit.

        Raises:
            ValueError: Nothing is left.
        """
        images = np.repeat(np.arange(len(self)), np.diff(self.first))
        boxes = self.boxes.clip(0, self.sizes[images][:, [1, 0, 1, 0]].astype(np.float32))
        sides = boxes[:, 2:] - boxes[:, :2]
        usable = ~self.crowds & (sides >= LEAST_SIDE).all(1) & (self.areas > 0)
        counts = np.bincount(images[usable], minlength=len(self))
        kept = np.flatnonzero(counts)
        if not kept.size:
            raise ValueError(f"{self.path}: no image has a box to learn from")
        return replace(
            self,
            image_ids=self.image_ids[kept],
            file_names=[self.file_names[image] for image in kept],
            sizes=self.sizes[kept],
            first=np.concatenate([[0], np.cumsum(counts[kept])]),
            boxes=boxes[usable],
            labels=self.labels[usable],
            areas=self.areas[usable],
            crowds=self.crowds[usable],
            spans=self.spans[usable],
        )
