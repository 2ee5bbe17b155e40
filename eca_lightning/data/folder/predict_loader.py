"""Batches of image files for prediction, of which some may turn out to be unreadable."""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from eca_lightning.data.folder.loader import FolderLoader, SampleKey
from eca_lightning.data.sampler import PADDING, BatchOrder
from eca_lightning.utils.checks import require

OnUnreadable = Literal["skip", "raise"]
"""What to do about an image file that cannot be read."""


class PredictionLoader(FolderLoader):
    """The batches of image files for one rank, without those that cannot be read.

    No batch is filled up: ranks have different numbers of them, which prediction, in which ranks do
    not talk to each other, permits.

    Args:
        dataset: The files: its items are what ``collate_fn`` takes, or a ValueError that names what
            cannot be read. It has the attributes ``paths`` and ``view``.
        batch_size: Images that a rank takes at a time.
        collate_fn: Makes a batch of samples.
        rank: This process, from 0.
        world_size: Number of processes.
        on_unreadable: ``skip`` a file that cannot be read and note it, or ``raise`` the error.
        num_workers: Processes that decode, no more than there are batches; 0 decodes in this one.
        pin_memory: Whether to hand out batches in pinned memory, for copies to a GPU.

    Attributes:
        dataset: The files.
        unreadable: By the index of each file that was skipped so far, why it was.
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
        samples = len(dataset)
        # A few images are shared out, too.
        order = BatchOrder(samples, min(batch_size, -(-samples // world_size)), rank, world_size)
        super().__init__(
            _Attempts(dataset),
            order,
            min(num_workers, len(order)),
            pin_memory,
            partial(_collate_read, collate_fn),
        )
        self.dataset = dataset
        self.on_unreadable = on_unreadable
        self.unreadable: dict[int, str] = {}
        self._indices: list[list[int]] = []

    def batch_indices(self, batch: int) -> NDArray[np.int64]:
        """The files of a batch that was handed out, of shape ``(N,)``."""
        return np.array(self._indices[batch])

    def _open(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Any]:
        """Decode the batches with these indices in the workers."""
        self.unreadable, self._indices = {}, []
        real = [batch[batch != PADDING] for batch in batches]
        attempts: Generator[Any] = super()._open(epoch, [batch for batch in real if batch.size])
        for batch, indices, failures in attempts:
            if failures and self.on_unreadable == "raise":
                raise ValueError(next(iter(failures.values())))
            self.unreadable |= failures
            if indices:
                self._indices.append(indices)
                yield batch


def require_on_unreadable(value: str) -> None:
    """Raise a ValueError unless the data module's option is one of the two."""
    allowed = get_args(OnUnreadable)
    require(value in allowed, "data.on_unreadable", " or ".join(allowed), repr(value))


class _Attempts(Dataset[tuple[int, Any, str]]):
    """The index of each sample, and either the sample or why it cannot be read."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.view = dataset.view

    def __getitem__(self, key: SampleKey) -> tuple[int, Any, str]:
        try:
            return key[0], self.dataset[key], ""
        except ValueError as error:
            return key[0], None, str(error)


def _collate_read(
    collate_fn: Callable[[list[Any]], Any], attempts: list[tuple[int, Any, str]]
) -> tuple[Any, list[int], dict[int, str]]:
    """Make a batch of what could be read, if anything could; and say of what it is and is not."""
    read = [(index, sample) for index, sample, failure in attempts if not failure]
    failures = {index: failure for index, _, failure in attempts if failure}
    batch = collate_fn([sample for _, sample in read]) if read else None
    return batch, [index for index, _ in read], failures
