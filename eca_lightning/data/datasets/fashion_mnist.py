"""The command ``data write fashion-mnist``: 70,000 gray images of clothes, 28 x 28.

Xiao, Rasul and Vollgraf, "Fashion-MNIST", arXiv 1708.07747. Small enough to train on without a GPU.
"""

import gzip
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import FashionMNIST

from eca_lightning.data.datasets.image_folder import report
from eca_lightning.data.ffcv.sidecar import Encoding, WriteMode

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

SPLITS = {"train": "train", "val": "t10k"}


class GraySamples:
    """Gray images as RGB samples.

    Args:
        images: Pixels, uint8, of shape ``(N, height, width)``.
        labels: Labels of shape ``(N,)``.
    """

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Pixels of shape ``(height, width, 3)`` and the label."""
        return np.repeat(self.images[index, :, :, None], 3, axis=2), int(self.labels[index])


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a file in the IDX format of MNIST, compressed or not.

    Args:
        path: The file without ``.gz``; the compressed one is taken where only that is there.

    Returns:
        Its array of unsigned bytes.

    Raises:
        FileNotFoundError: Neither file exists.
        ValueError: It is no IDX file of bytes.
    """
    compressed = path.with_name(path.name + ".gz")
    if path.exists():
        content = path.read_bytes()
    elif compressed.exists():
        content = gzip.decompress(compressed.read_bytes())
    else:
        raise FileNotFoundError(f"source: neither {path} nor {compressed} exists")
    dimensions = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    shape = [int.from_bytes(content[4 * i : 4 * i + 4], "big") for i in range(1, dimensions + 1)]
    start = 4 + 4 * dimensions
    if not shape or len(content) != start + prod(shape):
        raise ValueError(f"source: {path} is not a whole IDX file of bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


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
        compress_probability: Share stored as JPEG in mode proportion.
        num_workers: Processes; by default one for each core.
        overwrite: Write again what is already there.
    """
    encoding = Encoding(mode, quality, compress_probability=compress_probability)
    # Imported here: it needs FFCV, which the command's help does not.
    from eca_lightning.data.ffcv.write import ensure_beton

    folder = source or (DEBIAN if DEBIAN.is_dir() else download(output))
    for split, prefix in SPLITS.items():
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte")
        info = ensure_beton(
            GraySamples(images, labels),
            output / f"{split}.beton",
            class_names=FashionMNIST.classes,
            source=f"Fashion-MNIST, {split}",
            encoding=encoding,
            num_workers=num_workers,
            overwrite=overwrite,
        )
        report(info)


def download(output: Path) -> Path:
    """Download the files with torchvision, unless they are there.

    Args:
        output: The folder below which torchvision puts them.

    Returns:
        The folder of the files.
    """
    return Path(FashionMNIST(str(output), download=True).raw_folder)
