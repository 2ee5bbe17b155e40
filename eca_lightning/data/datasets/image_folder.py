"""The command ``data write image-folder``: folders of images to .beton files."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.ffcv.format import BetonInfo
from eca_lightning.data.ffcv.sidecar import Encoding, WriteMode, checksum
from eca_lightning.data.folder.files import (
    LabeledFiles,
    existing_folder,
    list_class_folders,
)
from eca_lightning.data.folder.image import Exif, read_rgb
from eca_lightning.utils.checks import DataError, printable
from eca_lightning.utils.reports import in_threads

if TYPE_CHECKING:
    from eca_lightning.data.ffcv.samples import StoredImage

SPLITS = ("train", "val")


@dataclass
class FolderSamples:
    """Labeled image files as samples to write."""

    files: LabeledFiles
    exif: Exif = "apply"

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files.paths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """RGB pixels of shape ``(height, width, 3)`` and the label."""
        return read_rgb(self.files.paths[index], self.exif), self.files.labels[index]

    def stored(self, index: int, encoding: Encoding) -> "tuple[StoredImage, int] | None":
        """Pack an upright JPEG file that need not be shrunk; None for others."""
        if encoding.mode != "packed":
            return None
        # Imported here: it needs FFCV, which the command's help does not.
        from eca_lightning.data.ffcv.packed.take_over import pack_file

        image = pack_file(self.files.paths[index], self.exif, encoding.max_resolution)
        return None if image is None else (image, self.files.labels[index])


def write_image_folder(
    source: Path,
    output: Path,
    max_resolution: int | None = None,
    mode: WriteMode = "jpg",
    quality: int = 90,
    num_workers: int | None = None,
    exif: Exif = "apply",
    on_error: Literal["abort", "skip"] = "abort",
    verify_source: bool = False,
    overwrite: bool = False,
) -> None:
    """Write images in class folders to a .beton, or those of train/ and val/ to one each.

    Classes are the folders' names in sorted order; they are stored beside the .beton, as
    <name>.beton.json. All images that Pillow reads are taken and become RGB; 16-bit gray is scaled
    from its full range. Hidden files are skipped; what is left out is counted in one line. A file
    appears under its name only when it is complete. One that is already there with the same
    settings, of files with the same names, sizes and times, is kept.

    Args:
        source: A folder of class folders, or one with train/ and val/ that hold class folders.
        output: The .beton to write; for train/ and val/ the folder for train.beton and val.beton.
        max_resolution: Shrink images whose longer side is above this many pixels (400 to 512 is
            usual for training at 224).
        mode: How to store images: jpg; packed (three times as fast to read as jpg, 40 % larger),
            which takes over JPEG files without loss; or raw pixels (several times larger).
        quality: JPEG quality, 1 to 100; in mode packed, of images that have to be decoded first.
        num_workers: Processes; by default one for each core.
        exif: Turn images upright as the orientation in their EXIF data says (apply), or ignore it.
        on_error: Images that cannot be read abort, once all of them are known, or are skipped and
            listed in the JSON file.
        verify_source: Note and compare what the image files hold, rather than their sizes and
            times; this reads them all.
        overwrite: Write again what is already there.
    """
    encoding = Encoding(mode, quality, max_resolution, exif)
    existing_folder(source, "source")
    if all((source / split).is_dir() for split in SPLITS):
        if output.suffix == ".beton":
            raise ValueError(
                f"output: {source} holds train/ and val/, so a folder is needed, not {output}"
            )
        parts = {output / f"{split}.beton": source / split for split in SPLITS}
    else:
        if output.suffix != ".beton":
            raise ValueError(
                f"output: {output} must end in .beton, because {source} does not hold both "
                "train/ and val/"
            )
        parts = {output: source}

    listed = {beton: list_class_folders(folder) for beton, folder in parts.items()}
    class_lists = [files.class_names for files in listed.values()]
    if class_lists[0] != class_lists[-1]:
        differing = sorted(set(class_lists[0]) ^ set(class_lists[-1]))
        raise ValueError(
            f"source: train/ and val/ of {source} must hold the same classes; only one of them "
            f"has {', '.join(differing[:5])}" + (", ..." if len(differing) > 5 else "")
        )
    # Imported here: it needs FFCV, which the command's help does not.
    from eca_lightning.data.ffcv.write import write_beton

    def write(beton: Path, files: LabeledFiles) -> list[str]:
        """Write a file, and return its faults, so that those of the other are found as well."""
        folder = parts[beton]
        try:
            info = write_beton(
                FolderSamples(files, exif),
                beton,
                class_names=files.class_names,
                source=printable(str(folder.resolve())),
                encoding=encoding,
                num_workers=num_workers,
                on_error=on_error,
                names=[str(path) for path in files.paths],
                fingerprint=fingerprint(files.paths, folder),
                hashed_fingerprint=fingerprint(files.paths, folder, True) if verify_source else "",
                overwrite=overwrite,
            )
        except DataError as error:
            return error.faults
        report(info)
        return []

    if faults := [fault for beton, files in listed.items() for fault in write(beton, files)]:
        raise DataError(faults, "replace them, or leave them out with --on_error skip")


def fingerprint(paths: Sequence[Path], root: Path, hashed: bool = False) -> str:
    """Return a SHA-256, in hexadecimal, that other names, sizes or times of files change.

    Args:
        paths: The files, below ``root``; of a folder of images, its folders are the classes.
        root: The folder.
        hashed: Take the content of each file in place of its size and time.
    """

    def describe(path: Path) -> bytes:
        try:
            status = path.stat()
            what = checksum(path) if hashed else f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:  # writing says what is wrong with it
            what = type(error).__name__
        name = str(path.relative_to(root)).encode("utf-8", "surrogateescape")
        return name + f"\0{what}\0".encode()

    digest = hashlib.sha256()
    for entry in in_threads(describe, paths, 16, f"Reading {root}"):
        digest.update(entry)
    return digest.hexdigest()


def report(info: BetonInfo) -> None:
    """Print the content of a .beton in one line."""
    skipped = len(info.sidecar.skipped) if info.sidecar else 0
    print(
        f"{info.path}: {info.samples:,} images in {info.num_classes} classes, "
        f"{info.bytes / 2**20:,.1f} MiB"
        + (f"; {skipped} unreadable images skipped, see {info.path}.json" if skipped else "")
    )
