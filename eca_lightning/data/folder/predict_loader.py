"""Batches of image files for prediction, some of which may be unreadable."""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from eca_lightning.data.folder.loader import FileLoader, SampleKey
from eca_lightning.data.sampler import PADDING, DistributedBatchSampler

OnUnreadable = Literal["skip", "raise"]
"""What to do about an image file that cannot be read."""


class PredictionLoader(FileLoader):
    """Batches of image files for one rank, without those that cannot be read.

    No batch is padded, so that ranks differ in their number of batches: ranks do not communicate
    in prediction.

    Args:
        dataset: The files: a dataset whose items are what ``collate_fn`` takes, and which raises
            ValueError with the name of a file that cannot be read. Its attribute ``paths`` lists
            the files.
        batch_size: Images per batch and rank.
        collate_fn: Makes a batch of samples.
        rank, world_size: Rank of this process, number of ranks.
        on_unreadable: ``skip`` and record a file that cannot be read, or ``raise`` the error.
        num_workers: Worker processes, at most one per batch; 0 reads in this process.
        pin_memory: Return batches in pinned memory, for copies to a GPU.

    Attributes:
        unreadable: The error of each file that was skipped so far, by its index.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        batch_size: int,
        collate_fn: Callable[[list[Any]], Any],
        rank: int = 0,
        world_size: int = 1,
        on_unreadable: OnUnreadable = "skip",
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        # Smaller batches where there are few images, so that every rank gets some.
        batch_size = min(batch_size, -(-len(dataset) // world_size))
        index_sampler = DistributedBatchSampler(len(dataset), batch_size, rank, world_size)
        num_workers = min(num_workers, len(index_sampler))
        collate_readable = partial(_collate_readable, collate_fn)
        super().__init__(
            _Attempts(dataset), index_sampler, num_workers, pin_memory, collate_readable
        )
        self.dataset = dataset
        self.on_unreadable = on_unreadable
        self.unreadable: dict[int, str] = {}
        self._indices: list[list[int]] = []

    def batch_indices(self, batch: int, epoch: int | None = None) -> NDArray[np.int64]:
        """Return the file indices of a batch that was yielded, of shape ``(N,)``."""
        return np.array(self._indices[batch])

    def _open(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Any]:
        """Read the batches with these indices in the workers."""
        self.unreadable, self._indices = {}, []
        real = [batch[batch != PADDING] for batch in batches]
        attempts: Generator[Any] = super()._open(epoch, [batch for batch in real if batch.size])
        for batch, indices, errors in attempts:
            if errors and self.on_unreadable == "raise":
                raise ValueError(next(iter(errors.values())))
            self.unreadable |= errors
            if indices:
                self._indices.append(indices)
                yield batch


class _Attempts(Dataset[tuple[int, Any, str]]):
    """The index of each sample with either the sample or the error of its file."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: SampleKey) -> tuple[int, Any, str]:
        try:
            return key[0], self.dataset[key], ""
        except ValueError as error:
            return key[0], None, str(error)


def _collate_readable(
    collate_fn: Callable[[list[Any]], Any], attempts: list[tuple[int, Any, str]]
) -> tuple[Any, list[int], dict[int, str]]:
    """Collate the readable samples; return their batch (or None), indices and others' errors."""
    errors = {index: error for index, _, error in attempts if error}
    indices = [index for index, _, error in attempts if not error]
    samples = [sample for _, sample, error in attempts if not error]
    return collate_fn(samples) if samples else None, indices, errors
