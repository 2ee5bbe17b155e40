"""Image files: read one as RGB, list many.

``name`` is the option that a path comes from; error messages begin with it.
"""

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
    """Read an image file; all modes become RGB as ``PIL.Image.convert("RGB")`` converts them.

    Raises:
        ValueError: If the file cannot be decoded; the message names it.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow raises anything from OSError to struct.error on bad bytes
        raise ValueError(f"cannot read the image {path}: {error}") from error


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an image file as an array of shape ``(height, width, 3)``, see `open_rgb`."""
    return np.asarray(open_rgb(path))


def first_image_size(paths: Sequence[Path]) -> tuple[int, int] | None:
    """Return the height and width of the first readable image file; None if there is none."""
    for path in paths:
        with suppress(ValueError):
            image = open_rgb(path)
            return image.height, image.width
    return None


def existing_folder(path: Path, name: str) -> Path:
    """Check that a path is a folder, and return it.

    Raises:
        FileNotFoundError: If it does not exist.
        NotADirectoryError: If it is a file.
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
    """List the images of a folder with one subfolder per class.

    Classes are sorted by name, images by path. Files with the extensions of torchvision's
    ImageFolder are listed, at any depth below the class folders; others are ignored.

    Raises:
        FileNotFoundError: If the folder does not exist.
        NotADirectoryError: If it is a file.
        ValueError: If there is no class folder, or a class folder contains no image.
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
        source: A folder, whose images at any depth are sorted by path; a glob, in which ``**``
            matches any number of folders, sorted too; an image; or a .txt file with one path per
            line, whose order is kept. Relative paths in it start at the current folder. Folders
            and globs list files with the extensions of torchvision's ImageFolder.
        name: See above.

    Raises:
        FileNotFoundError: If the source, or every file in a list, does not exist.
        ValueError: If there is no image, or the source is a file of another type.
    """
    known = ", ".join(IMG_EXTENSIONS)
    if source.is_dir():
        found: Iterable[Path] = source.rglob("*")
        lacks = "holds"
    elif source.is_file():
        if _is_image(source):
            return [source]
        if source.suffix == ".txt":
            return _read_list(source, name)
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


def _read_list(file: Path, name: str) -> list[Path]:
    """Read the paths in a list; missing ones are reported when they are opened."""
    # File names may not be UTF-8, and lists written on Windows begin with a byte order mark.
    lines = file.read_bytes().decode("utf-8-sig", "surrogateescape").split("\n")
    paths = [Path(line.rstrip("\r")) for line in lines if line.strip()]
    if not paths:
        raise ValueError(f"{name}: {file} names no image: write one path per line")
    if not any(path.is_file() for path in paths):
        raise FileNotFoundError(
            f"{name}: none of the {len(paths)} files in {file} exists, for example {paths[0]}; "
            "relative paths start at the current folder"
        )
    return paths
