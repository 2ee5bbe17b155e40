"""Which samples a rank sees, in which batch of which epoch.

FFCV's own distributed orders skip or repeat samples (its training order loses up to a batch a
rank, its sequential order counts some samples twice), and torch's DistributedSampler repeats
samples to make ranks equal. Here ranks are disjoint, training drops its tail evenly, and evaluation
visits each sample exactly once, with the index -1 where a batch must be filled up.

All batches are of one size. What a network computes for an image depends, in the last digit, on the
size of its batch; were the last one smaller, figures would differ with the number of ranks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PADDING = -1
"""The index, and later the label, of a row that only fills up a batch."""

PAGES_SHUFFLED_TOGETHER = 64
"""Pages among which a quasi-random order mixes samples: 512 MiB of file at FFCV's 8 MiB pages."""


@dataclass(frozen=True, eq=False)
class BatchOrder:
    """The batches of one rank, epoch by epoch, as a pure function of its fields.

    Every rank has the same number of batches of ``batch_size`` in every epoch: collective
    operations of the ranks stay in step. The batches of an evaluation are the same on any number of
    ranks, but for some of padding alone.

    Args:
        samples: Samples in the data set.
        batch_size: Samples a rank takes at a time.
        rank: This process, from 0.
        world_size: Number of processes.
        train: Drop the tail that does not fill a batch on each rank; otherwise every sample exactly
            once, the last batches filled up with -1.
        shuffle: A new order every epoch, drawn from ``(seed, epoch)``.
        repeats: Times that an epoch of training takes each of its samples, one after the other
            (repeated augmentation: Hoffer et al., arXiv 1901.09335; Berman et al., 1902.05509).
            An epoch keeps its length, so that it visits but one in ``repeats`` of the samples.
        seed: Seed of the order, not negative.
        pages: Page of each sample in its file, of shape ``(samples,)``. When given, an epoch visits
            the pages in random order and mixes the samples of a few pages at a time
            (quasi-random), and each rank reads its own pages; when None, all samples are mixed.

    Raises:
        ValueError: A size is out of range, the training samples do not fill one batch a rank, or an
            evaluation is to repeat samples.
    """

    samples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    train: bool = False
    shuffle: bool = False
    repeats: int = 1
    seed: int = 0
    pages: NDArray[np.uint64] | None = None

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch_size < 1 or self.seed < 0:
            raise ValueError(
                "samples and batch_size must be at least 1 and seed at least 0, "
                f"got {self.samples}, {self.batch_size} and {self.seed}"
            )
        if self.repeats < 1 or (self.repeats > 1 and not self.train):
            raise ValueError(
                f"repeats must be at least 1, and 1 for evaluation, got {self.repeats}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is outside the {self.world_size} ranks")
        if self.train and self.samples < self.global_batch_size:
            raise ValueError(
                f"{self.samples} training samples do not fill one batch of {self.batch_size} on "
                f"each of {self.world_size} ranks; lower data.batch_size"
            )

    @property
    def global_batch_size(self) -> int:
        """Samples that all ranks together take at a time."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of one rank in one epoch."""
        if self.train:
            return self.samples // self.global_batch_size
        return -(-self.samples // self.global_batch_size)

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """The samples of this rank in the order in which it visits them.

        Args:
            epoch: Number of the epoch, from 0.

        Returns:
            Sample indices of shape ``(len(self) * batch_size,)``, -1 where a batch is filled up.
            The repetition r of sample i, from 0, is ``i + r * samples``: random choices that follow
            from this number differ, and the sample is the remainder by ``samples``.
        """
        order = self._global_order(epoch)
        if self.repeats > 1:
            repetitions = np.arange(self.repeats) * self.samples
            order = (order[:, None] + repetitions).reshape(-1)[: self.samples]
        used = len(self) * self.global_batch_size
        if used > self.samples:
            order = np.concatenate([order, np.full(used - self.samples, PADDING)])
        order = order[:used]
        if self.train and self.pages is None:
            # The ranks share out each global batch, so that the samples of a training step depend
            # on the global batch size alone and not on the number of ranks it is spread over.
            return order.reshape(-1, self.world_size, self.batch_size)[:, self.rank].reshape(-1)
        return order.reshape(self.world_size, -1)[self.rank]

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """The indices of :meth:`indices`, cut into ``len(self)`` batches of ``batch_size``."""
        return list(self.indices(epoch).reshape(-1, self.batch_size))

    def _global_order(self, epoch: int) -> NDArray[np.int64]:
        """All samples in the order of an epoch, before they are dealt out to the ranks."""
        if not self.shuffle:
            return np.arange(self.samples)
        generator = np.random.default_rng([self.seed, epoch])
        if self.pages is None:
            return generator.permutation(self.samples)
        numbers, page_of_sample = np.unique(self.pages, return_inverse=True)
        group_of_page = generator.permutation(len(numbers)) // PAGES_SHUFFLED_TOGETHER
        return np.lexsort((generator.random(self.samples), group_of_page[page_of_sample]))
