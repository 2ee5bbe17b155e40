"""The base of the data modules: seed, workers, loaders of this rank, and exact resuming."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.data.folder.files import find_images
from eca_lightning.data.folder.image import Exif
from eca_lightning.data.folder.predict_loader import OnUnreadable, PredictionLoader
from eca_lightning.utils.checks import require, require_at_least


class ResumableDataModule(LightningDataModule):
    """A data module whose training epoch is resumed at the batch where a checkpoint stopped.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self, num_workers: int | None, seed: int | None, on_unreadable: OnUnreadable, exif: Exif
    ) -> None:
        super().__init__()
        require_at_least(0, num_workers=num_workers, seed=seed)
        known = on_unreadable in ("skip", "raise")
        require(known, "data.on_unreadable", "skip or raise", repr(on_unreadable))
        self.num_workers = num_workers
        self.seed = seed
        self.on_unreadable = on_unreadable
        require(exif in ("apply", "ignore"), "data.exif", "apply or ignore", repr(exif))
        self.exif: Exif = exif
        self._found: dict[Path, list[Path]] = {}
        self._loaders: list[EpochLoader] = []
        self._train_loader: EpochLoader | None = None
        self._resume_at: dict[str, Any] | None = None

    def teardown(self, stage: str) -> None:
        """Stop the threads and processes of the loaders."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training set.

        Lightning saves that of the loader too, but loses it where the loader is built before the
        loops are restored, as with a schedule that asks for the number of steps.
        """
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the last batch trained on, once the training loader is built."""
        self._resume_at = state_dict.get("train")

    def _resumed(self, loader: EpochLoader) -> EpochLoader:
        """Set the training loader to the position of the checkpoint, if any."""
        self._train_loader = loader
        loader.trainer = self.trainer
        if self._resume_at is not None:
            loader.load_state_dict(self._resume_at)
            self._resume_at = None
        return loader

    def _prediction_loader(
        self, dataset: Any, batch_size: int, collate_fn: Callable[[list[Any]], Any]
    ) -> PredictionLoader:
        """Create a loader of image files for this rank, which teardown closes."""
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

    def _images(self, source: Path) -> list[Path]:
        """List the images to predict, once."""
        if source not in self._found:
            self._found[source] = find_images(source, "data.predict")
        return self._found[source]

    def _run_seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        ranks = self.trainer.num_devices if self.trainer else 1
        return max(1, len(os.sched_getaffinity(0)) // ranks)

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
