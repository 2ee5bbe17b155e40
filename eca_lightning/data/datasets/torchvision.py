"""The commands ``data write torchvision`` and ``data write fashion-mnist``.

Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747), small enough to train on without a GPU,
is also read from the files of Debian's package dataset-fashion-mnist.
"""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import random_split
from torchvision import datasets

from eca_lightning.data.datasets.image_folder import report
from eca_lightning.data.ffcv.sidecar import Encoding, WriteMode
from eca_lightning.utils.checks import require_known

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

SMALL_IMAGE = 96
"""Pixels of the longer side up to which images are stored raw by default."""


class DataSet(NamedTuple):
    """What a torchvision data set does not say of itself in one way.

    Args:
        splits: For each .beton the arguments of its split. Empty if the data set is not divided.
        num_classes: Number of classes if they have no names.
    """

    splits: dict[str, dict[str, Any]]
    num_classes: int = 0


_FLAG = {"train": {"train": True}, "val": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "val": {"split": "test"}}
_TRAIN_VAL_TEST = {split: {"split": split} for split in ("train", "val", "test")}
DATA_SETS = {
    "Caltech101": DataSet({}),
    "Caltech256": DataSet({}),
    "CIFAR10": DataSet(_FLAG),
    "CIFAR100": DataSet(_FLAG),
    "Country211": DataSet(_TRAIN_VAL_TEST | {"val": {"split": "valid"}}),
    "DTD": DataSet(_TRAIN_VAL_TEST),
    "EuroSAT": DataSet({}),
    "FashionMNIST": DataSet(_FLAG),
    "FGVCAircraft": DataSet(_TRAIN_VAL_TEST),
    "Flowers102": DataSet(_TRAIN_VAL_TEST, 102),
    "Food101": DataSet(_TRAIN_TEST),
    "GTSRB": DataSet(_TRAIN_TEST, 43),
    "Imagenette": DataSet({"train": {"split": "train"}, "val": {"split": "val"}}),
    "KMNIST": DataSet(_FLAG),
    "MNIST": DataSet(_FLAG),
    "OxfordIIITPet": DataSet(_TRAIN_TEST | {"train": {"split": "trainval"}}),
    "PCAM": DataSet(_TRAIN_VAL_TEST, 2),
    "QMNIST": DataSet(_FLAG),
    "RenderedSST2": DataSet(_TRAIN_VAL_TEST),
    "StanfordCars": DataSet(_TRAIN_TEST),
    "STL10": DataSet(_TRAIN_TEST),
    "SUN397": DataSet({}),
    "SVHN": DataSet(_TRAIN_TEST, 10),
    "USPS": DataSet(_FLAG, 10),
}
"""The data sets that can be written; what torchvision calls test is val where there is no other."""


@dataclass
class PillowSamples:
    """Pairs of a Pillow image and a label as samples to write."""

    pairs: Any

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """RGB pixels of shape ``(height, width, 3)`` and the label."""
        image, label = self.pairs[index]
        return np.asarray(image.convert("RGB")), int(label)


