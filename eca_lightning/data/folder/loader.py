"""Batches from image files, decoded by Pillow, with the samples and views of a .beton's batches."""

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
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
from eca_lightning.data.folder.files import open_rgb
from eca_lightning.data.sampler import PADDING, BatchOrder
from eca_lightning.data.transforms.crop import View
from eca_lightning.data.transforms.torchvision_ops import apply_steps

SampleKey = tuple[int, int, View]
"""A sample as `BatchOrder.indices` numbers it, the number of the epoch, and the view."""


class FileDataset(Dataset[tuple[Tensor, int]]):
    """Image files seen through a view.

    Args:
        paths: The files.
        labels: Their labels; without them every label is -1.
        view: The crop of each sample.

    Attributes:
        paths: The files, as given.
    """

    def __init__(self, paths: list[Path], labels: Sequence[int] | None, view: View) -> None:
        self.paths = paths
        self.labels = labels
        self.view = view

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, key: int | SampleKey) -> tuple[Tensor, int]:
        """Read one sample.

        Args:
            key: Its index; with the epoch and a view, these hold instead of epoch 0 and its own.

        Returns:
            Pixels, uint8, of shape ``(height, width, 3)``, and the label.

        Raises:
            ValueError: The file cannot be decoded, or does not have the size of a full view.
        """
        index, epoch, view = (key, 0, self.view) if isinstance(key, int) else key
        number = max(index, 0)
        sample = number % len(self.paths)
        image = open_rgb(self.paths[sample])
        if view.name == "full" and image.size != (view.width, view.height):
            raise ValueError(
                f"the view 'full' needs images of one size, but {self.paths[sample]} has "
                f"{image.width} x {image.height} pixels and the first {view.width} x {view.height};"
                " use 'center_crop' or 'random_resized_crop'"
            )
        crops = view.crops([number], [image.height], [image.width], epoch)
        pixels = torch.from_numpy(np.array(cut(image, crops[0], view.height, view.width)))
        pixels = apply_steps(pixels.permute(2, 0, 1), view.steps([number], epoch)[0])
        label = PADDING if self.labels is None or index == PADDING else self.labels[sample]
        return pixels.permute(1, 2, 0).contiguous(), label


def cut(image: Image.Image, crop: NDArray[np.int64], height: int, width: int) -> Image.Image:
    """Crop, resize and flip an image, with torchvision's default filter (bilinear, antialiased).

    Args:
        image: The whole image.
        crop: Top, left, height, width and flip.
        height: Height of the output in pixels.
        width: Width of the output in pixels.

    Returns:
        An image of ``width`` x ``height`` pixels.
    """
    top, left, crop_height, crop_width, flip = crop.tolist()
    image = F.resized_crop(image, top, left, crop_height, crop_width, [height, width])
    return F.horizontal_flip(image) if flip else image


def collate(rows: list[tuple[Tensor, int]]) -> Batch:
    """Stack samples to a batch in channels_last memory."""
    images, labels = zip(*rows, strict=True)
    return torch.stack(images).permute(0, 3, 1, 2), torch.tensor(labels)


class EpochKeys:
    """A batch sampler that is told anew at each epoch what to sample, so that workers persist."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.epoch = 0
        self.batches: list[NDArray[np.int64]] = []

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for batch in self.batches:
            yield [(index, self.epoch, self.view) for index in batch.tolist()]

    def __len__(self) -> int:
        """Batches of this epoch."""
        return len(self.batches)


class FolderLoader(EpochLoader):
    """The batches of labeled image files for one rank.

    Args:
        dataset: The files; its attribute ``view`` is how they are seen.
        order: The samples of each batch.
        num_workers: Processes that decode; 0 decodes in this one.
        pin_memory: Whether to hand out batches in pinned memory, for copies to a GPU.
        collate_fn: Makes a batch of samples.
    """

    def __init__(
        self,
        dataset: Any,
        order: BatchOrder,
        num_workers: int = 0,
        pin_memory: bool = False,
        collate_fn: Callable[[list[Any]], Any] = collate,
    ) -> None:
        super().__init__(order, dataset.view)
        self._keys = EpochKeys(dataset.view)
        self._batches: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._keys,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            multiprocessing_context=safe_start_method(num_workers),
        )

    def _open(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Batch]:
        """Decode the batches with these sample indices in the workers."""
        self._keys.view, self._keys.epoch, self._keys.batches = self.view, epoch, batches
        try:
            yield from self._batches
        except ValueError as error:
            # torch puts a worker's traceback into the message; its end is what the worker said.
            raise ValueError(str(error).strip().rpartition("ValueError: ")[2]) from None
        except (ConnectionError, EOFError) as error:
            # What a worker has sent is fetched from it once more; else torch names a lost one.
            raise RuntimeError(f"DataLoader worker lost: {error}.") from error

    def close(self) -> None:
        """End the iteration in progress and the worker processes."""
        super().close()
        self._batches._iterator = None


def safe_start_method(num_workers: int) -> str | None:
    """How to start worker processes: not by forking a process in which FFCV may run threads."""
    return "forkserver" if num_workers and "ffcv" in sys.modules else None
