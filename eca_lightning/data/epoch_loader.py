"""What a loader may offer beyond batches, and the base class of this package's loaders.

Any iterable of batches with a length trains, a plain torch DataLoader for one. The protocols below
are optional: what needs one says so in one line at the start of a run.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from eca_lightning.data.sampler import PADDING, DistributedBatchSampler

Batch = tuple[Tensor, Tensor]
"""Images, uint8, of shape ``(N, 3, H, W)`` in channels_last memory, and int64 labels ``(N,)``."""


@runtime_checkable
class ResizableLoader(Protocol):
    """A loader whose image size can change between epochs; ProgressiveResizing needs it."""

    def set_image_size(self, size: int) -> None:
        """Set the height and width of the images in pixels, from the next epoch on.

        Raises:
            ValueError: If the images cannot have this size.
        """


@runtime_checkable
class IndexedLoader(Protocol):
    """A loader that knows the samples of its batches.

    PredictionWriter needs it where Lightning does not know them (it does for a torch DataLoader);
    LossGuard's report names the samples if the training loader has it.
    """

    def batch_indices(self, batch: int, epoch: int | None = None) -> NDArray[np.int64]:
        """Return the sample indices of a batch (from 0) of an epoch, by default the current one.

        Their shape is ``(N,)``, and they are -1 for padding.
        """


@runtime_checkable
class ResumableLoader(Protocol):
    """A loader that resumes an interrupted epoch at its next batch.

    Lightning calls ``set_epoch`` of ``loader.batch_sampler.sampler`` before each epoch, and keeps
    ``state_dict`` in its checkpoints. Without these, a resumed run repeats the epoch.
    """

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a position at the next iteration."""


class EpochLoader(ABC):
    """An iterable over the batches of one rank that is built once and used for a whole run.

    Each iteration is one epoch. Nothing runs before the first batch is requested: calling ``iter``
    alone, as Lightning does to check a loader, neither starts threads nor uses up an epoch. Only
    one iteration is active: a new one ends the one before.

    Attributes:
        epoch: Number of the current or last epoch.
        batches_done: Number of batches of this epoch that were yielded.
        trainer: The trainer that trains on the batches, if any.
    """

    def __init__(self, index_sampler: DistributedBatchSampler) -> None:
        self.index_sampler = index_sampler
        self.epoch = 0
        self.batches_done = 0
        self.trainer: Trainer | None = None
        self._next_epoch = 0
        self._resume_at: tuple[int, int] | None = None
        self._stream: Generator[Batch] | None = None

    @abstractmethod
    def _open(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Batch]:
        """Yield the batches with these sample indices; release everything when closed."""

    def __len__(self) -> int:
        """Number of batches of one epoch."""
        return len(self.index_sampler)

    def __iter__(self) -> Iterator[Batch]:
        EpochLoader.close(self)  # a subclass's would stop its workers too
        epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        first = self._resume_at[1] if self._resume_at and self._resume_at[0] == epoch else 0
        self._resume_at = None
        self.epoch, self.batches_done = epoch, first
        self._stream = stream = self._open(epoch, self.index_sampler.batches(epoch)[first:])
        try:
            for batch in stream:
                self.batches_done += 1
                yield batch
            if self._stream is not stream:
                raise RuntimeError("this iteration was ended by a newer one of the same loader")
        finally:
            stream.close()

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Where Lightning finds the ``set_epoch`` that it calls before each epoch.

        A loader with an attribute ``sampler`` would be rebuilt by Lightning as a torch DataLoader.
        """
        return SimpleNamespace(sampler=self)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; by default, each iteration is the next epoch."""
        self._next_epoch = epoch

    def batch_indices(self, batch: int, epoch: int | None = None) -> NDArray[np.int64]:
        """See :meth:`IndexedLoader.batch_indices`."""
        batches = self.index_sampler.batches(self.epoch if epoch is None else epoch)
        samples = self.index_sampler.samples
        return np.where(batches[batch] == PADDING, PADDING, batches[batch] % samples)

    def sample_name(self, index: int) -> str:
        """Name a sample for people."""
        return f"sample {index}"

    def close(self) -> None:
        """End the iteration in progress and stop its threads or processes; keep the position."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _identity(self) -> dict[str, int]:
        """What must be equal for a resumed epoch to continue exactly."""
        names = ("samples", "global_batch_size", "seed", "repeats")
        identity = {name: getattr(self.index_sampler, name) for name in names}
        return identity | {"balanced": int(self.index_sampler.balanced is not None)}

    def state_dict(self) -> dict[str, Any]:
        """Return the position, equal on every rank; batches not yet trained on do not count."""
        done = self.batches_done
        if self.trainer is not None and self.trainer.current_epoch == self.epoch:
            # OnExceptionCheckpoint saves within a failed step, which Lightning then repeats.
            progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
            done = min(done, progress.processed)
        return {"epoch": self.epoch, "batches_done": done, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue, at the next iteration, after the last batch that was trained on."""
        changed = {k: v for k, v in self._identity().items() if state.get(k, 0) != v}
        if changed and state["batches_done"]:
            rank_zero_warn(
                "The resumed epoch will not visit each sample once: "
                + ", ".join(f"{k} was {state.get(k, 0)} and is {v}" for k, v in changed.items())
            )
        self.epoch, self.batches_done = state["epoch"], state["batches_done"]
        self._resume_at = (self.epoch, self.batches_done)
        self._next_epoch = self.epoch if self.batches_done < len(self) else self.epoch + 1
