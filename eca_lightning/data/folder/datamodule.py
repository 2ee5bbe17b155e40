"""The data module for folders of images, without FFCV."""

from pathlib import Path

from eca_lightning.data.datamodule import ClassificationDataModule, Split
from eca_lightning.data.folder.files import LabeledFiles, first_image_size, list_class_folders
from eca_lightning.data.folder.loader import FileDataset, FolderLoader


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

    def _load(self, source: LabeledFiles, split: Split) -> FolderLoader:
        crop = self.train_crop if split == "train" else self.eval_crop
        stored_size = first_image_size(source.paths, self.exif) if crop == "full" else None
        return FolderLoader(
            FileDataset(source.paths, source.labels, self._crop(split, stored_size), self.exif),
            self._index_sampler(len(source.paths), split),
            num_workers=self._workers(),
            pin_memory=self._device().type == "cuda",
        )
