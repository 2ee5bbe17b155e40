"""The data module for folders of images, without FFCV."""

from pathlib import Path
from typing import Any

from eca_lightning.data.datamodule import ClassificationDataModule
from eca_lightning.data.folder.check import ImageCheck
from eca_lightning.data.folder.files import LabeledFiles, first_image_size, list_class_folders
from eca_lightning.data.folder.loader import FileDataset, FolderLoader
from eca_lightning.data.resumable import Split


class ImageFolderDataModule(ClassificationDataModule):
    """Batches of image files, decoded by Pillow in processes: for machines without FFCV.

    ``train``, ``val`` and ``test`` are folders of class folders; ``predict`` is any images.
    Samples, crops, flips and augmentations equal those of FFCVDataModule on the same images; the
    resize filter differs (bilinear with antialiasing here, area there), by about one of 256 levels
    on photographs. Options as in
    :class:`~eca_lightning.data.datamodule.ClassificationDataModule`; ``num_workers: 0`` decodes in
    the training process.
    """

    def _inspect(self, path: Path, name: str) -> LabeledFiles:
        return list_class_folders(path, name)

    def _image_check(self, split: Split) -> ImageCheck | None:
        if split == "predict":
            return super()._image_check(split)
        source: Any = self._source(split)
        dataset = self._dataset(source, split)
        crop, count = dataset.crop, len(dataset)
        sizes = [(crop.height, crop.width)] * count if dataset.same_size else None
        return ImageCheck(source.paths, self._path(split), self.exif, sizes, dataset.wrong_size)

    def _dataset(self, source: LabeledFiles, split: Split) -> FileDataset:
        crop = self._crop(split, lambda: self._stored_size(source))
        same_size = self._full_size(split) is None
        return FileDataset(source.paths, source.labels, crop, self.exif, same_size)

    def _stored_size(self, source: LabeledFiles) -> tuple[int, int] | None:
        return first_image_size(source.paths, self.exif)

    def _load(self, source: LabeledFiles, split: Split) -> FolderLoader:
        return FolderLoader(
            self._dataset(source, split),
            self._index_sampler(len(source.paths), split),
            num_workers=self._workers(),
            pin_memory=self._device().type == "cuda",
            on_unreadable=self.on_unreadable,
        )
