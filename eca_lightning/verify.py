"""The command ``data verify``: decode all of a data set."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from eca_lightning.data.folder.check import ImageCheck
from eca_lightning.data.folder.files import existing_folder, find_images, list_class_folders
from eca_lightning.data.folder.image import Exif
from eca_lightning.utils.checks import DataError, require

_SPLITS = ("train", "val", "test")
_OUTLINE = re.compile(rb'"segmentation"\s*:\s*(\{|\[\s*[^\s\]])')


def verify(
    path: Path,
    images: Path | None = None,
    masks: bool | None = None,
    exif: Exif = "apply",
    num_workers: int = 4,
) -> None:
    """Decode every image of a data set, and list all that is wrong with it.

    Of .beton files counts and checksums are checked, too; of COCO's annotation files all entries,
    and whether their images are there and of the sizes that they say; of folders of classes whether
    each class has images, in train/ and in val/.

    Args:
        path: A .beton; an annotation file of COCO, .json; images as --data.predict takes them; or a
            folder: of .beton files, of class folders, of train/, val/ and test/ that hold them, or
            of images and annotations/instances_*.json.
        images: The folder of the images of an annotation file. By default, of the file
            annotations/instances_train.json, the folder train beside annotations.
        masks: Whether to check the masks of annotation files; by default of those that have some.
        exif: Apply the orientation in EXIF data before sizes are compared, or ignore it.
        num_workers: Threads.

    Raises:
        DataError: If anything is wrong; the message lists the first ten faults and their number.
    """
    require(num_workers > 0, "num_workers", "at least 1", num_workers)
    faults = []
    for check in _checks(path, images, masks, exif, num_workers):
        faults += _faults(check)
    if faults:
        raise DataError(faults)


def _checks(
    path: Path, images: Path | None, masks: bool | None, exif: Exif, threads: int
) -> list[Callable[[], None]]:
    """Return the checks of all parts of a data set."""
    # Imported here: it needs what reads .beton files.
    from eca_lightning.data.ffcv.verify import verify as verify_beton

    is_folder = path.is_dir()
    files = [path] if path.suffix == ".json" and not is_folder else []
    betons = [path] if path.suffix == ".beton" and not is_folder else []
    sets = [] if files or betons else [path]
    if is_folder:
        betons = sorted(path.glob("*.beton"))
        files = sorted(path.glob("annotations/instances_*.json"))
        splits = [path / split for split in _SPLITS if (path / split).is_dir()]
        sets = [] if files else splits or ([] if betons else [path])
    if images and len(files) != 1:
        raise ValueError(f"images: {path} is not one annotation file: leave --images out")
    checks: list[Callable[[], None]]
    checks = [partial(verify_beton, beton, threads) for beton in betons]
    checks += [partial(_verify_coco, file, images, masks, exif, threads) for file in files]
    if sets:
        checks.append(partial(_verify_folders, sets, exif, threads))
    return checks


def _faults(check: Callable[[], None]) -> list[str]:
    try:
        check()
    except DataError as error:
        return error.faults
    except ValueError as error:
        return [str(error)]
    return []


def _verify_folders(folders: list[Path], exif: Exif, threads: int) -> None:
    faults: list[str] = []
    classes: dict[str, list[str]] = {}
    for folder in folders:
        paths = _list(folder, classes, faults)
        found = ImageCheck(paths, exif=exif).by_pixels(str(folder), threads)
        faults += found
        if not found:
            print(f"{folder}: all {len(paths):,} images are good")
    first, *others = classes.items() or [("", [])]
    for name, names in others:
        if differing := sorted(set(names) ^ set(first[1])):
            faults.append(f"{first[0]} and {name} have different classes: {differing[:5]}")
    if faults:
        raise DataError(faults)


def _list(folder: Path, classes: dict[str, list[str]], faults: list[str]) -> list[Path]:
    """List the images of a folder; record its classes, if it has some, or what is wrong."""
    if folder.is_dir() and any(part.is_dir() for part in folder.glob("[!.]*")):
        try:
            files = list_class_folders(folder, "path")
            classes[str(folder)] = files.class_names
            return files.paths
        except ValueError as error:
            faults.append(str(error))
    return find_images(folder, "path")


def _verify_coco(
    file: Path, images: Path | None, masks: bool | None, exif: Exif, threads: int
) -> None:
    # Imported here: it needs msgspec, which other data do not.
    from eca_lightning.detection.coco_json import read_annotations

    if not file.is_file():
        raise FileNotFoundError(f"path: {file} does not exist")
    folder = images or file.absolute().parents[1] / file.stem.removeprefix("instances_")
    existing_folder(folder, "images")
    if masks is None:
        masks = bool(_OUTLINE.search(file.read_bytes()))
    faults: list[str] = []
    try:
        check = read_annotations(file, masks, "path").image_check(folder, exif)
    except DataError as error:
        faults = error.faults
        check = ImageCheck(find_images(folder, "images"), exif=exif)  # whatever they are said to be
    faults += check.by_pixels(str(folder), threads)
    if faults:
        raise DataError(faults)
    print(f"{file}: all annotations and {len(check.paths):,} images are good")
