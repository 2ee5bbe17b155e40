"""A data module whose training set is resumed at the batch where a checkpoint stopped."""

import os
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.data.folder.predict_loader import OnUnreadable, PredictionLoader
from eca_lightning.utils.checks import require, require_at_least


class ResumableDataModule(LightningDataModule):
    """The position in the training set, the loaders of a run, and a rank's share of the machine.

    Args:
        num_workers: Decoding threads or processes a rank; the cores of the machine shared out
            among its ranks if None.
        seed: Seed of all that is random; that of seed_everything if None.
        on_unreadable: What prediction does about an image file that cannot be read.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self, num_workers: int | None, seed: int | None, on_unreadable: OnUnreadable
    ) -> None:
        super().__init__()
        require_at_least(0, num_workers=num_workers, seed=seed)
        known = on_unreadable in ("skip", "raise")
        require(known, "data.on_unreadable", "skip or raise", repr(on_unreadable))
        self.num_workers = num_workers
        self.seed = seed
        self.on_unreadable = on_unreadable
        self._loaders: list[EpochLoader] = []
        self._train_loader: EpochLoader | None = None
        self._resume_at: dict[str, Any] | None = None

    def teardown(self, stage: str) -> None:
        """Stop the threads and processes of the loaders."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def state_dict(self) -> dict[str, Any]:
        """The position in the training set.

        Lightning saves that of the loader as well, but loses it where the loader is built before
        the loops are restored, as a schedule does that asks for the number of steps.
        """
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on, once the training loader is built, after the last batch that was handed out."""
        self._resume_at = state_dict.get("train")

    def _resumed(self, loader: EpochLoader) -> EpochLoader:
        """The training loader, from where a checkpoint stopped."""
        self._train_loader = loader
        loader.trainer = self.trainer
        if self._resume_at is not None:
            loader.load_state_dict(self._resume_at)
            self._resume_at = None
        return loader

    def _prediction_loader(
        self, dataset: Any, batch_size: int, collate_fn: Callable[[list[Any]], Any]
    ) -> PredictionLoader:
        """Build a loader of image files for this rank and remember to close it."""
        trainer = self.trainer
        loader = PredictionLoader(
            dataset,
            batch_size=batch_size,
            collate_fn=collate_fn,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            on_unreadable=self.on_unreadable,
            num_workers=self._workers(),
            pin_memory=self._device().type == "cuda",
        )
        self._loaders.append(loader)
        return loader

    def _run_seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        ranks = self.trainer.num_devices if self.trainer else 1
        return max(1, len(os.sched_getaffinity(0)) // ranks)

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
