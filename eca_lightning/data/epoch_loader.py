"""Iteration by epochs that can be saved and resumed: what all loaders share."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from eca_lightning.data.sampler import PADDING, BatchOrder
from eca_lightning.data.transforms.crop import View

Batch = tuple[Tensor, Tensor]
"""Images, uint8, of shape ``(N, 3, H, W)`` in channels_last memory, and int64 labels ``(N,)``."""


class EpochLoader(ABC):
    """An iterable over the batches of one rank, built once and used for a whole run.

    Each iteration is one epoch. Nothing runs before the first batch is asked for, so that calling
    ``iter`` alone (Lightning does it to try a loader out) neither starts threads nor uses up an
    epoch. One iteration at a time: a new one ends the one before.

    Args:
        order: The samples of each batch.
        view: The crop of each sample.

    Attributes:
        order: The same.
        view: The same; a new one takes effect at the next epoch. Its size may differ.
        epoch: The epoch that is being, or was last, iterated over.
        batches_done: Batches of this epoch that were handed out.
        trainer: Who trains on the batches, where someone does.
    """

    def __init__(self, order: BatchOrder, view: View) -> None:
        self.order = order
        self.view = view
        self.epoch = 0
        self.batches_done = 0
        self.trainer: Trainer | None = None
        self._next_epoch = 0
        self._resume_at: tuple[int, int] | None = None
        self._stream: Generator[Batch] | None = None

    @abstractmethod
    def _open(self, epoch: int, batches: list[NDArray[np.int64]]) -> Generator[Batch]:
        """Yield the batches with these sample indices; free everything when it is closed."""

    def __len__(self) -> int:
        """Batches of one epoch."""
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        self._end_iteration()
        epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        first = 0
        if self._resume_at is not None and self._resume_at[0] == epoch:
            first = self._resume_at[1]
        self._resume_at = None
        self.epoch, self.batches_done = epoch, first
        self._stream = stream = self._open(epoch, self.order.batches(epoch)[first:])
        try:
            for batch in stream:
                self.batches_done += 1
                yield batch
            if self._stream is not stream:
                raise RuntimeError(
                    "this iteration was ended by a newer one: a loader serves one at a time"
                )
        finally:
            stream.close()

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Where Lightning finds the ``set_epoch`` that it calls before each epoch.

        A plain ``sampler`` would do too, but Lightning takes loaders that have one for its own to
        rebuild.
        """
        return SimpleNamespace(sampler=self)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; without it, each iteration takes the next one."""
        self._next_epoch = epoch

    def batch_indices(self, batch: int) -> NDArray[np.int64]:
        """The samples of a batch of the current epoch, of shape ``(N,)``, -1 where it is padded."""
        size = self.order.batch_size
        indices = self.order.indices(self.epoch)[batch * size : (batch + 1) * size]
        return np.where(indices == PADDING, PADDING, indices % self.order.samples)

    def close(self) -> None:
        """End the iteration in progress and free its threads or processes; not the position."""
        self._end_iteration()

    def _end_iteration(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _identity(self) -> dict[str, int]:
        """What must be equal for a resumed epoch to go on exactly."""
        order = self.order
        return {
            "samples": order.samples,
            "global_batch_size": order.global_batch_size,
            "seed": order.seed,
            "repeats": order.repeats,
        }

    def state_dict(self) -> dict[str, Any]:
        """The position, the same on every rank: no batch counts that is not trained on yet."""
        done = self.batches_done
        if self.trainer is not None and self.trainer.current_epoch == self.epoch:
            # OnExceptionCheckpoint saves amid a step that failed, and Lightning then repeats it.
            progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
            done = min(done, progress.processed)
        return {"epoch": self.epoch, "batches_done": done, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on, at the next iteration, with the batch after the last one handed out.

        Args:
            state: What :meth:`state_dict` returned.
        """
        changed = {k: v for k, v in self._identity().items() if state[k] != v}
        if changed and state["batches_done"]:
            rank_zero_warn(
                "The epoch that is resumed will not see each sample once: "
                + ", ".join(f"{k} was {state[k]} and is {v}" for k, v in changed.items())
            )
        epoch, batches_done = state["epoch"], state["batches_done"]
        self._resume_at = (epoch, batches_done)
        self.epoch, self.batches_done = epoch, batches_done
        self._next_epoch = epoch if batches_done < len(self) else epoch + 1
