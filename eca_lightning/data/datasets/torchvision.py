"""The commands ``data write torchvision`` and ``data write fashion-mnist``."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import random_split
from torchvision import datasets

from eca_lightning.data.datasets.write_files import fingerprint, report
from eca_lightning.data.ffcv.sidecar import Encoding, WriteMode
from eca_lightning.data.folder.image import Exif, to_rgb
from eca_lightning.utils.checks import require_known

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

SMALL_IMAGE = 96
"""Pixels of the longer side up to which images are stored raw by default."""

_WHOLE: dict[str, dict[str, Any]] = {}
_FLAG = {"train": {"train": True}, "val": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "val": {"split": "test"}}
_TRAIN_VAL_TEST = {split: {"split": split} for split in ("train", "val", "test")}
DATA_SETS: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(["CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST"], _FLAG),
    "USPS": _FLAG,
    **dict.fromkeys(["Food101", "GTSRB", "StanfordCars", "STL10", "SVHN"], _TRAIN_TEST),
    "OxfordIIITPet": _TRAIN_TEST | {"train": {"split": "trainval"}},
    **dict.fromkeys(["DTD", "FGVCAircraft", "Flowers102", "PCAM", "RenderedSST2"], _TRAIN_VAL_TEST),
    "Country211": _TRAIN_VAL_TEST | {"val": {"split": "valid"}},
    "Imagenette": {"train": {"split": "train"}, "val": {"split": "val"}},
    **dict.fromkeys(["Caltech101", "Caltech256", "EuroSAT", "SUN397"], _WHOLE),
}
"""The arguments of each data set for each .beton; none for data sets without splits."""

FILES = {
    **{name: f"{name}/raw" for name in ("KMNIST", "MNIST", "QMNIST")},
    **{name: name.lower() for name in ("Caltech101", "Caltech256", "Country211", "DTD", "EuroSAT")},
    **{name: name.lower() for name in ("GTSRB", "PCAM")},
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "FGVCAircraft": "fgvc-aircraft-2013b",
    "Flowers102": "flowers-102",
    "Food101": "food-101",
    "Imagenette": "imagenette2",
    "OxfordIIITPet": "oxford-iiit-pet",
    "RenderedSST2": "rendered-sst2",
    "STL10": "stl10_binary",
    "SUN397": "SUN397",
    "SVHN": "*_32x32.mat",
    "StanfordCars": "stanford_cars",
    "USPS": "usps*.bz2",
}
"""Where torchvision keeps the files of each data set below its root: a folder, or a glob of files.

For Fashion-MNIST, which is read here, see `read_fashion_mnist`."""

UNNAMED_CLASSES = {"Flowers102": 102, "GTSRB": 43, "PCAM": 2, "SVHN": 10, "USPS": 10}
"""Number of classes of the data sets that do not name them (Flowers102 since torchvision 0.22)."""


@dataclass
class PillowSamples:
    """Pairs of a Pillow image and a label as samples to write."""

    pairs: Any
    exif: Exif = "apply"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """RGB pixels of shape ``(height, width, 3)`` and the label."""
        image, label = self.pairs[index]
        return np.asarray(to_rgb(image, self.exif)), int(label)


def write_fashion_mnist(
    output: Path = Path("data/fashion_mnist"),
    source: Path | None = None,
    mode: WriteMode = "raw",
    quality: int = 90,
    num_workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write Fashion-MNIST as train.beton (60,000 images) and val.beton (10,000), gray as RGB.

    Files that are already there with the same settings are kept.

    Args:
        output: The folder to write to.
        source: A folder with the four IDX files; by default those of Debian's package
            dataset-fashion-mnist, or else a download by torchvision into the output folder.
        mode: How to store images: raw pixels (fastest to read), jpg, or packed.
        quality: JPEG quality, 1 to 100.
        num_workers: Processes; by default one for each core.
        overwrite: Write again what is already there.
    """
    write_torchvision(
        "FashionMNIST",
        output,
        source,
        download=True,
        mode=mode,
        quality=quality,
        num_workers=num_workers,
        overwrite=overwrite,
    )


