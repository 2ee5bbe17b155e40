"""Tables as files, in the format that the name of the file tells."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from eca_lightning.utils.atomic import atomic_write

Columns = Mapping[str, type]
"""The type of each column: int, float or str."""

Row = dict[str, Any]
"""A value, or None, for each column."""

_ROWS_AT_A_TIME = 10_000


def check_table(path: Path, option: str) -> None:
    """Refuse the name of a table that could not be written.

    Args:
        path: The file.
        option: What gave the name, as the user calls it.

    Raises:
        ValueError: If the name ends neither in .csv, nor in .jsonl, nor in .parquet.
        ImportError: If it ends in .parquet, and pyarrow is not installed.
    """
    if path.suffix not in _WRITERS:
        raise ValueError(
            f"{option}: the name of the file tells its format: "
            f"let {path} end in {', '.join(_WRITERS)}"
        )
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ImportError(
            f"{option}: {path} needs pyarrow, which is missing: "
            "pip install 'eca-lightning[parquet]', or write a .csv or a .jsonl"
        )


def write_table(path: Path, columns: Columns, rows: Iterable[Row]) -> None:
    """Write a table, whole or not at all.

    Args:
        path: The file, .csv, .jsonl (one JSON object a line) or .parquet. None is an empty field in
            CSV, and null in the others.
        columns: Names and types of the columns, in their order.
        rows: The rows; not all of them are held in memory.
    """
    with atomic_write(path) as part:
        _WRITERS[path.suffix](part, columns, rows)


def _write_csv(path: Path, columns: Columns, rows: Iterable[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(path: Path, columns: Columns, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_parquet(path: Path, columns: Columns, rows: Iterable[Row]) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    types = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    # A column of nothing but None would have a type of its own without it.
    schema = pyarrow.schema([(name, types[type_]) for name, type_ in columns.items()])
    rows = iter(rows)
    with ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, _ROWS_AT_A_TIME)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema))


_WRITERS: dict[str, Callable[[Path, Columns, Iterable[Row]], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
