"""The base of the data modules: seed, workers, loaders of this rank, and exact resuming."""

import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule

from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.data.folder.attempts import OnUnreadable
from eca_lightning.data.folder.check import ImageCheck
from eca_lightning.data.folder.files import find_images
from eca_lightning.data.folder.image import Exif
from eca_lightning.data.folder.predict_loader import PredictionLoader
from eca_lightning.utils.checks import DataError, require, require_at_least
from eca_lightning.utils.distributed import gather_objects

Split = Literal["train", "val", "test", "predict"]

NEEDED: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}
"""The splits that each stage of Lightning reads."""


class ResumableDataModule(LightningDataModule):
    """A data module whose training epoch is resumed at the batch where a checkpoint stopped.

    Attributes:
        paths: Where the data of each split lie.

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
        self.paths: dict[Split, Path | None] = {}
        self._header_faults: list[str] = []
        self._found: dict[Path, list[Path]] = {}
        self._loaders: list[EpochLoader] = []
        self._train_loader: EpochLoader | None = None
        self._resume_at: dict[str, Any] | None = None

    def prepare_data(self) -> None:
        """Check the image files of a run by their headers, in one process of each machine."""
        if self.trainer is not None and self.trainer.state.fn is not None:
            self._header_faults = self._check_headers(self.trainer.state.fn.value)

    def _check_headers(self, stage: str) -> list[str]:
        faults = []
        for split in self._splits(stage):
            try:
                check = self._image_check(split)
            except (ValueError, OSError):
                continue  # setup raises it, in all processes
            faults += check.by_headers(f"data.{split}") if check else []
        return faults

    def _require_images(self, stage: str, remedy: str, others: Sequence[str] = ()) -> None:
        """Raise what `prepare_data` has found on all machines; without a trainer, check now.

        Args:
            stage: What the images are for.
            remedy: What else than to replace labeled images can be done about them.
            others: Faults that are listed as well.

        Raises:
            DataError: If there are faults.
        """
        if self.trainer is None:
            found = self._check_headers(stage)
        else:
            found = list(chain(*gather_objects(self.trainer, self._header_faults)))
        if stage == "predict":
            remedy = "skip them with --data.on_unreadable skip"
        if found or others:
            remedy = f"replace the images that are damaged or missing, or {remedy}"
            raise DataError([*others, *dict.fromkeys(found)], remedy if found else "")

    def _image_check(self, split: Split) -> ImageCheck | None:
        """Return what is to be checked of the files of a split; None if it has no image files."""
        if split != "predict" or self.on_unreadable == "skip":
            return None  # prediction skips them one by one, and lists them
        source = self._path(split)
        return ImageCheck(self._images(source), source if source.is_dir() else None, self.exif)

    def _splits(self, stage: str) -> list[Split]:
        """Return the splits that a stage reads: training needs no validation set."""
        optional = "val" if stage == "fit" else ""
        return [split for split in NEEDED[stage] if split != optional or self.paths.get(split)]

    def _path(self, split: Split) -> Path:
        if path := self.paths[split]:
            return path
        raise ValueError(f"data.{split} is not set: give its path")

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
