"""Batches of image files for prediction, some of which may be unreadable."""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.folder.attempts import OnUnreadable
from eca_lightning.data.folder.loader import FileLoader
from eca_lightning.data.sampler import PADDING, DistributedBatchSampler


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
        super().__init__(dataset, index_sampler, num_workers, pin_memory, collate_fn, on_unreadable)
        self._indices: list[list[int]] = []

    def batch_indices(self, batch: int, epoch: int | None = None) -> NDArray[np.int64]:
        """Return the file indices of a batch that was yielded, of shape ``(N,)``."""
        return np.array(self._indices[batch])

    def _open(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Any]:
        """Read the batches with these indices in the workers."""
        self.unreadable, self._indices = {}, []
        real = [batch[batch != PADDING] for batch in batches]
        for batch, indices, errors in self._read(epoch, [batch for batch in real if batch.size]):
            if errors and self.on_unreadable == "raise":
                raise ValueError(next(iter(errors.values())))
            self.unreadable |= errors
            if indices:
                self._indices.append(indices)
                yield batch
