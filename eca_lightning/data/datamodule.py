"""The base of the classification data modules: options, splits, crops and loaders."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.data.folder.attempts import OnUnreadable
from eca_lightning.data.folder.files import first_image_size
from eca_lightning.data.folder.image import Exif
from eca_lightning.data.folder.loader import FileDataset, collate
from eca_lightning.data.folder.preprocessing import Preprocessing
from eca_lightning.data.resumable import ResumableDataModule, Split
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.source import Source, class_counts
from eca_lightning.data.transforms.augmentation import Augmentation
from eca_lightning.data.transforms.crop import Crop, CropName
from eca_lightning.utils.checks import require_at_least


class ClassificationDataModule(ResumableDataModule, ABC):
    """Images and labels for training, validation, test and prediction.

    A batch is ``(images, labels)``: images uint8 of shape ``(N, 3, image_size, image_size)`` in
    channels_last memory, labels int64 of shape ``(N,)``. Training epochs are shuffled by
    ``(seed, epoch)``, random crops, flips and augmentations follow from ``(seed, epoch, sample)``,
    and an interrupted epoch is resumed at its next batch. Evaluation counts each sample exactly
    once on any number of ranks; rows that pad a batch have the label -1.

    Args:
        root: Folder of relative paths of train, val and test; the current one if None.
        train: Training set.
        val: Validation set; ``fit`` without one does not validate.
        test: Test set.
        predict: Images without labels: a folder, at any depth; a glob, in quotes; a .txt file with
            one path per line; or one image. Their labels are -1.
        batch_size: Training samples per batch and rank.
        eval_batch_size: The same for validation, test and prediction; batch_size if None.
        num_workers: Decoding threads or processes per rank; the machine's cores divided by its
            ranks if None.
        image_size: Height and width of the network's input in pixels. Default: in evaluation and
            prediction that of the checkpoint, where it knows it, else 224.
        resize_size: For center_crop: length in pixels to which the shorter side would be resized
            before the center image_size pixels are cropped. Default: as for image_size, or
            image_size / 0.875.
        train_crop: Crop of training images: random_resized_crop, center_crop, or full, which
            keeps images as they are stored and needs all of one size.
        eval_crop: Crop of validation, test and prediction images; full scales them to the size of
            those of the training, where the checkpoint knows it. Default: that of the checkpoint,
            else center_crop.
        flip: Flip training images horizontally with probability 0.5.
        scale: Minimum and maximum fraction of the area for random_resized_crop.
        ratio: Minimum and maximum aspect ratio, width over height, for random_resized_crop.
        seed: Seed of shuffling, crops and augmentations; that of seed_everything if None.
        balanced_sampling: Whether a training epoch visits all classes equally often: the images of
            rare classes several times, each time with another crop, and a part of the others. Its
            length stays the same.
        aug_repeats: Times that a training epoch visits each of its samples, each time with another
            crop (repeated augmentation, arXiv 1901.09335). The length of an epoch stays the same,
            so that it visits one in ``aug_repeats`` of the samples.
        on_unreadable: What to do about an image file whose header is whole and which cannot be
            decoded: ``skip`` it, where the next image takes its place in training and scores lack
            it, and count it in the log, or ``raise`` an error. Prediction skips and names all that
            cannot be read. A damaged .beton is always an error.
        exif: ``apply`` the orientation in the EXIF data of image files, which turns them upright,
            or ``ignore`` it. A .beton's images stay as they were written.
        augment: Augmentations of training images after crop and flip, in this order: a list of
            ColorJitter, TrivialAugment, RandAugment and RandomErasing.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        root: Path | None = None,
        train: Path | None = None,
        val: Path | None = None,
        test: Path | None = None,
        predict: Path | None = None,
        batch_size: int = 256,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        image_size: int | None = None,
        resize_size: int | float | None = None,
        train_crop: CropName = "random_resized_crop",
        eval_crop: CropName | None = None,
        flip: bool = True,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        seed: int | None = None,
        balanced_sampling: bool = False,
        aug_repeats: int = 1,
        on_unreadable: OnUnreadable = "skip",
        exif: Exif = "apply",
        augment: list[Augmentation] | None = None,
    ) -> None:
        super().__init__(num_workers, seed, on_unreadable, exif)
        below = root or Path()
        self.paths = {
            "train": train and below / train,
            "val": val and below / val,
            "test": test and below / test,
            "predict": predict,
        }
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.image_size = image_size
        self.resize_size = resize_size
        self.train_crop = train_crop
        self.eval_crop = eval_crop
        self.flip = flip
        self.scale = scale
        self.ratio = ratio
        self.balanced_sampling = balanced_sampling
        self.aug_repeats = aug_repeats
        self.augment = augment
        self._sources: dict[Split, Source] = {}

        require_at_least(
            1, batch_size=batch_size, eval_batch_size=eval_batch_size, aug_repeats=aug_repeats
        )
        try:
            self._crop("train")
            self._crop("val")
        except ValueError as error:
            raise ValueError(f"data.{error}") from None

    @abstractmethod
    def _inspect(self, path: Path, name: str) -> Source:
        """Check that a dataset exists and is complete, without reading its images."""

    @abstractmethod
    def _stored_size(self, source: Any) -> tuple[int, int] | None:
        """Return the height and width of the smallest, or the first, image of a dataset."""

    @abstractmethod
    def _load(self, source: Any, split: Split) -> EpochLoader:
        """Create the loader of a split for this rank."""

    def setup(self, stage: str) -> None:
        """Check the datasets of a stage, before a model is built on the device.

        Raises:
            FileNotFoundError: If a dataset does not exist.
            ValueError: If a dataset is not given or is damaged, two have different classes, or
                image files cannot be read by their headers; the message lists them.
        """
        for split in self._splits(stage):
            if split == "predict" and self._path(split).suffix != ".beton":
                self._images(self._path(split))
            else:
                self._source(split)
        if trained := self._trained():
            rank_zero_info(f"images as the checkpoint's: {trained}")
            if (ours := self.preprocessing) != trained:
                rank_zero_info(f"given otherwise: {ours}")
        if stage == "fit" and self.paths["val"]:
            train, val = self._source("train").class_names, self._source("val").class_names
            if train and val and train != val:
                differing = ", ".join(sorted(set(train) ^ set(val))[:5]) or "their order"
                raise ValueError(f"data.train and data.val have different classes: {differing}")
        self._require_images(
            stage, "leave them out, as 'data write image-folder --on_error skip' does"
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """What evaluation does to images: what is given, else what the checkpoint says."""
        view, size = self._view(), self._full_size("val")
        if view.eval_crop == "full" and size is None:
            split: Split = "val" if self.paths["val"] else "train"
            size = self._stored_size(self._source(split)) if self.paths[split] else None
        return replace(view, image_size=size) if view.eval_crop == "full" and size else view

    def _view(self) -> Preprocessing:
        known = self._trained() or Preprocessing()
        return known.given(self.eval_crop, self.image_size, self.resize_size)

    def _trained(self) -> Preprocessing | None:
        """Return what the weights were trained for, if it is known and they are not trained now."""
        if self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING:
            return None
        return getattr(self.trainer.lightning_module, "preprocessing", None)

    def _full_size(self, split: Split) -> tuple[int, int] | None:
        """Return the size to which the crop ``full`` scales; None if images keep theirs."""
        trained = self._trained()
        scales = split != "train" and trained is not None and trained.eval_crop == "full"
        return trained.image_size if trained and scales else None

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label; None without a labeled dataset, or where it does not know them."""
        source = self._labeled_source()
        return source.class_names if source else None

    @property
    def num_classes(self) -> int:
        """Number of classes; a ValueError without a labeled dataset.

        Without names it is the largest of the datasets that were inspected, by their labels.
        """
        if source := self._labeled_source():
            others = [other.num_classes for other in self._sources.values()]
            return source.num_classes if source.class_names else max(others)
        raise ValueError("the classes are unknown: data.train, data.val or data.test must exist")

    @property
    def class_counts(self) -> list[int]:
        """Number of training images of each class."""
        return class_counts(self._source("train"), self.num_classes)

    def train_dataloader(self) -> EpochLoader:
        """Create the loader of shuffled training batches, at the position of a checkpoint."""
        return self._resumed(self._loader("train"))

    def val_dataloader(self) -> EpochLoader | list[EpochLoader]:
        """Create the loader of validation batches; an empty list without a validation set."""
        return self._loader("val") if self.paths["val"] else []

    def test_dataloader(self) -> EpochLoader:
        """Create the loader of test batches."""
        return self._loader("test")

    def predict_dataloader(self) -> Any:
        """Create the loader of images without labels, a `PredictionLoader`."""
        files = self._images(self._path("predict"))
        crop = self._crop("predict", lambda: first_image_size(files, self.exif))
        dataset = FileDataset(files, None, crop, self.exif, self._full_size("predict") is None)
        return self._prediction_loader(dataset, self.eval_batch_size or self.batch_size, collate)

    def _source(self, split: Split) -> Source:
        """Return the dataset of a split, inspected once."""
        if split not in self._sources:
            self._sources[split] = self._inspect(self._path(split), f"data.{split}")
        return self._sources[split]

    def _labeled_source(self) -> Source | None:
        """Return the first labeled dataset that exists: prediction needs none."""
        for split, path in self.paths.items():
            if split != "predict" and path is not None and path.exists():
                return self._source(split)
        return None

    def _loader(self, split: Split) -> EpochLoader:
        """Create the loader of a split, which teardown closes."""
        loader = self._load(self._source(split), split)
        self._loaders.append(loader)
        return loader

    def _crop(
        self, split: Split, stored_size: Callable[[], tuple[int, int] | None] = lambda: None
    ) -> Crop:
        """Return the crop of a split; ``stored_size`` gives that of its images, for ``full``."""
        train, view = split == "train", self._view()
        name, size = self.train_crop if train else view.eval_crop, view.image_size
        if name == "full":
            size = self._full_size(split) or stored_size() or size
        return Crop(
            name,
            *size,
            resize_size=view.resize_size,
            scale=self.scale,
            ratio=self.ratio,
            flip=train and self.flip,
            seed=self._run_seed(),
            augment=tuple(self.augment or ()) if train else (),
            resize_first=None if train else view.resize_first,
        )

    def _index_sampler(
        self, samples: int, split: Split, pages: NDArray[Any] | None = None
    ) -> DistributedBatchSampler:
        """Return the sampler of a split for this rank; ``pages`` are for training alone."""
        train, trainer = split == "train", self.trainer
        balanced = train and self.balanced_sampling
        return DistributedBatchSampler(
            samples=samples,
            batch_size=self.batch_size if train else self.eval_batch_size or self.batch_size,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            train=train,
            # overfit_batches means the same few batches in every epoch.
            shuffle=train and not getattr(trainer, "overfit_batches", 0),
            repeats=self.aug_repeats if train else 1,
            seed=self._run_seed(),
            pages=pages if train else None,
            balanced=np.asarray(self._source("train").labels) if balanced else None,
        )
