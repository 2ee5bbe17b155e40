"""Sample indices of each batch of a rank.

FFCV's distributed orders skip or repeat samples (its training order loses up to a batch per rank,
its sequential order counts some samples twice), and torch's DistributedSampler repeats samples to
make ranks equal. Here ranks are disjoint, training drops its tail evenly, and evaluation visits
each sample exactly once, with the index -1 where a batch is padded.

All batches have the same size: the last digit of a network's output depends on the size of its
batch, so that a smaller last batch would make metrics depend on the number of ranks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eca_lightning.utils.checks import require

PADDING = -1
"""The index, and later the label, of a row that pads a batch."""

PAGES_SHUFFLED_TOGETHER = 64
"""Pages among which quasi-random order shuffles samples: 512 MiB at FFCV's 8 MiB pages."""


@dataclass(frozen=True, eq=False)
class DistributedBatchSampler:
    """The batches of one rank in each epoch, as a pure function of its fields and the epoch.

    Every rank has the same number of batches of ``batch_size`` in every epoch, so that collective
    operations stay in step. Evaluation batches are the same on any number of ranks, except for
    batches of padding alone.

    Args:
        samples: Number of samples of the dataset.
        batch_size: Samples per batch and rank.
        rank, world_size: Rank of this process, number of ranks.
        train: Drop the tail that does not fill a batch on each rank; otherwise visit every sample
            exactly once and pad the last batches with -1.
        shuffle: Shuffle each epoch by ``(seed, epoch)``.
        repeats: Times that a training epoch visits each of its samples in succession (repeated
            augmentation: Hoffer et al., arXiv 1901.09335; Berman et al., 1902.05509). The length
            of an epoch stays the same, so that it visits one in ``repeats`` of the samples.
        seed: Seed of the shuffling, at least 0.
        pages: Page of each sample in its file, of shape ``(samples,)``. If given, an epoch visits
            the pages in random order and shuffles the samples of a few pages at a time
            (quasi-random), and each rank reads its own pages; if None, all samples are shuffled.
        balanced: Label of each sample, of shape ``(samples,)``. If given, a training epoch visits
            all classes equally often, and so the samples of rare classes several times and one in
            a few of others. The visits of the samples of a class differ by one at most.

    Raises:
        ValueError: If a size is out of range, the training samples do not fill one batch per rank,
            an evaluation repeats samples, or options exclude one another.
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
    balanced: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        require(self.samples >= 1, "samples", "at least 1", self.samples)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        require(self.seed >= 0, "seed", "at least 0", self.seed)
        allowed = self.repeats >= 1 if self.train else self.repeats == 1
        require(allowed, "repeats", "at least 1, and 1 for evaluation", self.repeats)
        if self.balanced is not None:
            alone = self.repeats == 1 and self.pages is None
            require(
                alone, "data.balanced_sampling", "false with aug_repeats and quasi_random", True
            )
        in_world = 0 <= self.rank < self.world_size
        require(in_world, "rank", f"from 0 to {self.world_size - 1}", self.rank)
        if self.train and self.samples < self.global_batch_size:
            raise ValueError(
                f"{self.samples} training samples do not fill one batch of {self.batch_size} on "
                f"each of {self.world_size} ranks; lower data.batch_size"
            )

    @property
    def global_batch_size(self) -> int:
        """Samples per batch over all ranks."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Number of batches of one rank in one epoch."""
        if self.train:
            return self.samples // self.global_batch_size
        return -(-self.samples // self.global_batch_size)

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """Compute the sample indices of this rank in the order in which it visits them.

        Their shape is ``(len(self) * batch_size,)``, and they are -1 for padding. Repetition r of
        sample i, from 0, has the index ``i + r * samples``, so that it gets other random crops and
        augmentations; the sample is the index modulo ``samples``.
        """
        indices = self._global_indices(epoch)
        if self.repeats > 1:
            repetitions = np.arange(self.repeats) * self.samples
            indices = (indices[:, None] + repetitions).reshape(-1)[: self.samples]
        used = len(self) * self.global_batch_size
        padding = np.full(max(used - self.samples, 0), PADDING)
        indices = np.concatenate([indices[:used], padding])
        if self.train and self.pages is None:
            # Split each global batch among the ranks, so that the samples of a training step
            # depend on the global batch size alone and not on the number of ranks.
            return indices.reshape(-1, self.world_size, self.batch_size)[:, self.rank].reshape(-1)
        return indices.reshape(self.world_size, -1)[self.rank]

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Split :meth:`indices` into ``len(self)`` batches of ``batch_size``."""
        return list(self.indices(epoch).reshape(-1, self.batch_size))

    def _global_indices(self, epoch: int) -> NDArray[np.int64]:
        """Compute the order of all samples in an epoch, before it is split among ranks."""
        if not self.shuffle:
            return np.arange(self.samples)
        generator = np.random.default_rng([self.seed, epoch])
        if self.balanced is not None:
            return self._balanced_indices(self.balanced, generator)
        if self.pages is None:
            return generator.permutation(self.samples)
        numbers, page_of_sample = np.unique(self.pages, return_inverse=True)
        group_of_page = generator.permutation(len(numbers)) // PAGES_SHUFFLED_TOGETHER
        return np.lexsort((generator.random(self.samples), group_of_page[page_of_sample]))

    def _balanced_indices(
        self, labels: NDArray[np.int64], generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Visit each class equally often; visit r of sample i, from 0, is ``i + r * samples``."""
        classes = generator.permutation(np.unique(labels))
        chosen = []
        for number, label in enumerate(classes):
            visits = self.samples // len(classes) + (number < self.samples % len(classes))
            members = np.flatnonzero(labels == label)
            rounds = range(-(-visits // len(members)))
            of_class = [generator.permutation(members) + r * self.samples for r in rounds]
            chosen.append(np.concatenate(of_class)[:visits])
        return generator.permutation(np.concatenate(chosen))
