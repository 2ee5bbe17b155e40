"""The data module of object detection: images annotated as COCO's."""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from eca_lightning.data.datamodule import NEEDED, Split
from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.data.folder.files import find_images
from eca_lightning.data.folder.predict_loader import OnUnreadable
from eca_lightning.data.resumable import ResumableDataModule
from eca_lightning.detection.annotations import CocoAnnotations
from eca_lightning.detection.dataset import (
    CocoImages,
    CocoLoader,
    GroupedBatchSampler,
    NumberedImages,
    collate_images,
)
from eca_lightning.utils.checks import require_at_least


class CocoDataModule(ResumableDataModule):
    """Images and the objects on them for training, validation, test and prediction.

    A batch is ``(images, targets)``, two lists. Images are uint8 of shape ``(3, H, W)``, of any
    sizes: detectors resize and normalize by themselves. A target holds ``image_id`` (int64, COCO's
    id), ``boxes`` (float32, ``(n, 4)``, XYXY in pixels), ``labels`` (int64, ``(n,)``, from 0:
    index into the categories sorted by id), ``area`` (float32, ``(n,)``), ``iscrowd`` (bool,
    ``(n,)``) and, if asked for, ``masks`` (uint8, ``(n, H, W)``). That of prediction holds
    ``image_id`` alone, the index of the file.

    Training leaves out crowds, degenerate boxes and images without any other, and clips boxes to
    their images; its epochs are shuffled by ``(seed, epoch)``, flips follow from ``(seed, epoch,
    image id)``, an interrupted epoch is resumed at its next batch, and images that do not fill a
    last batch on each rank are left to other epochs. Evaluation has everything that COCO's tools
    evaluate, each image exactly once on any number of ranks; batches that only fill up a rank have
    no images.

    Args:
        root: Folder from which relative paths of images and annotations start; the current one if
            None.
        train: Folder of training images.
        val: Folder of validation images; ``fit`` without one does not validate.
        test: Folder of test images.
        train_annotations: Annotation file of the training images, of COCO's format.
        val_annotations: Annotation file of the validation images.
        test_annotations: Annotation file of the test images.
        predict: Images without annotations: a folder, at any depth; a glob, in quotes; a .txt file
            with a path in each line; or one image.
        batch_size: Training images a rank takes at a time.
        eval_batch_size: The same for validation, test and prediction.
        num_workers: Decoding processes a rank, 0 decodes in the training process; the cores of the
            machine shared out among its ranks if None.
        masks: Whether targets hold masks.
        flip: Mirror training images horizontally, every other one at random.
        group_by_aspect_ratio: Whether training batches hold landscapes or portraits alone, which
            saves the padding to a common size, but for what is left over.
        on_unreadable: What prediction does about an image that cannot be read: ``skip`` it, say so
            and go on, or ``raise`` an error.
        seed: Seed of order and flips; that of seed_everything if None.

    Raises:
        ValueError: An option is out of range.
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
        seed: int | None = None,
    ) -> None:
        super().__init__(num_workers, seed, on_unreadable)
        below = root or Path()
        self.paths: dict[Split, Path | None] = {
            "train": train and below / train,
            "val": val and below / val,
            "test": test and below / test,
            "predict": predict,
        }
        self.annotation_files: dict[Split, Path | None] = {
            "train": train_annotations and below / train_annotations,
            "val": val_annotations and below / val_annotations,
            "test": test_annotations and below / test_annotations,
        }
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.masks = masks
        self.flip = flip
        self.group_by_aspect_ratio = group_by_aspect_ratio
        self._read: dict[Split, CocoAnnotations] = {}

        require_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)

    def setup(self, stage: str) -> None:
        """Read and check the annotations of a stage, before a model is built on the device.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            FileNotFoundError: A folder, an annotation file or an image does not exist.
            ImportError: Masks are asked for, and pycocotools is not installed.
            ValueError: A path is not given, an annotation file cannot be used, or two have
                different categories.
        """
        for split in NEEDED[stage]:
            if split == "predict":
                find_images(self._path(split, self.paths), "data.predict")
            elif stage != "fit" or split == "train" or self.paths[split]:
                folder = self._path(split, self.paths)
                self._annotations(split).require_images(folder, f"data.{split}")
        if stage == "fit" and self.paths["val"]:
            train, val = self._annotations("train"), self._annotations("val")
            ours, others = (
                dict(zip(part.category_ids, part.class_names, strict=True)) for part in (train, val)
            )
            if ours != others:
                differing = sorted(set(ours.items()) ^ set(others.items()))[:5]
                raise ValueError(
                    f"{train.path} and {val.path} have different categories: "
                    + ", ".join(f"{id_} {name}" for id_, name in differing)
                )

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label; None where no annotations are there."""
        known = self._any_annotations()
        return known.class_names if known else None

    @property
    def category_ids(self) -> list[int] | None:
        """COCO's id of each label's category; None where no annotations are there."""
        known = self._any_annotations()
        return known.category_ids if known else None

    @property
    def num_classes(self) -> int:
        """Number of categories.

        Raises:
            ValueError: No annotations are there.
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
        files = find_images(self._path("predict", self.paths), "data.predict")
        return self._prediction_loader(NumberedImages(files), self.eval_batch_size, collate_images)

    def _path(self, split: Split, paths: dict[Split, Path | None]) -> Path:
        path = paths[split]
        if path is None:
            option = f"data.{split}" + ("" if paths is self.paths else "_annotations")
            raise ValueError(f"{option} is not set: give its path")
        return path

    def _annotations(self, split: Split) -> CocoAnnotations:
        """The annotations of a split, of training those that it uses, read and checked once."""
        if split not in self._read:
            file = self._path(split, self.annotation_files)
            # Imported here: it needs msgspec, an extra, and the data module's options do not.
            from eca_lightning.detection.coco_json import read_annotations

            rank_zero_info(f"Reading {file}")
            found = read_annotations(file, self.masks, f"data.{split}_annotations")
            if split == "train":
                usable = found.for_training()
                if left_out := len(found) - len(usable):
                    rank_zero_info(
                        f"{left_out:,} of {len(found):,} training images have no box to learn "
                        "from and are left out"
                    )
                found = usable
            self._read[split] = found
        return self._read[split]

    def _any_annotations(self) -> CocoAnnotations | None:
        """The annotations that were read first, or else those that are there: of few images."""
        if self._read:
            return next(iter(self._read.values()))
        splits: tuple[Split, ...] = ("val", "test", "train")
        for split in splits:
            file = self.annotation_files[split]
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
            # overfit_batches means the same few batches in every epoch.
            shuffle=train and not getattr(trainer, "overfit_batches", 0),
            seed=self._run_seed(),
            groups=(known.sizes[:, 0] > known.sizes[:, 1]).astype(int) if grouped else None,
        )
        flip_seed = self._run_seed() if train and self.flip else None
        images = CocoImages(self._path(split, self.paths), known, flip_seed)
        loader = CocoLoader(images, index_sampler, self._workers(), self._device().type == "cuda")
        self._loaders.append(loader)
        return loader
