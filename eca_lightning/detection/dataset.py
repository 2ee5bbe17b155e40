"""Annotated images in batches of one orientation, with exact resuming.

Not torchvision's CocoDetection: it keeps COCO's ids, with their gaps, as labels, gives images
without annotations no boxes, and its random flips depend on the worker.
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

from eca_lightning.data.folder.attempts import OnUnreadable, SampleKey
from eca_lightning.data.folder.image import Exif, open_rgb
from eca_lightning.data.folder.loader import FileLoader
from eca_lightning.data.sampler import PADDING, DistributedBatchSampler
from eca_lightning.data.transforms.crop import random_flips
from eca_lightning.detection.annotations import CocoAnnotations

Target = dict[str, Tensor]
"""The annotations of an image, see :class:`~eca_lightning.CocoDataModule`."""

DetectionBatch = tuple[list[Tensor], list[Target]]
"""Images, uint8 of shape ``(3, H, W)`` each, and their targets."""


@dataclass(frozen=True, eq=False)
class GroupedBatchSampler(DistributedBatchSampler):
    """Batches of training images of one group, except for what does not fill a batch.

    These remainders share batches. All ranks take images of the same group at each step, so that
    none waits for one with larger images. ``groups`` has the group of each sample.
    """

    groups: NDArray[np.int64] | None = None

    def _global_indices(self, epoch: int) -> NDArray[np.int64]:
        order = super()._global_indices(epoch)
        if self.groups is None:
            return order
        size = self.global_batch_size
        full, is_left = [], np.ones(len(order), np.bool_)
        for group in np.unique(self.groups):
            places = np.flatnonzero(self.groups[order] == group)
            places = places[: len(places) // size * size]
            full.append(order[places])
            is_left[places] = False
        # What is left keeps the epoch's order, so that no group is always the one to be dropped.
        batches = np.concatenate([*full, order[is_left]])[: len(self) * size].reshape(-1, size)
        if self.shuffle:
            batches = np.random.default_rng([self.seed, epoch, 1]).permutation(batches)
        return batches.reshape(-1)


@dataclass(frozen=True, eq=False)
class CocoImages(Dataset[tuple[Tensor, Target]]):
    """Annotated images of a folder, flipped at random unless the seed of flips is None."""

    folder: Path
    annotations: CocoAnnotations
    flip_seed: int | None
    exif: Exif = "apply"

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, Target]:
        """Read pixels, uint8 of shape ``(3, height, width)``, and the target of an image.

        Raises:
            ValueError: If the file cannot be decoded or has another size than annotated.
        """
        index, epoch, _ = key
        known = self.annotations
        path = self.folder / known.file_names[index]
        height, width = known.sizes[index].tolist()
        pixels = _read(path, self.exif)
        if pixels.shape[1:] != (height, width):
            raise ValueError(known.wrong_size(index, path, *pixels.shape[1:]))
        rows = slice(*known.first[index : index + 2])
        target = {
            "image_id": torch.tensor(known.image_ids[index]),
            "boxes": torch.tensor(known.boxes[rows]),
            "labels": torch.tensor(known.labels[rows]),
            "area": torch.tensor(known.areas[rows]),
            "iscrowd": torch.tensor(known.crowds[rows]),
        }
        if known.segmentations is not None:
            target["masks"] = torch.from_numpy(known.masks(index))
        # Drawn by the id, which stays the same when other images are left out.
        image_id = known.image_ids[index]
        if self.flip_seed is not None and random_flips(self.flip_seed, epoch, [image_id])[0]:
            pixels = pixels.flip(-1)
            target["boxes"][:, [0, 2]] = width - target["boxes"][:, [2, 0]]
            if "masks" in target:
                target["masks"] = target["masks"].flip(-1)
        return pixels, target


@dataclass(frozen=True, eq=False)
class NumberedImages(Dataset[tuple[Tensor, Target]]):
    """Images without annotations, whose id is their index."""

    paths: list[Path]
    exif: Exif = "apply"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, Target]:
        """Read pixels, uint8 of shape ``(3, height, width)``, and a target of ``image_id`` alone.

        Raises:
            ValueError: If the file cannot be decoded.
        """
        return _read(self.paths[key[0]], self.exif), {"image_id": torch.tensor(key[0])}


def collate_images(rows: list[tuple[Tensor, Target]]) -> DetectionBatch:
    """Make two lists of images and targets."""
    return [image for image, _ in rows], [target for _, target in rows]


class CocoLoader(FileLoader):
    """Batches of annotated images for one rank, see `FileLoader`.

    Evaluation has the same number of batches on every rank, as a distributed network may
    communicate in each; batches of padding and unreadable files alone have no images.
    """

    def __init__(
        self,
        images: CocoImages,
        index_sampler: DistributedBatchSampler,
        num_workers: int = 0,
        pin_memory: bool = False,
        on_unreadable: OnUnreadable = "raise",
    ) -> None:
        super().__init__(
            images, index_sampler, num_workers, pin_memory, collate_images, on_unreadable
        )

    def _open(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Any]:
        for batch in super()._open(epoch, [batch[batch != PADDING] for batch in batches]):
            yield batch or ([], [])


def _read(path: Path, exif: Exif) -> Tensor:
    """Read an image, uint8 of shape ``(3, height, width)``."""
    return F.pil_to_tensor(open_rgb(path, exif)).contiguous()
