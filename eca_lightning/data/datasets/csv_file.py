"""The command ``data write csv``: images that a table labels, to .beton files."""

import csv as csv_files
import os.path
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from eca_lightning.data.datasets.write_files import require_output, write_files, write_splits
from eca_lightning.data.folder.files import LabeledFiles, existing_folder
from eca_lightning.utils.checks import DataError, printable

_SPLITS = ("train", "val", "test")
_COLUMNS = ("path", "label", "split")
_Row = tuple[Path, str, str]


def write_csv(
    csv: Path,
    output: Path,
    root: Path | None = None,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    **options: Any,
) -> None:
    """Write images that a CSV file lists with their labels to a .beton, or to one for each split.

    Its first line names the columns: path, label and, if it has the splits, split, whose values are
    train, val and test; others are ignored. Commas, semicolons or tabs separate them. Classes are
    the labels in sorted order, whole numbers by their values.

    Args:
        csv: The CSV file, in UTF-8.
        output: The .beton to write; for several splits the folder for train.beton, val.beton and
            test.beton.
        root: Folder at which relative paths start. Default: that of the CSV file.
        val_fraction: Without a column split, the fraction to validate on, chosen at random with
            that of each class; files of equal content are in one split.
        test_fraction: The fraction to test on, chosen in the same way.
        seed: Seed of the choice.
        **options: See `write_files`.

    Raises:
        DataError: If lines of the file are wrong; the message lists them.
        ValueError: If it has other columns, or options do not fit it.
    """
    root = existing_folder(root, "root") if root else csv.parent
    rows = _read(csv, root)
    names = sorted({label for _, label, _ in rows}, key=_order)
    given = {"val": val_fraction, "test": test_fraction}
    fractions = {split: value for split, value in given.items() if value is not None}
    splits = [split for split in _SPLITS if any(row[2] == split for row in rows)]
    if not splits:
        files = _files(rows, names, "")
        write_splits(files, _folder_of(files, root), output, fractions, seed, **options)
        return
    if fractions:
        raise ValueError(
            f"{'/'.join(fractions)}_fraction: {csv} has a column split already: leave it out"
        )
    require_output(output, True, f"{csv} has a column split")
    parts = {output / f"{split}.beton": _files(rows, names, split) for split in splits}
    roots = {beton: _folder_of(part, root) for beton, part in parts.items()}
    write_files(parts, roots, source="", **options)  # or it would be an option of the command


def _read(path: Path, root: Path) -> list[_Row]:
    """Return the absolute path, the label and the split of each line."""
    if not path.is_file():
        raise FileNotFoundError(f"csv: there is no file {path}")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"csv: {path} is not UTF-8 ({error}): save it as UTF-8") from error
    first = text.partition("\n")[0]
    reader = csv_files.DictReader(
        StringIO(text), delimiter=max(",;\t", key=first.count), skipinitialspace=True, strict=True
    )
    try:
        rows, faults = _parse(reader, path, root)
    except csv_files.Error as error:
        raise ValueError(f"csv: {path}, after line {reader.line_num}: {error}") from error
    if faults:
        raise DataError(faults)
    if not rows:
        raise ValueError(f"csv: {path} lists no image")
    return rows


def _parse(
    reader: "csv_files.DictReader[str]", path: Path, root: Path
) -> tuple[list[_Row], list[str]]:
    """Return the lines, and what is wrong with others."""
    columns = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = columns
    if missing := {"path", "label"} - set(columns):
        shown = ", ".join(map(repr, columns[:6])) or "nothing"
        raise ValueError(
            f"csv: {path} has no column {' and no column '.join(sorted(missing))}: let its first "
            f"line be path,label or path,label,split; it has {shown}"
        )
    if twice := [name for name in _COLUMNS if columns.count(name) > 1]:
        raise ValueError(f"csv: {path} has several columns {twice[0]}: rename all but one")
    rows: list[_Row] = []
    faults: list[str] = []
    seen: dict[str, int] = {}
    for cells in reader:
        values = {name: (cells.get(name) or "").strip() for name in _COLUMNS}
        file = (root / values["path"]).absolute()
        if fault := _fault(cells, values, "split" in columns, file, seen):
            faults.append(f"csv: {path}, line {reader.line_num}: {fault}")
            continue
        seen[os.path.realpath(file)] = reader.line_num
        rows.append((file, values["label"], values["split"]))
    return rows, faults


def _fault(
    cells: Mapping[Any, Any],
    values: Mapping[str, str],
    has_splits: bool,
    file: Path,
    seen: Mapping[str, int],
) -> str:
    """Return what is wrong with a line; empty if nothing is."""
    if None in cells:
        return "it has more columns than the first line: quote values that hold the separator"
    for name in ("path", "label"):
        if not values[name]:
            return f"its {name} is empty"
    if has_splits and values["split"] not in _SPLITS:
        return f"its split is '{values['split']}', and not one of {', '.join(_SPLITS)}"
    if not os.path.isfile(file):
        return f"there is no file {printable(str(file))}"
    line = seen.get(os.path.realpath(file))
    return f"{printable(values['path'])} is listed in line {line} already" if line else ""


def _order(label: str) -> tuple[bool, int, str]:
    number = label.isascii() and label.isdigit()
    return not number, int(label) if number else 0, label


def _files(rows: list[_Row], names: list[str], split: str) -> LabeledFiles:
    label_of = {name: label for label, name in enumerate(names)}
    chosen = [row for row in rows if row[2] == split]
    labels = [label_of[label] for _, label, _ in chosen]
    return LabeledFiles(names, [path for path, _, _ in chosen], labels)


def _folder_of(files: LabeledFiles, root: Path) -> Path:
    """Return the root, or of files outside of it the root of the file system."""
    inside = all(path.is_relative_to(root.absolute()) for path in files.paths)
    return root.absolute() if inside else Path("/")
