"""The command ``data write image-folder``: folders of images to .beton files."""

from pathlib import Path
from typing import Any

from eca_lightning.data.datasets.write_files import require_output, write_files, write_splits
from eca_lightning.data.folder.files import existing_folder, list_class_folders

SPLITS = ("train", "val")
_OF_SPLITS = {*SPLITS, "valid", "validation", "test"}


def write_image_folder(
    source: Path,
    output: Path,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    **options: Any,
) -> None:
    """Write images in class folders to a .beton, or those of train/, val/ and test/ to one each.

    Classes are the folders' names in sorted order; they are stored beside the .beton, as
    <name>.beton.json, with the number of images of each. All images that Pillow reads are taken and
    become RGB; 16-bit gray is scaled from its full range. Hidden files are skipped; what is left
    out is counted in one line. A file appears under its name only when it is complete. One that is
    already there with the same settings, of files with the same names, sizes and times, is kept.

    Args:
        source: A folder of class folders, or one with train/ and val/, and perhaps test/, that hold
            class folders.
        output: The .beton to write; for several splits the folder for train.beton, val.beton and
            test.beton.
        val_fraction: Of a folder of class folders, the fraction to validate on, chosen at random
            with that of each class; files of equal content are in one split.
        test_fraction: The fraction to test on, chosen in the same way.
        seed: Seed of the choice.
        **options: See `write_files`.
    """
    existing_folder(source, "source")
    given = {"val": val_fraction, "test": test_fraction}
    fractions = {split: value for split, value in given.items() if value is not None}
    if not all((source / split).is_dir() for split in SPLITS):
        files = list_class_folders(source)
        if found := [name for name in files.class_names if name.lower() in _OF_SPLITS]:
            names = " and ".join(f"{name}/" for name in found)
            raise ValueError(
                f"source: {source} holds {names} and not both of train/ and val/: give them these "
                "names, or one of them as the source, with --val_fraction"
            )
        write_splits(files, source, output, fractions, seed, **options)
        return
    if fractions:
        raise ValueError(
            f"{'/'.join(fractions)}_fraction: {source} holds train/ and val/ already: leave it out"
        )
    require_output(output, True, f"{source} holds train/ and val/")
    folders = {split: source / split for split in SPLITS}
    if any(part.is_dir() for part in (source / "test").glob("[!.]*")):  # images without classes?
        folders["test"] = source / "test"
    listed = {split: list_class_folders(folder) for split, folder in folders.items()}
    classes = listed["train"].class_names
    for split, files in listed.items():
        if differing := sorted(set(classes) ^ set(files.class_names)):
            raise ValueError(
                f"source: train/ and {split}/ of {source} must hold the same classes; only one of "
                f"them has {', '.join(differing[:5])}" + (", ..." if len(differing) > 5 else "")
            )
    betons = {split: output / f"{split}.beton" for split in folders}
    write_files(
        {betons[split]: files for split, files in listed.items()},
        {betons[split]: folder for split, folder in folders.items()},
        **options,
    )
