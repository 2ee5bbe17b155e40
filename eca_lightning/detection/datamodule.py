"""The data module of object detection: images annotated as COCO's."""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.data.folder.attempts import OnUnreadable
from eca_lightning.data.folder.check import ImageCheck
from eca_lightning.data.folder.files import existing_folder
from eca_lightning.data.folder.image import Exif
from eca_lightning.data.resumable import ResumableDataModule, Split
from eca_lightning.detection.annotations import CocoAnnotations
from eca_lightning.detection.dataset import (
    CocoImages,
    CocoLoader,
    GroupedBatchSampler,
    NumberedImages,
    collate_images,
)
from eca_lightning.utils.checks import DataError, require, require_at_least


class CocoDataModule(ResumableDataModule):
    """Images annotated in COCO's format for training, validation, test and prediction.

    A batch is ``(images, targets)``, two lists. Images are uint8 of shape ``(3, H, W)``, of any
    size: detectors resize and normalize them. A target holds ``image_id`` (int64, COCO's id),
    ``boxes`` (float32, ``(n, 4)``, XYXY in pixels), ``labels`` (int64, ``(n,)``, from 0: index of
    the category among those sorted by id), ``area`` (float32, ``(n,)``), ``iscrowd`` (bool,
    ``(n,)``) and optionally ``masks`` (uint8, ``(n, H, W)``); in prediction it holds only
    ``image_id``, the index of the file.

    Training leaves out crowds, degenerate boxes and images without any other, and clips boxes to
    their images. Epochs are shuffled by ``(seed, epoch)``, flips follow from ``(seed, epoch, image
    id)``, and an interrupted epoch resumes at its next batch. Evaluation has all that COCO's tools
    evaluate, each image once on any number of ranks; batches of padding alone have no images.

    Args:
        root: Folder of relative paths of images and annotations; the current one if None.
        train: Folder of training images.
        val: Folder of validation images; ``fit`` without one does not validate.
        test: Folder of test images.
        train_annotations: Annotation file of the training images, in COCO's format.
        val_annotations: Annotation file of the validation images.
        test_annotations: Annotation file of the test images.
        predict: Images without annotations: a folder, at any depth; a glob, in quotes; a .txt file
            with a path in each line; or one image.
        batch_size: Training images per batch and rank.
        eval_batch_size: The same for validation, test and prediction.
        num_workers: Worker processes per rank, 0 reads in the training process; by default the
            cores of the machine divided by its ranks.
        masks: Whether targets hold masks.
        flip: Flip half of the training images horizontally, at random.
        group_by_aspect_ratio: Fill training batches with landscapes or portraits alone, except for
            the last ones, which saves padding.
        on_unreadable: What to do about an image whose header is whole and which cannot be decoded:
            ``skip`` it, where the next image takes its place in training and scores lack it, and
            count it in the log, or ``raise`` an error. Prediction skips and names all that cannot
            be read.
        exif: ``apply`` the orientation in the EXIF data of image files, so that they are as their
            boxes expect them, or ``ignore`` it.
        clip_boxes: Pixels by which a box may reach out of its image. Training clips such boxes,
            evaluation scores them as they are, as COCO's tools do, and the log counts them.
        seed: Seed of order and flips; that of seed_everything if None.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        root: Path | None = None,
        train: Path | None = Path("train2017"),
        val: Path | None = Path("val2017"),
        test: Path | None = None,
        train_annotations: Path | None = Path("annotations/instances_train2017.json"),
        val_annotations: Path | None = Path("annotations/instances_val2017.json"),
        test_annotations: Path | None = None,
        predict: Path | None = None,
        batch_size: int = 2,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        masks: bool = False,
        flip: bool = True,
        group_by_aspect_ratio: bool = True,
        on_unreadable: OnUnreadable = "skip",
        exif: Exif = "apply",
        clip_boxes: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(num_workers, seed, on_unreadable, exif)
        below = root or Path()
        self.paths = {
            "train": train and below / train,
            "val": val and below / val,
            "test": test and below / test,
            "predict": predict,
        }
        self.annotation_files: dict[Split, Path | None] = {
            "val": val_annotations and below / val_annotations,
            "test": test_annotations and below / test_annotations,
            "train": train_annotations and below / train_annotations,
        }
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.masks = masks
        require(clip_boxes >= 0, "data.clip_boxes", "at least 0", clip_boxes)
        self.clip_boxes = clip_boxes
        self.flip = flip
        self.group_by_aspect_ratio = group_by_aspect_ratio
        self._read: dict[Split, CocoAnnotations] = {}

        require_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)

    def setup(self, stage: str) -> None:
        """Read and check the annotations of a stage, before a model is built on the device.

        Raises:
            FileNotFoundError: If a folder or an annotation file does not exist.
            ImportError: If msgspec or faster-coco-eval is needed and not installed.
            ValueError: If a path is not given, an annotation file cannot be used, images do not
                exist or their headers are damaged or have other sizes (the message lists all
                faults), or training and validation have different categories.
        """
        faults: list[str] = []
        for split in self._splits(stage):
            if split == "predict":
                self._images(self._path(split))
                continue
            existing_folder(self._path(split), f"data.{split}")
            try:
                self._annotations(split)
            except DataError as error:
                faults += error.faults
        self._require_images(stage, "leave them out of the annotations", faults)
        if stage == "fit" and self.paths["val"]:
            train, val = self._annotations("train"), self._annotations("val")
            ours, theirs = (
                set(zip(a.category_ids, a.class_names, strict=True)) for a in (train, val)
            )
            if differing := sorted(ours ^ theirs)[:5]:
                raise ValueError(
                    f"{train.path} and {val.path} have different categories: "
                    + ", ".join(f"{id_} {name}" for id_, name in differing)
                )

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label; None without annotations."""
        known = self._any_annotations()
        return known.class_names if known else None

    @property
    def category_ids(self) -> list[int] | None:
        """COCO's id of each label's category; None without annotations."""
        known = self._any_annotations()
        return known.category_ids if known else None

    @property
    def num_classes(self) -> int:
        """Number of categories.

        Raises:
            ValueError: If there are no annotations.
        """
        if known := self._any_annotations():
            return len(known.class_names)
        raise ValueError(
            "the classes are unknown: data.val_annotations, data.test_annotations or "
            "data.train_annotations must exist"
        )

    def train_dataloader(self) -> EpochLoader:
        """Shuffled training batches of this rank, from where a checkpoint stopped."""
        return self._resumed(self._loader("train"))

    def val_dataloader(self) -> CocoLoader | list[CocoLoader]:
        """Validation batches of this rank; an empty list without a validation set."""
        return self._loader("val") if self.paths["val"] else []

    def test_dataloader(self) -> CocoLoader:
        """Test batches of this rank."""
        return self._loader("test")

    def predict_dataloader(self) -> Any:
        """Batches of images alone, see `PredictionLoader`."""
        files = NumberedImages(self._images(self._path("predict")), self.exif)
        return self._prediction_loader(files, self.eval_batch_size, collate_images)

    def _image_check(self, split: Split) -> ImageCheck | None:
        if split == "predict":
            return super()._image_check(split)
        folder = existing_folder(self._path(split), f"data.{split}")
        return self._annotations(split).image_check(folder, self.exif)

    def _annotations(self, split: Split) -> CocoAnnotations:
        """Read and check the annotations of a split once; of training those that it uses."""
        if split not in self._read:
            name = f"data.{split}_annotations"
            if (file := self.annotation_files[split]) is None:
                raise ValueError(f"{name} is not set: give its path")
            # Imported here: it needs msgspec, which the options of a data module do not.
            from eca_lightning.detection.coco_json import read_annotations

            rank_zero_info(f"Reading {file}")
            found = read_annotations(file, self.masks, name, self.clip_boxes)
            if count := found.boxes_reaching_out():
                clipped = " and are clipped" if split == "train" else ""
                rank_zero_info(f"{file}: {count:,} boxes reach out of their images{clipped}")
            usable = found.for_training() if split == "train" else found
            if split == "train" and (left_out := found.left_out_of_training()):
                rank_zero_info(f"{file}: training leaves out annotations: {left_out}")
            if images := len(found) - len(usable):
                rank_zero_info(
                    f"{images:,} of {len(found):,} training images have no box to learn from and "
                    "are left out"
                )
            self._read[split] = usable
        return self._read[split]

    def _any_annotations(self) -> CocoAnnotations | None:
        """Return annotations that were read, or read the smallest file that exists."""
        if self._read:
            return next(iter(self._read.values()))
        for split, file in self.annotation_files.items():
            if file is not None and file.exists():
                return self._annotations(split)
        return None

    def _loader(self, split: Split) -> CocoLoader:
        """Build a loader of this rank and remember to close it."""
        train, trainer = split == "train", self.trainer
        known = self._annotations(split)
        grouped = train and self.group_by_aspect_ratio
        index_sampler = GroupedBatchSampler(
            samples=len(known),
            batch_size=self.batch_size if train else self.eval_batch_size,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            train=train,
            # overfit_batches trains on the same few batches in every epoch.
            shuffle=train and not getattr(trainer, "overfit_batches", 0),
            seed=self._run_seed(),
            groups=(known.sizes[:, 0] > known.sizes[:, 1]).astype(int) if grouped else None,
        )
        flip_seed = self._run_seed() if train and self.flip else None
        images = CocoImages(self._path(split), known, flip_seed, self.exif)
        loader = CocoLoader(
            images,
            index_sampler,
            self._workers(),
            pin_memory=self._device().type == "cuda",
            on_unreadable=self.on_unreadable,
        )
        self._loaders.append(loader)
        return loader
