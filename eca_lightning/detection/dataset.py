"""Annotated images in batches of one orientation, resumed exactly.

torchvision's CocoDetection in its wrapper for transforms v2 is not used: it gives an image without
annotations no boxes, labels it leaves at COCO's ids with their gaps, what it draws at random
depends on the worker, and it holds all annotations as Python objects (see `coco_annotations`). What
lies below it is the same: Pillow, torchvision's functional transforms and pycocotools' masks.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxFormat

from eca_lightning.data.folder.files import open_rgb
from eca_lightning.data.folder.loader import FileLoader, SampleKey
from eca_lightning.data.sampler import PADDING, DistributedBatchSampler
from eca_lightning.data.transforms.crop import random_flips
from eca_lightning.detection.annotations import CocoAnnotations

Target = dict[str, Tensor]
"""What is on an image, see :class:`~.coco.CocoDataModule`."""

DetectionBatch = tuple[list[Tensor], list[Target]]
"""Images, uint8, each of shape ``(3, H, W)``, and a target for each."""


@dataclass(frozen=True, eq=False)
class GroupedBatchSampler(DistributedBatchSampler):
    """An order of training whose batches hold images of one group, as far as they go.

    What a group leaves over is mixed with what the others do. All ranks are in the same group at
    each step, so that none waits for one with larger images.

    Args:
        groups: Group of each sample, of shape ``(samples,)``.
    """

    groups: NDArray[np.int64] | None = None

    def _global_indices(self, epoch: int) -> NDArray[np.int64]:
        order = super()._global_indices(epoch)
        if self.groups is None:
            return order
        together = self.global_batch_size
        whole, left = [], []
        for group in np.unique(self.groups):
            members = order[self.groups[order] == group]
            full = len(members) - len(members) % together
            whole.append(members[:full])
            left.append(members[full:])
        # In the epoch's order again, so that no group is always the first to be left out.
        rest = order[np.isin(order, np.concatenate(left))]
        used = len(self) * together
        batches = np.concatenate([*whole, rest])[:used].reshape(-1, together)
        if self.shuffle:
            batches = np.random.default_rng([self.seed, epoch, 1]).permutation(batches)
        return batches.reshape(-1)


class CocoImages(Dataset[tuple[Tensor, Target]]):
    """Images and what is on them.

    Args:
        folder: The folder of the images.
        annotations: What is on them.
        flip_seed: Seed of the random horizontal flips; None for no flips.
    """

    def __init__(self, folder: Path, annotations: CocoAnnotations, flip_seed: int | None) -> None:
        self.folder = folder
        self.annotations = annotations
        self.flip_seed = flip_seed

    def __len__(self) -> int:
        """Number of images."""
        return len(self.annotations)

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, Target]:
        """Read one image.

        Args:
            key: Its index and the epoch; images keep their size.

        Returns:
            Pixels, uint8, of shape ``(3, height, width)``, and the target.

        Raises:
            ValueError: The file cannot be decoded, or has another size than annotated.
        """
        index, epoch, _ = key
        known = self.annotations
        path = self.folder / known.file_names[index]
        height, width = known.sizes[index].tolist()
        pixels = _read(path)
        if pixels.shape[1:] != (height, width):
            raise ValueError(
                f"{path} has {pixels.shape[2]} x {pixels.shape[1]} pixels, but {known.path} says "
                f"that image {known.image_ids[index]} has {width} x {height}"
            )
        rows = slice(*known.first[index : index + 2])
        target = {
            "image_id": torch.tensor(known.image_ids[index]),
            "boxes": torch.from_numpy(known.boxes[rows].copy()),
            "labels": torch.from_numpy(known.labels[rows].copy()),
            "area": torch.from_numpy(known.areas[rows].copy()),
            "iscrowd": torch.from_numpy(known.crowds[rows].copy()),
        }
        if known.segmentations is not None:
            target["masks"] = torch.from_numpy(known.masks(index))
        # By the id: it stays when images are left out.
        image_id = known.image_ids[index]
        if self.flip_seed is not None and random_flips(self.flip_seed, epoch, [image_id])[0]:
            pixels = F.horizontal_flip_image(pixels)
            xyxy = BoundingBoxFormat.XYXY
            boxes = F.horizontal_flip_bounding_boxes(target["boxes"], xyxy, (height, width))
            target["boxes"] = boxes
            if "masks" in target:
                target["masks"] = F.horizontal_flip_mask(target["masks"])
        return pixels, target


class NumberedImages(Dataset[tuple[Tensor, Target]]):
    """Images of which nothing is known, with their index as id.

    Args:
        paths: The files.

    Attributes:
        paths: The same.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, Target]:
        """Pixels, uint8, of shape ``(3, height, width)``, and the target, of ``image_id`` alone.

        Raises:
            ValueError: The file cannot be decoded.
        """
        return _read(self.paths[key[0]]), {"image_id": torch.tensor(key[0])}


def collate_images(rows: list[tuple[Tensor, Target]]) -> DetectionBatch:
    """Put images and targets side by side; without any, both lists are empty."""
    return [image for image, _ in rows], [target for _, target in rows]


class CocoLoader(FileLoader):
    """The batches of annotated images for one rank.

    Evaluation has the same number of batches on every rank, as a network spread over ranks may
    talk to the others at each; those that only fill up a rank have no images.

    Args:
        images: The images.
        index_sampler: The images of each batch.
        num_workers: Processes that decode; 0 decodes in this one.
        pin_memory: Whether to hand out batches in pinned memory, for copies to a GPU.
    """

    def __init__(
        self,
        images: CocoImages,
        index_sampler: DistributedBatchSampler,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(images, index_sampler, num_workers, pin_memory, collate_images)

    def _open(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Any]:
        """Decode the batches with these indices in the workers."""
        yield from super()._open(epoch, [batch[batch != PADDING] for batch in batches])


def _read(path: Path) -> Tensor:
    """Pixels of an image file, uint8, of shape ``(3, height, width)``; not turned by EXIF."""
    return F.pil_to_tensor(open_rgb(path)).contiguous()
