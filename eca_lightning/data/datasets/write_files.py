"""Write labeled image files to .beton files, one for each split."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from eca_lightning.data.datasets.split import split_files
from eca_lightning.data.ffcv.format import BetonInfo
from eca_lightning.data.ffcv.sidecar import Encoding, WriteMode, checksum
from eca_lightning.data.folder.files import LabeledFiles
from eca_lightning.data.folder.image import Exif, read_rgb
from eca_lightning.utils.checks import DataError, printable
from eca_lightning.utils.reports import in_threads
from eca_lightning.utils.tables import Table

if TYPE_CHECKING:
    from eca_lightning.data.ffcv.samples import StoredImage

_FEW = 20
"""Images of a class below which a warning names it."""

_SHOWN_CLASSES = 30


@dataclass
class FileSamples:
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
        """Take over an upright JPEG file that need not be shrunk; None for others."""
        # Imported here: it needs FFCV, which the commands' help does not.
        from eca_lightning.data.ffcv.packed.take_over import keep_file, pack_file

        take_over = {"jpg": keep_file, "packed": pack_file}.get(encoding.mode)
        path = self.files.paths[index]
        image = take_over and take_over(path, self.exif, encoding.max_resolution)
        return (image, self.files.labels[index]) if image else None


def write_files(
    splits: Mapping[Path, LabeledFiles],
    roots: Mapping[Path, Path],
    source: str = "",
    max_resolution: int | None = None,
    mode: WriteMode = "jpg",
    quality: int = 90,
    num_workers: int | None = None,
    exif: Exif = "apply",
    on_error: Literal["abort", "skip"] = "abort",
    verify_source: bool = False,
    overwrite: bool = False,
) -> None:
    """Write labeled files, and print how many images of each class there are.

    Args:
        splits: The files of each .beton.
        roots: The folder that the files of each .beton lie in.
        source: How they were chosen, for the sidecar.
        max_resolution: Shrink images whose longer side is above this many pixels (400 to 512 is
            usual for training at 224).
        mode: How to store images: jpg, in which JPEG files that need not be shrunk, turned or
            converted to RGB stay as they are, byte for byte; packed (twice as fast to load as jpg,
            40 % larger), which takes over JPEG files without loss; or raw pixels (several
            times larger).
        quality: JPEG quality of all other images, 1 to 100.
        num_workers: Processes; by default one for each core.
        exif: Turn images upright as the orientation in their EXIF data says (apply), or ignore it.
        on_error: Images that cannot be read abort, once all of them are known, or are skipped and
            listed in the JSON file.
        verify_source: Note and compare what the image files hold, rather than their sizes and
            times; this reads them all.
        overwrite: Write again what is already there.

    Raises:
        DataError: If images cannot be read; the message lists them.
    """
    encoding = Encoding(mode, quality, max_resolution, exif)
    # Imported here: it needs FFCV, which the commands' help does not.
    from eca_lightning.data.ffcv.write import write_beton

    written: list[BetonInfo] = []

    def write(beton: Path, files: LabeledFiles) -> list[str]:
        """Write a file, and return its faults, so that those of the others are found as well."""
        root = roots[beton]
        try:
            info = write_beton(
                FileSamples(files, exif),
                beton,
                class_names=files.class_names,
                source=printable(str(root.resolve())) + source,
                encoding=encoding,
                num_workers=num_workers,
                on_error=on_error,
                names=[str(path) for path in files.paths],
                fingerprint=fingerprint(files.paths, root),
                hashed_fingerprint=fingerprint(files.paths, root, True) if verify_source else "",
                overwrite=overwrite,
            )
        except DataError as error:
            return error.faults
        report(info)
        written.append(info)
        return []

    if faults := [fault for beton, files in splits.items() for fault in write(beton, files)]:
        raise DataError(faults, "replace them, or leave them out with --on_error skip")
    _report_classes(written)


def write_splits(
    files: LabeledFiles,
    root: Path,
    output: Path,
    fractions: Mapping[str, float],
    seed: int,
    **options: Any,
) -> None:
    """Write files to a .beton or, if there are fractions, to one for each split.

    Args:
        files: The files.
        root: The folder that they lie in.
        output: The .beton, or the folder for train.beton and others.
        fractions: See `split_files`.
        seed: Seed of the split.
        **options: See `write_files`.

    Raises:
        ValueError: If the output does not fit.
    """
    require_output(
        output, bool(fractions), f"{root} is split" if fractions else "there is one split"
    )
    if not fractions:
        write_files({output: files}, {output: root}, **options)
        return
    parts = split_files(files, fractions, seed)
    chosen = ", ".join(f"{split} {fraction:g}" for split, fraction in fractions.items())
    splits = {output / f"{split}.beton": part for split, part in parts.items()}
    source = f" ({chosen}, seed {seed})"
    write_files(splits, dict.fromkeys(splits, root), source=source, **options)


def require_output(output: Path, is_folder: bool, why: str) -> None:
    """Raise a ValueError unless an output is a folder, or a .beton."""
    if is_folder and output.suffix == ".beton":
        raise ValueError(f"output: {why}, so a folder is needed, not {output}")
    if not is_folder and output.suffix != ".beton":
        raise ValueError(f"output: {output} must end in .beton, because {why}")


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


def _report_classes(betons: Sequence[BetonInfo]) -> None:
    """Print the number of images of each class, and name the classes with few."""
    names = betons[0].class_names or []
    counts = [np.bincount(info.labels, minlength=len(names)) for info in betons]
    if len(names) <= _SHOWN_CLASSES:
        header = ["class", *(info.path.stem for info in betons)]
        rows = [
            [printable(name), *(f"{part[label]:,}" for part in counts)]
            for label, name in enumerate(names)
        ]
        Console().print(Table(header, {"": rows}))
    else:
        print(f"images of a class: {counts[0].min():,} to {counts[0].max():,} in {betons[0].path}")
    few = [f"{printable(names[i])} ({counts[0][i]})" for i in np.flatnonzero(counts[0] < _FEW)]
    if few:
        more = f" and {len(few) - 10} others" if len(few) > 10 else ""
        print(
            f"warning: fewer than {_FEW} images in {betons[0].path.name} of "
            f"{', '.join(few[:10])}{more}: training may overlook them"
        )
