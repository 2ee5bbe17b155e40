"""What the data modules share: options, checks, views, ranks and loaders."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.data.folder.files import find_images, first_image_size
from eca_lightning.data.folder.loader import FileDataset, collate
from eca_lightning.data.folder.predict_loader import OnUnreadable
from eca_lightning.data.resumable import ResumableDataModule
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.transforms.augmentation import Augmentation
from eca_lightning.data.transforms.crop import Crop, CropName
from eca_lightning.utils.checks import require_at_least

Split = Literal["train", "val", "test", "predict"]

NEEDED: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}
"""The splits that each of Lightning's stages reads."""


class Source(Protocol):
    """A data set that was looked at but not read yet."""

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label, where known."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""


class ClassificationDataModule(ResumableDataModule, ABC):
    """Images and labels for training, validation, test and prediction.

    A batch is ``(images, labels)``: images uint8 of shape ``(N, 3, image_size, image_size)`` in
    channels_last memory, labels int64 of shape ``(N,)``. Training epochs are shuffled by
    ``(seed, epoch)``, random crops, flips and augmentations follow from ``(seed, epoch, sample)``,
    and an epoch interrupted by a checkpoint is resumed at its next batch. Evaluation counts each
    sample exactly once on any number of ranks; rows that only fill up a rank have the label -1.

    Args:
        root: Folder from which relative paths of train, val and test start; the current one if
            None.
        train: Training set.
        val: Validation set; ``fit`` without one does not validate.
        test: Test set.
        predict: Images without labels: a folder, at any depth; a glob, in quotes; a .txt file with
            a path in each line; or one image. Their labels are -1.
        batch_size: Training samples a rank takes at a time.
        eval_batch_size: The same for validation, test and prediction; batch_size if None.
        num_workers: Decoding threads or processes a rank; the cores of the machine shared out
            among its ranks if None.
        image_size: Height and width of the network's input in pixels.
        resize_size: For the view center_crop: the length in pixels to which the shorter side would
            be resized before the middle image_size pixels are cut out.
        train_crop: What training sees: random_resized_crop, center_crop, or full, which takes
            images as they are stored and needs all of one size.
        eval_crop: What validation, test and prediction see.
        flip: Mirror training images horizontally, every other one at random.
        scale: Least and greatest share of the area for random_resized_crop.
        ratio: Least and greatest width over height for random_resized_crop.
        seed: Seed of order, crops and augmentations; that of seed_everything if None.
        aug_repeats: Times that a training epoch takes each of its samples, each time with another
            crop (repeated augmentation, arXiv 1901.09335). An epoch keeps its length, so that it
            visits only one in ``aug_repeats`` of the samples.
        on_unreadable: What prediction does about an image file that cannot be read: ``skip`` it,
            say so and go on, or ``raise`` an error. A damaged .beton is always an error.
        augment: What else is changed in training images, in this order, after crop and flip: a list
            of ColorJitter, TrivialAugment, RandAugment and RandomErasing.

    Raises:
        ValueError: An option is out of range.
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
        image_size: int = 224,
        resize_size: int = 256,
        train_crop: CropName = "random_resized_crop",
        eval_crop: CropName = "center_crop",
        flip: bool = True,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        seed: int | None = None,
        aug_repeats: int = 1,
        on_unreadable: OnUnreadable = "skip",
        augment: list[Augmentation] | None = None,
    ) -> None:
        super().__init__(num_workers, seed, on_unreadable)
        below = root or Path()
        self.paths: dict[Split, Path | None] = {
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
        self.aug_repeats = aug_repeats
        self.augment = augment
        self._sources: dict[Split, Any] = {}

        require_at_least(
            1, batch_size=batch_size, eval_batch_size=eval_batch_size, aug_repeats=aug_repeats
        )
        try:
            self._crop(train_crop, True, None)
            self._crop(eval_crop, False, None)
        except ValueError as error:
            raise ValueError(f"data.{error}") from None

    @abstractmethod
    def _look_at(self, path: Path, name: str) -> Source:
        """Check that a data set is there and whole, without reading its images."""

    @abstractmethod
    def _load(self, source: Any, name: str, crop: CropName, train: bool) -> EpochLoader:
        """The loader of a data set for this rank."""

    def setup(self, stage: str) -> None:
        """Check the data sets of a stage, before a model is built on the device.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            FileNotFoundError: A data set does not exist.
            ValueError: A data set is not given or damaged, or two have different classes.
        """
        for split in NEEDED[stage]:
            if split == "predict" and self._path(split).suffix != ".beton":
                find_images(self._path(split), "data.predict")
            elif stage != "fit" or split == "train" or self.paths[split]:
                self._source(split)
        if stage == "fit" and self.paths["val"]:
            train, val = self._source("train").class_names, self._source("val").class_names
            if train and val and train != val:
                differing = ", ".join(sorted(set(train) ^ set(val))[:5]) or "their order"
                raise ValueError(f"data.train and data.val have different classes: {differing}")

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label; None without a data set with labels, or where it does not tell."""
        source = self._labeled_source()
        return source.class_names if source else None

    @property
    def num_classes(self) -> int:
        """Number of classes.

        Raises:
            ValueError: There is no data set with labels.
        """
        if source := self._labeled_source():
            return source.num_classes
        raise ValueError("the classes are unknown: data.train, data.val or data.test must exist")

    def train_dataloader(self) -> EpochLoader:
        """Shuffled training batches of this rank, from where a checkpoint stopped."""
        return self._resumed(self._loader("train", self.train_crop))

    def val_dataloader(self) -> EpochLoader | list[EpochLoader]:
        """Validation batches of this rank; an empty list without a validation set."""
        return self._loader("val", self.eval_crop) if self.paths["val"] else []

    def test_dataloader(self) -> EpochLoader:
        """Test batches of this rank."""
        return self._loader("test", self.eval_crop)

    def predict_dataloader(self) -> Any:
        """Batches of images without labels, see `PredictionLoader`.

        ``batch_indices`` of the loader tells which files a batch is of, ``dataset.paths`` their
        names and ``unreadable`` what is missing.
        """
        files = find_images(self._path("predict"), "data.predict")
        size = first_image_size(files) if self.eval_crop == "full" else None
        return self._prediction_loader(
            FileDataset(files, None, self._crop(self.eval_crop, False, size)),
            self.eval_batch_size or self.batch_size,
            collate,
        )

    def _path(self, split: Split) -> Path:
        path = self.paths[split]
        if path is None:
            raise ValueError(f"data.{split} is not set: give the path of the {split} set")
        return path

    def _source(self, split: Split) -> Source:
        """The data set of a split, looked at once."""
        if split not in self._sources:
            self._sources[split] = self._look_at(self._path(split), f"data.{split}")
        source: Source = self._sources[split]
        return source

    def _labeled_source(self) -> Source | None:
        """The first data set with labels that is there: prediction needs none."""
        labeled: tuple[Split, ...] = ("train", "val", "test")
        for split in labeled:
            path = self.paths[split]
            if path is not None and path.exists():
                return self._source(split)
        return None

    def _loader(self, split: Split, crop: CropName) -> EpochLoader:
        """Build a loader and remember to close it."""
        loader = self._load(self._source(split), f"data.{split}", crop, split == "train")
        self._loaders.append(loader)
        return loader

    def _crop(self, name: CropName, train: bool, full_size: tuple[int, int] | None) -> Crop:
        """The view of a split; ``full_size`` is the height and width of its images for ``full``."""
        size = full_size if name == "full" and full_size else (self.image_size, self.image_size)
        return Crop(
            name,
            *size,
            resize_size=self.resize_size,
            scale=self.scale,
            ratio=self.ratio,
            flip=train and self.flip,
            seed=self._run_seed(),
            augment=tuple(self.augment or ()) if train else (),
        )

    def _index_sampler(
        self, samples: int, train: bool, pages: NDArray[Any] | None = None
    ) -> DistributedBatchSampler:
        """The batches of this rank."""
        trainer = self.trainer
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
            pages=pages,
        )
