"""Image files: reading one as RGB, and listing many."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset


class LabeledFiles(NamedTuple):
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

    Gray, palette, CMYK, alpha and 16-bit images become RGB as ``PIL.Image.convert("RGB")`` does it.

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


def first_image_size(paths: Sequence[Path]) -> tuple[int, int] | None:
    """Height and width of the first image file that can be read; None if none can."""
    for path in paths:
        with suppress(ValueError):
            return image_size_of(path)
    return None


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


def list_class_folders(root: Path, name: str = "source") -> LabeledFiles:
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
    return LabeledFiles(class_names, paths, [label for _, label in files])


def find_images(source: Path, name: str = "predict") -> list[Path]:
    """List the images that a path stands for, without opening them.

    Args:
        source: A folder, whose images at any depth are sorted by path; a glob, in which ``**`` is
            any number of folders, sorted too; an image; or a .txt file with a path in each line,
            whose order is kept. Relative paths in it start at the current folder. Of folders and
            globs those files are taken that torchvision's ImageFolder takes, by their extension.
        name: What the images are for, as the user calls it.

    Returns:
        The paths.

    Raises:
        FileNotFoundError: The source does not exist, or nothing that a list names.
        ValueError: There is no image, or the source is a file of another kind.
    """
    known = ", ".join(IMG_EXTENSIONS)
    if source.is_dir():
        found: Iterable[Path] = source.rglob("*")
        lacks = "holds"
    elif source.is_file():
        if _is_image(source):
            return [source]
        if source.suffix == ".txt":
            return _listed(source, name)
        hint = "; .beton files are read by FFCVDataModule" if source.suffix == ".beton" else ""
        raise ValueError(
            f"{name}: {source} is neither a folder, nor an image ({known}), "
            f"nor a list of images (.txt){hint}"
        )
    elif any(sign in str(source) for sign in "*?["):
        found = map(Path, glob(str(source), recursive=True))
        lacks = "matches"
    else:
        raise FileNotFoundError(f"{name}: {source} does not exist")
    if not (images := sorted(filter(_is_image, found))):
        raise ValueError(f"{name}: {source} {lacks} no image (no file ending in {known})")
    return images


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMG_EXTENSIONS


def _listed(file: Path, name: str) -> list[Path]:
    """The files that a list names. Some may be missing, which shows when they are read."""
    # File names need not be UTF-8, and lists made on Windows begin with a mark.
    lines = file.read_bytes().decode("utf-8-sig", "surrogateescape").split("\n")
    paths = [Path(line.rstrip("\r")) for line in lines if line.strip()]
    if not paths:
        raise ValueError(f"{name}: {file} names no image: write a path in each line")
    if not any(path.is_file() for path in paths):
        raise FileNotFoundError(
            f"{name}: of the {len(paths)} files that {file} names none is there, {paths[0]} for "
            "one; relative paths start at the current folder"
        )
    return paths