def write_torchvision(
    name: str,
    output: Path | None = None,
    source: Path | None = None,
    download: bool = False,
    val_fraction: float | None = None,
    max_resolution: int | None = None,
    mode: WriteMode | None = None,
    quality: int = 90,
    exif: Exif = "apply",
    num_workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a classification data set of torchvision as train.beton, val.beton and test.beton.

    val.beton is the data set's validation split or, without one, its test split. Gray images become
    RGB. Files that are already there with the same settings, of source files with the same names,
    sizes and times, are kept.

    Args:
        name: Name of the data set, as in torchvision.datasets: CIFAR10, Food101, Flowers102, ...
        output: The folder to write to; data/<name> in lower case by default.
        source: The folder that torchvision's class calls root; the output folder by default. For
            FashionMNIST as in data write fashion-mnist.
        download: Let torchvision download what is missing into the source.
        val_fraction: Fraction of the images for val.beton, drawn at random, of a data set without
            splits (Caltech101, Caltech256, EuroSAT, SUN397).
        max_resolution: Shrink images whose longer side is above this many pixels.
        mode: How to store images: raw pixels, jpg, or packed (twice as fast to load as jpg,
            40 % larger); by default raw up to 96 pixels.
        quality: JPEG quality, 1 to 100.
        exif: Turn images upright as the orientation in their EXIF data says (apply), or ignore it.
        num_workers: Processes; by default one for each core.
        overwrite: Write again what is already there.
    """
    name = next((known for known in DATA_SETS if known.lower() == name.lower()), name)
    require_known(name, DATA_SETS, "torchvision data set")
    if DATA_SETS[name] and val_fraction is not None:
        raise ValueError(f"val_fraction: {name} has splits of its own; leave it out")
    if not DATA_SETS[name] and not 0 < (val_fraction or 0) < 1:
        raise ValueError(f"{name} has no splits: give a --val_fraction between 0 and 1")
    output = output or Path("data") / name.lower()
    title = name
    fingerprints: dict[str, str] = {}
    if name == "FashionMNIST":
        title, class_names = "Fashion-MNIST", datasets.FashionMNIST.classes
        arrays = read_fashion_mnist(source, output, download)
        splits: dict[str, Any] = {
            split: [(Image.fromarray(image), label) for image, label in zip(*pair, strict=True)]
            for split, pair in arrays.items()
        }
        for split, (images, labels) in arrays.items():
            fingerprints[split] = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    else:
        arguments = DATA_SETS[name] or {"train": {}}
        root = source or output
        splits = {split: _open(name, root, download, arguments[split]) for split in arguments}
        class_names = _class_names(splits["train"], name)
        fingerprints = dict.fromkeys(
            ("train", "val", "test"), fingerprint(_files(name, root), root)
        )
    if mode is None:
        mode = "raw" if max(splits["train"][0][0].size) <= SMALL_IMAGE else "jpg"
    encoding = Encoding(mode, quality, max_resolution, exif)
    if val_fraction is not None:
        title = f"{name} divided with val_fraction {val_fraction}"
        fractions, generator = [1 - val_fraction, val_fraction], torch.Generator().manual_seed(0)
        subsets = random_split(splits["train"], fractions, generator)
        splits = dict(zip(("train", "val"), subsets, strict=True))
    # Imported here: it needs FFCV, which the command's help does not.
    from eca_lightning.data.ffcv.write import write_beton

    for split, pairs in splits.items():
        info = write_beton(
            PillowSamples(pairs, exif),
            output / f"{split}.beton",
            class_names=class_names,
            source=f"{title}, {split}",
            encoding=encoding,
            num_workers=num_workers,
            fingerprint=fingerprints[split],
            overwrite=overwrite,
        )
        report(info)


def read_fashion_mnist(
    source: Path | None, output: Path, download: bool = True
) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Read Fashion-MNIST (arXiv 1708.07747) from IDX files, compressed or not.

    Args:
        source: The folder of the four files, or the one above torchvision's; if None, that of
            Debian's package dataset-fashion-mnist or, where that is missing, ``output``.
        output: The folder to download to.
        download: Whether to download the files if there is no source.

    Returns:
        For ``train`` and ``val`` images of shape ``(N, 28, 28)`` and labels of shape ``(N,)``.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is damaged.
    """
    if source is None and not DEBIAN.is_dir() and download:
        source = Path(datasets.FashionMNIST(str(output), download=True).raw_folder)
    source = source or (DEBIAN if DEBIAN.is_dir() else output)
    below = source / "FashionMNIST" / "raw"
    folder = below if below.is_dir() else source
    return {
        split: (
            _read_idx(folder / f"{prefix}-images-idx3-ubyte"),
            _read_idx(folder / f"{prefix}-labels-idx1-ubyte"),
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
        if download:
            root.mkdir(parents=True, exist_ok=True)
        return getattr(datasets, name)(str(root), download=download, **options)
    except Exception as error:  # each class has its own errors, for missing files as well
        hint = "" if download else "; give another --source, or --download true"
        raise ValueError(f"{name} cannot be read from {root} ({error}){hint}") from error


def _files(name: str, root: Path) -> list[Path]:
    """List the files of a data set, without hidden ones."""
    found = [path for place in root.glob(FILES[name]) for path in (place, *place.rglob("*"))]
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _class_names(dataset: Any, name: str) -> list[str]:
    """Take the class names from a data set; the first of each class where it has several."""
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    names = names or range(UNNAMED_CLASSES.get(name, 0))
    return [names_[0] if isinstance(names_, tuple) else str(names_) for names_ in names]
