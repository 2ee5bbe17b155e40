"""Batches of image files decoded by Pillow, with the samples and crops of a .beton's batches."""

import logging
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.context import BaseContext
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from eca_lightning.data.epoch_loader import Batch, EpochLoader
from eca_lightning.data.folder.attempts import Attempt, Attempts, Instead, OnUnreadable, SampleKey
from eca_lightning.data.folder.image import Exif, open_rgb
from eca_lightning.data.sampler import PADDING, DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop
from eca_lightning.data.transforms.torchvision_ops import apply_steps

_NAMED = 10  # unreadable files that the log names
_log = logging.getLogger(__name__)


class FileDataset(Dataset[tuple[Tensor, int]]):
    """Cropped and augmented image files with their labels, -1 for all if ``labels`` is None.

    With ``same_size`` the crop ``full`` takes images of its own size alone, and scales none.
    """

    def __init__(
        self,
        paths: list[Path],
        labels: Sequence[int] | None,
        crop: Crop,
        exif: Exif = "apply",
        same_size: bool = True,
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.crop = crop
        self.exif: Exif = exif
        self.same_size = same_size and crop.name == "full"

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
        if self.same_size and image.size != (crop.width, crop.height):
            raise ValueError(self.wrong_size(sample, image.height, image.width))
        pixels = torch.from_numpy(np.array(cropped(image, crop, number, epoch)))
        pixels = apply_steps(pixels.permute(2, 0, 1), crop.steps([number], epoch)[0])
        label = PADDING if self.labels is None or index == PADDING else self.labels[sample]
        return pixels.permute(1, 2, 0).contiguous(), label

    def wrong_size(self, sample: int, height: int, width: int) -> str:
        """Say what is wrong with an image of another size than a full crop's."""
        return (
            f"the crop 'full' needs images of one size, but {self.paths[sample]} has "
            f"{width} x {height} pixels and the first {self.crop.width} x {self.crop.height}: set "
            "data.eval_crop (in training data.train_crop) to center_crop or random_resized_crop"
        )

    def blank(self, key: SampleKey) -> tuple[Tensor, int]:
        """Return a black image without a label, which is not scored."""
        crop = self.crop.resized(key[2]) if key[2] else self.crop
        return torch.zeros(crop.height, crop.width, 3, dtype=torch.uint8), PADDING


def cropped(image: Image.Image, crop: Crop, number: int, epoch: int) -> Image.Image:
    """Crop the image of a sample, resize it and flip it, all as the crop says."""
    if crop.resize_first and crop.name == "center_crop":
        resized = F.resize(image, [int(crop.resize_size)], F.InterpolationMode(crop.resize_first))
        return F.center_crop(resized, [crop.height, crop.width])
    (box,) = crop.boxes([number], [image.height], [image.width], epoch)
    return resized_crop(image, box, crop.height, crop.width)


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
        dataset: A dataset whose keys are `SampleKey`, and which raises a ValueError with the name
            of a file that cannot be read.
        index_sampler: The samples of each batch.
        num_workers: Worker processes; 0 reads in this process.
        pin_memory: Return batches in pinned memory, for copies to a GPU.
        collate_fn: Makes a batch of samples.
        on_unreadable: What to do about a file that cannot be read: ``raise`` the error, or ``skip``
            it and log it, where the next one that can be read takes its place in training.

    Attributes:
        instead: What takes its place in evaluation.
        unreadable: The error of each file that was skipped so far, by its index.
    """

    instead: Instead = "nothing"
    image_size: int | None = None

    def __init__(
        self,
        dataset: Any,
        index_sampler: DistributedBatchSampler,
        num_workers: int = 0,
        pin_memory: bool = False,
        collate_fn: Callable[[list[Any]], Any] = collate,
        on_unreadable: OnUnreadable = "raise",
    ) -> None:
        super().__init__(index_sampler)
        self.dataset = dataset
        self.on_unreadable = on_unreadable
        self.unreadable: dict[int, str] = {}
        self._keys = EpochKeys()
        replace = index_sampler.train and on_unreadable == "skip"
        self._batches: DataLoader[Any] = DataLoader(
            Attempts(dataset, "next" if replace else self.instead),
            batch_sampler=self._keys,
            num_workers=num_workers,
            collate_fn=partial(_collate_readable, collate_fn),
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            multiprocessing_context=_context() if num_workers else None,
            worker_init_fn=_end_with_reader,
        )

    def _open(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Any]:
        """Read the batches with these sample indices in the workers."""
        skipped: set[int] = set()
        try:
            for number, (batch, _, errors) in enumerate(self._read(epoch, batches), start=1):
                if errors:
                    self._skip(errors)
                    skipped |= errors.keys()
                if number == len(batches):  # Lightning knows the length, and asks for no more
                    self._count(skipped)
                yield batch
        finally:
            self._count(skipped)

    def _count(self, skipped: set[int]) -> None:
        """Log the number of the files that were skipped in this epoch, once."""
        if skipped:
            train = self.index_sampler.train
            fate = "others took their places in training" if train else "the scores lack them"
            _log.warning(f"{len(skipped):,} images could not be read in this epoch: {fate}")
            skipped.clear()

    def _skip(self, errors: dict[int, str]) -> None:
        """Record the errors of files, and log the first ones of a run, or raise one."""
        if self.on_unreadable == "raise":
            raise ValueError(next(iter(errors.values())))
        for index, error in errors.items():
            if index not in self.unreadable and len(self.unreadable) < _NAMED:
                _log.warning(f"{error} (skipped: --data.on_unreadable raise ends the run)")
            self.unreadable[index] = error

    def _read(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Any]:
        """Yield batches, None for an empty one, with the indices and the errors of their files."""
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


def _collate_readable(
    collate_fn: Callable[[list[Any]], Any], attempts: list[Attempt]
) -> tuple[Any, list[int], dict[int, str]]:
    errors = {attempt.index: attempt.error for attempt in attempts if attempt.error}
    indices = [attempt.index for attempt in attempts if not attempt.error]
    samples = [attempt.sample for attempt in attempts if attempt.sample is not None]
    return collate_fn(samples) if samples else None, indices, errors


def _context() -> BaseContext | None:
    """How to start workers: FFCV may run threads in this process, which a fork would break."""
    if "ffcv" not in sys.modules:
        return None
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once instead of in each worker
    return context


def _end_with_reader(worker: int) -> None:
    """Let a worker end when the process that reads its batches is killed.

    torch's own watch sees its fork server alone, which lives as long as its workers do.
    """
    reader = parent_process()

    def wait() -> None:
        if reader is not None:
            reader.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


class FolderLoader(FileLoader):
    """Batches of labeled images for one rank; the dataset is a `FileDataset`."""

    def sample_name(self, index: int) -> str:
        """Return the file of a sample and its folder."""
        path = self.dataset.paths[index]
        return f"{path.parent.name}/{path.name}"

    instead = "blank"

    def set_image_size(self, size: int) -> None:
        """See :meth:`~eca_lightning.data.epoch_loader.ResizableLoader.set_image_size`."""
        self.dataset.crop.resized(size)  # raises for a size that the crop cannot have
        self.image_size = size
