"""Batches, from files to the device. FFCV is needed by FFCVDataModule and for writing, not here."""

from eca_lightning.data.augment import Augmentation, ColorJitter, RandomErasing
from eca_lightning.data.beton import BetonInfo, check_beton
from eca_lightning.data.coco import CocoDataModule
from eca_lightning.data.datamodule import ClassificationDataModule
from eca_lightning.data.fashion_coco import write_fashion_coco
from eca_lightning.data.fashion_mnist import write_fashion_mnist
from eca_lightning.data.ffcv_module import FFCVDataModule
from eca_lightning.data.folder_module import ImageFolderDataModule
from eca_lightning.data.image_folder import write_image_folder
from eca_lightning.data.inspection import info, verify
from eca_lightning.data.policies import RandAugment, TrivialAugment

__all__ = [
    "Augmentation",
    "BetonInfo",
    "ClassificationDataModule",
    "CocoDataModule",
    "ColorJitter",
    "FFCVDataModule",
    "ImageFolderDataModule",
    "RandAugment",
    "RandomErasing",
    "TrivialAugment",
    "check_beton",
    "info",
    "verify",
    "write_fashion_coco",
    "write_fashion_mnist",
    "write_image_folder",
]
