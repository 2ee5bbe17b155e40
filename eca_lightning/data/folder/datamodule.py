"""The data module for folders of images, without FFCV."""

from pathlib import Path

from eca_lightning.data.datamodule import ClassificationDataModule
from eca_lightning.data.folder.files import LabeledFiles, image_size_of, list_class_folders
from eca_lightning.data.folder.loader import FileDataset, FolderLoader
from eca_lightning.data.transforms.crop import CropName


class ImageFolderDataModule(ClassificationDataModule):
    """Batches from image files, decoded by Pillow in processes: for machines without FFCV.

    ``train``, ``val`` and ``test`` are folders of class folders; ``predict`` is any images.
    Order, crops, flips and augmentations are those of FFCVDataModule over its .beton; the
    filter of the resize differs (bilinear with antialiasing here, by area there), by about one of
    256 levels on photographs. Options as in
    :class:`~eca_lightning.data.datamodule.ClassificationDataModule`; ``num_workers: 0`` decodes in
    the training process.
    """

    def _look_at(self, path: Path, name: str) -> LabeledFiles:
        return list_class_folders(path, name)

    def _load(self, source: LabeledFiles, name: str, crop: CropName, train: bool) -> FolderLoader:
        full_size = image_size_of(source.paths[0]) if crop == "full" else None
        return FolderLoader(
            FileDataset(source.paths, source.labels, self._crop(crop, train, full_size)),
            self._index_sampler(len(source.paths), train),
            num_workers=self._workers(),
            pin_memory=self._device().type == "cuda",
        )
