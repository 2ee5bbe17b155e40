"""Batches of image files decoded by Pillow, with the samples and crops of a .beton's batches."""

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from eca_lightning.data.epoch_loader import Batch, EpochLoader
from eca_lightning.data.folder.image import Exif, open_rgb
from eca_lightning.data.sampler import PADDING, DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop
from eca_lightning.data.transforms.torchvision_ops import apply_steps

SampleKey = tuple[int, int, int | None]
"""Index of a sample, see `DistributedBatchSampler.indices`; epoch; image size, if it was set."""


class FileDataset(Dataset[tuple[Tensor, int]]):
    """Cropped and augmented image files with their labels, -1 for all if ``labels`` is None."""

    def __init__(
        self,
        paths: list[Path],
        labels: Sequence[int] | None,
        crop: Crop,
        exif: Exif = "apply",
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.crop = crop
        self.exif: Exif = exif

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, int]:
        """Read the pixels, uint8, of shape ``(height, width, 3)``, and the label of a sample.

        The image size of the key replaces that of the crop.

        Raises:
            ValueError: If the file cannot be decoded, or its size is not that of a full crop.
        """
        index, epoch, image_size = key
        crop = self.crop.resized(image_size) if image_size else self.crop
        number = max(index, 0)
        sample = number % len(self.paths)
        image = open_rgb(self.paths[sample], self.exif)
        if crop.name == "full" and image.size != (crop.width, crop.height):
            raise ValueError(
                f"the crop 'full' needs images of one size, but {self.paths[sample]} has "
                f"{image.width} x {image.height} pixels and the first {crop.width} x {crop.height};"
                " use 'center_crop' or 'random_resized_crop'"
            )
        (box,) = crop.boxes([number], [image.height], [image.width], epoch)
        pixels = torch.from_numpy(np.array(resized_crop(image, box, crop.height, crop.width)))
        pixels = apply_steps(pixels.permute(2, 0, 1), crop.steps([number], epoch)[0])
        label = PADDING if self.labels is None or index == PADDING else self.labels[sample]
        return pixels.permute(1, 2, 0).contiguous(), label


def resized_crop(
    image: Image.Image, box: NDArray[np.int64], height: int, width: int
) -> Image.Image:
    """Crop to (top, left, height, width, flip), resize by torchvision's default filter and flip."""
    *rectangle, flip = box.tolist()
    image = F.resized_crop(image, *rectangle, [height, width])
    return F.horizontal_flip(image) if flip else image


def collate(rows: list[tuple[Tensor, int]]) -> Batch:
    """Stack samples into a batch in channels_last memory."""
    images, labels = zip(*rows, strict=True)
    return torch.stack(images).permute(0, 3, 1, 2), torch.tensor(labels)


class EpochKeys:
    """A batch sampler that is set anew for each epoch, so that worker processes persist."""

    epoch: int
    image_size: int | None
    batches: Sequence[NDArray[np.int64]] = ()

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for batch in self.batches:
            yield [(index, self.epoch, self.image_size) for index in batch.tolist()]

    def __len__(self) -> int:
        """Number of batches of the epoch."""
        return len(self.batches)


class FileLoader(EpochLoader):
    """Batches of a dataset of files for one rank, read by worker processes.

    Args:
        dataset: A dataset whose keys are `SampleKey`.
        index_sampler: The samples of each batch.
        num_workers: Worker processes; 0 reads in this process.
        pin_memory: Return batches in pinned memory, for copies to a GPU.
        collate_fn: Makes a batch of samples.
    """

    image_size: int | None = None

    def __init__(
        self,
        dataset: Any,
        index_sampler: DistributedBatchSampler,
        num_workers: int = 0,
        pin_memory: bool = False,
        collate_fn: Callable[[list[Any]], Any] = collate,
    ) -> None:
        super().__init__(index_sampler)
        self.dataset = dataset
        self._keys = EpochKeys()
        self._batches: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._keys,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            multiprocessing_context=_context() if num_workers else None,
        )

    def _open(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Batch]:
        """Read the batches with these sample indices in the workers."""
        keys = self._keys
        keys.epoch, keys.image_size, keys.batches = epoch, self.image_size, batches
        try:
            yield from self._batches
        except ValueError as error:
            # torch puts a worker's traceback before the worker's message.
            raise ValueError(str(error).strip().rpartition("ValueError: ")[2]) from None
        except (ConnectionError, EOFError) as error:
            # Reading what a lost worker had sent; in other places torch names the worker itself.
            raise RuntimeError(f"DataLoader worker lost: {error}.") from error

    def close(self) -> None:
        """End the iteration in progress and the worker processes."""
        super().close()
        self._batches._iterator = None


def _context() -> BaseContext | None:
    """How to start workers: FFCV may run threads in this process, which a fork would break."""
    if "ffcv" not in sys.modules:
        return None
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once instead of in each worker
    return context


class FolderLoader(FileLoader):
    """Batches of labeled images for one rank; the dataset is a `FileDataset`."""

    def set_image_size(self, size: int) -> None:
        """See :meth:`~eca_lightning.data.epoch_loader.ResizableLoader.set_image_size`."""
        self.dataset.crop.resized(size)  # raises for a size that the crop cannot have
        self.image_size = size
