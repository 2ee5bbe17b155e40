"""Image files: reading one as RGB, and listing those of a folder."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset


class LabelledFiles(NamedTuple):
    """The images of a folder of class folders."""

    class_names: list[str]
    paths: list[Path]
    labels: list[int]

    @property
    def num_classes(self) -> int:
        """Number of class folders."""
        return len(self.class_names)


def open_rgb(path: Path) -> Image.Image:
    """Read an image file as RGB.

    Grey, palette, CMYK, alpha and 16-bit images become RGB as ``PIL.Image.convert("RGB")`` does it.

    Args:
        path: The file.

    Returns:
        The decoded image in mode RGB.

    Raises:
        ValueError: The file cannot be decoded; the message names it.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow raises anything from OSError to struct.error on bad bytes
        raise ValueError(f"cannot read the image {path}: {error}") from error


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """:func:`open_rgb` as an array of shape ``(height, width, 3)``."""
    return np.asarray(open_rgb(path))


def image_size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image file in pixels.

    Raises:
        ValueError: The file cannot be decoded; the message names it.
    """
    image = open_rgb(path)
    return image.height, image.width


def existing_folder(path: Path, name: str) -> Path:
    """Check that a path is a folder.

    Args:
        path: The path.
        name: What the path is for, as the user calls it.

    Returns:
        The path.

    Raises:
        FileNotFoundError: It does not exist.
        NotADirectoryError: It is a file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{name}: {path} does not exist")
    if not path.is_dir():
        raise NotADirectoryError(
            f"{name}: {path} is a file, but a folder of images is needed "
            "(.beton files are read by FFCVDataModule)"
        )
    return path


def list_class_folders(root: Path, name: str = "source") -> LabelledFiles:
    """List the images of a folder that holds one folder for each class.

    Classes are sorted by name, images by path. Files are taken by their extension, those that
    torchvision's ImageFolder takes; others are ignored.

    Args:
        root: The folder of class folders; images may lie at any depth below them.
        name: What the folder is for, as the user calls it.

    Returns:
        Class names, paths and labels.

    Raises:
        FileNotFoundError: The folder does not exist.
        NotADirectoryError: It is a file.
        ValueError: There is no class folder, or a class folder holds no image.
    """
    existing_folder(root, name)
    try:
        class_names, class_to_label = find_classes(root)
    except FileNotFoundError as error:
        raise ValueError(f"{name}: {root} holds no class folders") from error
    files = make_dataset(root, class_to_label, IMG_EXTENSIONS, allow_empty=True)
    counts = np.bincount([label for _, label in files], minlength=len(class_names))
    if not counts.all():
        empty = [class_names[label] for label in np.flatnonzero(counts == 0)]
        raise ValueError(
            f"{name}: the class folder {root / empty[0]} holds no image"
            + (f", nor do {len(empty) - 1} others" if len(empty) > 1 else "")
            + f"; remove it, or add files ending in {', '.join(IMG_EXTENSIONS)}"
        )
    paths = [Path(path) for path, _ in files]
    return LabelledFiles(class_names, paths, [label for _, label in files])


def list_images(root: Path, name: str = "predict") -> list[Path]:
    """List the images of a folder at any depth, sorted by path.

    Args:
        root: The folder.
        name: What the folder is for, as the user calls it.

    Returns:
        The paths.

    Raises:
        FileNotFoundError: The folder does not exist.
        NotADirectoryError: It is a file.
        ValueError: It holds no image.
    """
    existing_folder(root, name)
    paths = [p for p in sorted(root.rglob("*")) if p.suffix.lower() in IMG_EXTENSIONS]
    if not paths:
        raise ValueError(
            f"{name}: {root} holds no image (no file ending in {', '.join(IMG_EXTENSIONS)})"
        )
    return paths
