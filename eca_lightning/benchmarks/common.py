"""What the benchmarks share: progress bar, table, CSV file, spread, and the end of a process."""

import csv
import signal
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from eca_lightning.utils.atomic import atomic_write

Row = dict[str, Any]
"""A line of a CSV file; what was not measured is an empty text."""


def turns_bar() -> Progress:
    """A progress bar of turns, which is gone when they are done."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, transient=True)


def write_rows(rows: list[Row], path: Path) -> None:
    """Write a CSV file whose columns are the keys of the first row."""
    with atomic_write(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def results_table(title: str, caption: str) -> Table:
    """An empty table, narrow enough for a terminal of 80 columns."""
    return Table(
        title=escape(title),
        caption=escape(caption),
        box=SIMPLE,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )


def spread(name: str, values: list[float], digits: int) -> dict[str, str]:
    """Median, least and greatest of some values as three entries of a row; empty without values."""
    figures = (median(values), min(values), max(values)) if values else ()
    texts = [f"{figure:.{digits}f}" for figure in figures] or [""] * 3
    return dict(zip((name, f"{name}_min", f"{name}_max"), texts, strict=True))


def shown(figure: str, form: str = ",.0f") -> str:
    """A figure of a row for the table; nothing for nothing."""
    return figure and format(float(figure), form)


def how_it_ended(exit_code: int | None) -> str:
    """Say how a process ended from its exit code, which is negative after a signal."""
    if exit_code is None:
        return "does not answer"
    if exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"ended with status {exit_code}"
