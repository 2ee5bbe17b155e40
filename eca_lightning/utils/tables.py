"""Tables: printed in the console, formatted as Markdown, or written to files."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import Any

import rich.table
from rich.box import SIMPLE
from rich.markup import escape

from eca_lightning.utils.atomic import atomic_write

Columns = Mapping[str, type]
"""The type of each column: int, float or str."""

Row = dict[str, Any]
"""A value, or None, for each column."""

_ROWS_AT_A_TIME = 10_000


@dataclass(frozen=True)
class Table:
    """A table of text, to print with rich or to format as Markdown.

    Attributes:
        header: Titles of the columns. The first column is aligned left, the others right.
        sections: Rows by the heading above them; an empty heading is not shown.
        title: Printed above the table.
        caption: Printed below it.
    """

    header: Sequence[str]
    sections: Mapping[str, Sequence[Sequence[str]]]
    title: str = ""
    caption: str = ""

    @classmethod
    def from_rows(
        cls, rows: Sequence[Row], columns: Mapping[str, str], section: str = "", **texts: str
    ) -> "Table":
        """Format rows of values.

        Args:
            rows: A value, or None, for each column.
            columns: Title and format of each column, such as ``{"images/s": "{rate:,.0f}"}``. A
                cell is empty where one of its values is None, and an empty column is left out.
            section: Format of the heading under which a row is listed.
            **texts: Title and caption.
        """
        cells = {name: [_format_cell(text, row) for row in rows] for name, text in columns.items()}
        cells = {name: column for name, column in cells.items() if any(column)}
        sections: dict[str, list[list[str]]] = {}
        for row, *line in zip(rows, *cells.values(), strict=True):
            sections.setdefault(section.format_map(row), []).append(line)
        return cls(list(cells), sections, **texts)

    def markdown(self) -> str:
        """Format the header and the rows as a Markdown table."""
        empty = [""] * (len(self.header) - 1)
        lines = [self.header, ["---", *["---:"] * len(empty)]]
        for heading, rows in self.sections.items():
            lines += [[f"**{heading}**", *empty], *rows] if heading else rows
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "&#124;") for cell in line) + " |" for line in lines
        )

    def __rich__(self) -> rich.table.Table:
        table = rich.table.Table(
            title=escape(self.title),
            caption=escape(self.caption),
            caption_justify="left",
            box=SIMPLE,
            show_edge=False,
            padding=0,
        )
        for number, column in enumerate(self.header):
            table.add_column(escape(column), justify="right" if number else "left", no_wrap=True)
        for heading, rows in self.sections.items():
            table.add_section()
            if heading:
                table.add_row(f"[bold]{escape(heading)}")
            for row in rows:
                table.add_row(*map(escape, row))
        return table


def _format_cell(template: str, row: Row) -> str:
    names = [name for _, name, _, _ in Formatter().parse(template) if name]
    return "" if any(row[name] is None for name in names) else template.format_map(row)


def check_table(path: Path, option: str) -> None:
    """Check that a table could be written to the file that an option names.

    Raises:
        ValueError: If the suffix is none of .csv, .jsonl and .parquet.
        ImportError: If it is .parquet, and pyarrow is not installed.
    """
    if path.suffix not in _WRITERS:
        raise ValueError(f"{option}: unknown table format: let {path} end in {', '.join(_WRITERS)}")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ImportError(
            f"{option}: {path} needs pyarrow, which is missing: "
            "pip install 'eca-lightning[parquet]', or write a .csv or a .jsonl"
        )


def write_table(path: Path, columns: Columns, rows: Iterable[Row]) -> None:
    """Write a table atomically as .csv, .jsonl (one JSON object a line) or .parquet.

    None is an empty field in CSV, and null in the others. The rows are written in chunks.
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
    # Without a schema, a column that is all None would get the type null.
    schema = pyarrow.schema([(name, types[type_]) for name, type_ in columns.items()])
    rows = iter(rows)
    with ParquetWriter(path, schema) as writer:
        while chunk := list(islice(rows, _ROWS_AT_A_TIME)):
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema))


_WRITERS: dict[str, Callable[[Path, Columns, Iterable[Row]], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
