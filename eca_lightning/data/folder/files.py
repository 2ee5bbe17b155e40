"""List image files. ``name`` is the option that a path comes from; error messages begin with it."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import NamedTuple

from eca_lightning.data.folder.image import Exif, image_extensions, open_rgb
from eca_lightning.utils.checks import printable

_HIDDEN = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "lost+found"),
    *("$recycle.bin", "system volume information"),
}
"""Names, in lower case, of what file managers and file systems put beside a user's files."""


CHECKED = ".checked"
"""Ending of the hidden file beside a folder that remembers its good images, see `ImageCheck`."""


class LabeledFiles(NamedTuple):
    """The images of a folder of class folders."""

    class_names: list[str]
    paths: list[Path]
    labels: list[int]

    @property
    def num_classes(self) -> int:
        """Number of class folders."""
        return len(self.class_names)


@dataclass
class _Left:
    """What a listing leaves out."""

    hidden: list[str] = field(default_factory=list)
    linked_again: int = 0
    outside_classes: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def add_other(self, name: str) -> None:
        self.others[Path(name).suffix.lower() or "no extension"] += 1

    def __str__(self) -> str:
        """One line, or nothing."""
        parts = []
        if self.hidden:
            names = ", ".join(map(printable, dict.fromkeys(self.hidden[:3])))
            more = ", ..." if len(self.hidden) > 3 else ""
            parts.append(f"{len(self.hidden):,} hidden ({names}{more})")
        if self.outside_classes:
            parts.append(f"{self.outside_classes:,} outside the class folders")
        if self.linked_again:
            parts.append(f"{self.linked_again:,} linked folders that are listed already")
        if self.others:
            counts = ", ".join(f"{n:,} {printable(kind)}" for kind, n in self.others.most_common(8))
            more = ", ..." if len(self.others) > 8 else ""
            parts.append(f"{self.others.total():,} not images ({counts}{more})")
        return "; ".join(parts)

    def report(self, place: str) -> None:
        """Say what was left out, if anything, on rank zero."""
        if text := str(self):
            # Imported here: it takes seconds, and the commands' help does not need it.
            from lightning.pytorch.utilities import rank_zero_info

            rank_zero_info(f"{printable(place)}: left out {text}")