def write_torchvision(
    name: str,
    output: Path | None = None,
    root: Path | None = None,
    download: bool = False,
    val_fraction: float | None = None,
    max_resolution: int | None = None,
    mode: WriteMode | None = None,
    quality: int = 90,
    compress_probability: float = 0.5,
    num_workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a classification data set of torchvision as train.beton, val.beton and test.beton.

    val.beton is the data set's validation split or, without one, its test split. Gray images become
    RGB. Files that are already there with the same settings are kept.

    Args:
        name: Name of the data set, as in torchvision.datasets: CIFAR10, Food101, Flowers102, ...
        output: The folder to write to; data/<name> in lower case by default.
        root: The folder with the data set's files, laid out as torchvision's class expects them;
            the output folder by default.
        download: Let torchvision download the files into root.
        val_fraction: Fraction of the images for val.beton, drawn at random, of a data set that is
            not divided (Caltech101, Caltech256, EuroSAT, SUN397).
        max_resolution: Shrink images whose longer side is above this many pixels.
        mode: How to store images: raw pixels, jpg, or proportion; by default raw if they have at
            most 96 pixels, else jpg.
        quality: JPEG quality, 1 to 100.
        compress_probability: Fraction stored as JPEG in mode proportion.
        num_workers: Processes; by default one for each core.
        overwrite: Write again what is already there.
    """
    name = next((known for known in DATA_SETS if known.lower() == name.lower()), name)
    require_known(name, DATA_SETS, "torchvision data set")
    is_divided = bool(DATA_SETS[name].splits)
    if is_divided and val_fraction is not None:
        raise ValueError(f"val_fraction: {name} has a split of its own; leave it out")
    if not is_divided and not 0 < (val_fraction or 0) < 1:
        raise ValueError(f"{name} has no split of its own: give a --val_fraction between 0 and 1")
    output = output or Path("data") / name.lower()
    root = root or output
    if download:
        root.mkdir(parents=True, exist_ok=True)
    splits = {
        split: _open(name, root, download, options)
        for split, options in (DATA_SETS[name].splits or {"train": {}}).items()
    }
    train = splits["train"]
    names = getattr(train, "classes", None) or getattr(train, "categories", None)
    names = names or range(DATA_SETS[name].num_classes)
    if mode is None:
        mode = "raw" if max(train[0][0].size) <= SMALL_IMAGE else "jpg"
    title = name
    if val_fraction is not None:
        parts = [1 - val_fraction, val_fraction]
        subsets = random_split(train, parts, torch.Generator().manual_seed(0))
        splits = dict(zip(("train", "val"), subsets, strict=True))
        title = f"{name} divided with val_fraction {val_fraction}"
    # Imagenette has several names for a class.
    class_names = [part[0] if isinstance(part, tuple) else str(part) for part in names]
    encoding = Encoding(mode, quality, max_resolution, compress_probability)
    _write(splits, title, class_names, output, encoding, num_workers, overwrite)


def write_fashion_mnist(
    output: Path = Path("data/fashion_mnist"),
    source: Path | None = None,
    mode: WriteMode = "raw",
    quality: int = 90,
    compress_probability: float = 0.5,
    num_workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write Fashion-MNIST as train.beton (60,000 images) and val.beton (10,000), gray as RGB.

    Files that are already there with the same settings are kept.

    Args:
        output: The folder to write to.
        source: A folder with the four IDX files; by default those of Debian's package
            dataset-fashion-mnist, or else a download by torchvision into the output folder.
        mode: How to store images: raw pixels (fastest to read), jpg, or proportion.
        quality: JPEG quality, 1 to 100.
        compress_probability: Fraction stored as JPEG in mode proportion.
        num_workers: Processes; by default one for each core.
        overwrite: Write again what is already there.
    """
    encoding = Encoding(mode, quality, compress_probability=compress_probability)
    splits = {
        split: [(Image.fromarray(image), label) for image, label in zip(*arrays, strict=True)]
        for split, arrays in read_fashion_mnist(source, output).items()
    }
    names = datasets.FashionMNIST.classes
    _write(splits, "Fashion-MNIST", names, output, encoding, num_workers, overwrite)


def read_fashion_mnist(
    source: Path | None, output: Path
) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Read Fashion-MNIST's IDX files, compressed or not.

    Args:
        source: The folder of the four files; Debian's if None.
        output: The folder to download to if the source is None and Debian's files are not there.

    Returns:
        For ``train`` and ``val`` images of shape ``(N, 28, 28)`` and labels of shape ``(N,)``.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is damaged.
    """
    if source is None and DEBIAN.is_dir():
        source = DEBIAN
    elif source is None:
        source = Path(datasets.FashionMNIST(str(output), download=True).raw_folder)
    return {
        split: (
            _read_idx(source / f"{prefix}-images-idx3-ubyte"),
            _read_idx(source / f"{prefix}-labels-idx1-ubyte"),
        )
        for split, prefix in (("train", "train"), ("val", "t10k"))
    }


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a file of unsigned bytes in MNIST's format, or the .gz beside its path."""
    compressed = path.with_name(path.name + ".gz")
    if not path.exists() and not compressed.exists():
        raise FileNotFoundError(f"source: neither {path} nor {compressed} exists")
    try:
        content = path.read_bytes() if path.exists() else gzip.decompress(compressed.read_bytes())
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)
    except (IndexError, ValueError, EOFError, OSError, zlib.error):
        raise ValueError(f"source: {path} is not a whole IDX file of bytes") from None


def _open(name: str, root: Path, download: bool, options: dict[str, Any]) -> Any:
    """Open a split of a torchvision data set."""
    try:
        return getattr(datasets, name)(str(root), download=download, **options)
    except Exception as error:  # each class has its own errors, for missing files as well
        hint = "" if download else "; give another --root, or --download true"
        raise ValueError(f"{name} cannot be read from {root} ({error}){hint}") from error


def _write(
    splits: dict[str, Any],
    title: str,
    class_names: Sequence[str],
    output: Path,
    encoding: Encoding,
    num_workers: int | None,
    overwrite: bool,
) -> None:
    """Write the pairs of images and labels of each split to a .beton."""
    # Imported here: it needs FFCV, which the command's help does not.
    from eca_lightning.data.ffcv.write import ensure_beton

    for split, pairs in splits.items():
        info = ensure_beton(
            PillowSamples(pairs),
            output / f"{split}.beton",
            class_names=class_names,
            source=f"{title}, {split}",
            encoding=encoding,
            num_workers=num_workers,
            overwrite=overwrite,
        )
        report(info)