def first_image_size(paths: Sequence[Path], exif: Exif = "apply") -> tuple[int, int] | None:
    """Return the height and width of the first readable image file; None if there is none."""
    for path in paths:
        with suppress(ValueError):
            image = open_rgb(path, exif)
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

    Classes are sorted by name, images by path, as in torchvision's ImageFolder. Images are files
    with an extension of a format that Pillow reads, at any depth below the class folders, links
    followed. Hidden files and folders (``.ipynb_checkpoints``, ``._0.jpg``, ``__MACOSX``,
    ``Thumbs.db``) are skipped; what is left out is counted in one line of the log.

    Raises:
        FileNotFoundError: If the folder does not exist.
        NotADirectoryError: If it is a file.
        ValueError: If there is no class folder, a class folder contains no image, or its name is
            not UTF-8.
    """
    existing_folder(root, name)
    left = _Left()
    folders, images = _read_folder(root, left)
    left.outside_classes = len(images)
    class_names = sorted(folder.name for folder in folders)
    if not class_names:
        raise ValueError(f"{name}: {root} holds no class folders" + _left_out(left))
    if unnamed := [class_name for class_name in class_names if not _is_utf8(class_name)]:
        raise ValueError(
            f"{name}: the names of {len(unnamed)} class folders in {root} are not UTF-8: "
            f"{', '.join(map(printable, unnamed[:5]))}{', ...' * (len(unnamed) > 5)}; rename them, "
            f"for example with 'convmv -f latin1 -t utf8 -r --notest {root}'"
        )
    paths: list[Path] = []
    labels: list[int] = []
    empty = []
    for label, class_name in enumerate(class_names):
        found = sorted(_walk(root / class_name, left), key=lambda p: (str(p.parent), p.name))
        if not found:
            empty.append(class_name)
        paths += found
        labels += [label] * len(found)
    if empty:
        raise ValueError(
            f"{name}: the class folder {root / empty[0]} holds no image"
            + (f", nor do {len(empty) - 1} others" if len(empty) > 1 else "")
            + "; remove it, or add images"
            + _left_out(left)
        )
    left.report(f"{name}: {root}")
    return LabeledFiles(class_names, paths, labels)


def find_images(source: Path, name: str = "predict") -> list[Path]:
    """List the images that a path stands for, without opening them.

    Args:
        source: A folder, whose images at any depth are sorted by path, listed as by
            `list_class_folders`; a glob, in which ``**`` matches any number of folders, sorted
            too; an image; or a .txt file with one path per line, whose order is kept. Relative
            paths in it start at the current folder.
        name: See above.

    Raises:
        FileNotFoundError: If the source, or every file in a list, does not exist.
        ValueError: If there is no image, or the source is a file of another type.
    """
    left = _Left()
    if source.is_dir():
        images = sorted(_walk(source, left))
        lacks = "holds"
    elif source.is_file():
        if _is_image(source.name):
            return [source]
        if source.suffix == ".txt":
            return _read_list(source, name)
        hint = "; .beton files are read by FFCVDataModule" if source.suffix == ".beton" else ""
        raise ValueError(
            f"{name}: {source} is neither a folder, nor an image (.jpg, .png, ...), "
            f"nor a list of images (.txt){hint}"
        )
    elif any(sign in str(source) for sign in "*?["):
        images = sorted(_matching(source, left))
        lacks = "matches"
    else:
        raise FileNotFoundError(f"{name}: {source} does not exist")
    if not images:
        known = "no file ending in .jpg, .png, ..."
        raise ValueError(f"{name}: {source} {lacks} no image ({known}){_left_out(left)}")
    left.report(f"{name}: {source}")
    return images


def _walk(root: Path, left: _Left) -> Iterable[Path]:
    """Yield the images below a folder; each folder once, however many links lead to it."""
    waiting, seen = [root], set()
    while waiting:
        folder = waiting.pop()
        status = folder.stat()
        if (identity := (status.st_dev, status.st_ino)) in seen:
            left.linked_again += 1
            continue
        seen.add(identity)
        folders, images = _read_folder(folder, left)
        waiting += sorted(folders, key=lambda f: (not f.is_symlink(), f), reverse=True)
        yield from images


def _read_folder(folder: Path, left: _Left) -> tuple[list[Path], list[Path]]:
    """Return the folders and the images in a folder, and record the others."""
    folders, images = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(CHECKED):
                continue
            if _is_hidden(entry.name):
                left.hidden.append(entry.name)
            elif _is(entry, "is_dir"):
                folders.append(folder / entry.name)
            elif _is_image(entry.name) and (_is(entry, "is_file") or entry.is_symlink()):
                images.append(folder / entry.name)  # a broken link is named when it is read
            else:
                left.add_other(entry.name)
    return folders, images


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    try:
        return bool(getattr(entry, kind)())
    except OSError:  # a link to itself
        return False


def _matching(pattern: Path, left: _Left) -> Iterable[Path]:
    """Yield the images that a glob matches; what is hidden must be spelled out in the pattern."""
    for path in map(Path, glob(str(pattern), recursive=True)):
        if path.is_dir():
            continue
        if any(_is_hidden(part) and part not in pattern.parts for part in path.parts):
            left.hidden.append(path.name)
        elif _is_image(path.name):
            yield path
        else:
            left.add_other(path.name)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_extensions()


def _is_hidden(name: str) -> bool:
    return (name.startswith(".") and name != "..") or name.lower() in _HIDDEN


def _is_utf8(name: str) -> bool:
    return printable(name) == name


def _left_out(left: _Left) -> str:
    return f" (left out: {left})" if str(left) else ""


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
